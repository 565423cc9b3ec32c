"""The journal: every suggestion, result and decision of a run, in order; the source of truth.

One JSON object a line, `journal/events.jsonl`, appended and flushed before anything else happens
with the event, so a driver may be killed at any moment. Only one process writes at a time. In an
object store the same lines lie in numbered segments; `object_log.py` says what is there when.

What each kind of event carries is in `events.py`, what they come to in `history.py`.
"""

import dataclasses
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import filelock

from raynas.errors import JournalError, StorageError
from raynas.record.events import (
    Event,
    Reported,
    Retraining,
    Scored,
    Searched,
    Selecting,
    SupernetTrained,
    from_json,
)
from raynas.record.folder import RunFolder
from raynas.record.lease import Lease
from raynas.record.object_log import ObjectLog, read_segments
from trials.places import as_os_errors, is_local

_SYNC_SECONDS = 1.0  # at most this much is lost when the machine itself goes down

# What a checkpoint has too, or takes milliseconds: where these are lost, they come again.
_OF_CHECKPOINTS = (Reported, Retraining, Scored, Searched, Selecting, SupernetTrained)

Listener = Callable[[Event], None]


class Journal:
    """Appends events to a run folder that no other process may write meanwhile.

    Args:
        folder: the run folder; made if missing.
        prompt: in an object store, whether everything but the progress of a training is there
            before anything else happens; else it may take a second.

    Raises:
        StorageError: when the folder cannot be written, or another process holds it.
        JournalError: when a line before the last cannot be read.
    """

    def __init__(self, folder: Path, prompt: bool = True):
        self.path = RunFolder(folder).events
        #: called with every event, after it has been recorded, in this order
        self.listeners: list[Listener] = []
        #: what had to be mended on opening, for the user
        self.notice: str | None = None
        self._log: FileLog | ObjectLog
        if is_local(folder):
            self._log = FileLog(folder)
        else:
            self._log = ObjectLog(folder, prompt)
        try:
            self.events = self._recover()
        except BaseException:
            self._log.close()
            raise

    def append(self, event: Event) -> None:
        """Record an event and tell the listeners.

        By then it has reached the operating system, or the object store.
        """
        event = dataclasses.replace(event, time=round(time.time(), 3))
        line = json.dumps(event.to_json()).encode() + b"\n"
        self._log.append(line, at_once=not isinstance(event, _OF_CHECKPOINTS))
        for listener in self.listeners:
            listener(event)

    def close(self) -> None:
        """Let another process write."""
        self._log.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _recover(self) -> list[Event]:
        """Return the events so far; cut off a last line that a crash left incomplete."""
        content, self._log.content = self._log.content, b""
        events, end = _parse(content, self.path)
        if end < len(content):
            self._log.cut(end)
            self.notice = (
                f"The last line of {self.path} was incomplete and has been removed;"
                f" {len(events)} events are intact."
            )
        return events


class FileLog:
    """Appends lines to the journal in a file, behind a lock.

    Args:
        folder: the run folder; made if missing.

    Raises:
        StorageError: when the folder cannot be written, or another process holds it.
    """

    def __init__(self, folder: Path):
        self._path = RunFolder(folder).events
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(RunFolder(folder).lock)
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StorageError(
                f"The run folder {folder} is in use by another process. Wait for it to end,"
                " or choose another name."
            ) from None
        except OSError as error:
            raise StorageError(
                f"The run folder {folder} cannot be written ({error}). Choose another storage_path."
            ) from error
        try:
            #: the lines so far
            self.content = self._path.read_bytes() if self._path.exists() else b""
            self._file = self._path.open("ab")
        except BaseException:
            self._lock.release()
            raise
        self._synced = time.monotonic()

    def append(self, line: bytes, at_once: bool) -> None:
        """Append a line, with its end; it has reached the operating system by then."""
        self._file.write(line)
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._sync()

    def cut(self, size: int) -> None:
        """Cut off what is behind so many bytes."""
        os.truncate(self._path, size)

    def close(self) -> None:
        """Let another process write."""
        if not self._file.closed:
            self._sync()
            self._file.close()
        self._lock.release()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def read_events(folder: Path) -> list[Event]:
    """Return the events of a run folder, also while another process writes them.

    Raises:
        StorageError: when the folder holds no journal, or cannot be read.
        JournalError: when a line before the last cannot be read.
    """
    path = RunFolder(folder).events
    if is_local(folder):
        if not path.is_file():
            raise StorageError(f"{folder} is not a run folder: it has no journal.")
        return _parse(path.read_bytes(), path)[0]
    try:
        content, segments = read_segments(path.parent)
    except OSError as error:
        raise StorageError(f"The journal of {folder} cannot be read: {error}.") from error
    if not segments:
        raise StorageError(f"{folder} is not a run folder: it has no journal.")
    return _parse(content, path)[0]


def is_locked(folder: Path) -> bool:
    """Return whether a process is writing this run folder now."""
    if not is_local(folder):
        with as_os_errors(folder):
            return Lease(folder).is_held
    lock = filelock.FileLock(RunFolder(folder).lock)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except OSError:
        return False  # a read-only folder: nobody writes there
    lock.release()
    return False


def _parse(data: bytes, path: Path) -> tuple[list[Event], int]:
    """Return (events, offset behind the last good line).

    Args:
        data: lines.
        path: where they lie, for messages.
    """
    events: list[Event] = []
    end = 0
    for number, line in enumerate(io.BytesIO(data), start=1):
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or "event" not in record:
            if end + len(line) < len(data):
                raise JournalError(
                    f"Line {number} of {path} cannot be read. Restore the file from a copy,"
                    " or start a new run under another name."
                )
            break
        events.append(from_json(record))
        end += len(line)
    return events, end
