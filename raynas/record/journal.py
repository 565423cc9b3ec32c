"""The journal: every suggestion, result and decision of a run, in order; the source of truth.

One JSON object a line, `journal/events.jsonl`, appended and flushed before anything else happens
with the event, so a driver may be killed at any moment. Only one process writes at a time.

What each kind of event carries is in `events.py`, what they come to in `history.py`.
"""

import dataclasses
import fcntl
import gc
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import filelock

from raynas.errors import JournalError, StorageError
from raynas.record.events import Event, from_json
from raynas.record.folder import RunFolder

_AT_ONCE = 1000  # lines read together
_LOOK_SECONDS = 0.5  # that a look at the lock may take
_SYNC_SECONDS = 1.0  # at most this much is lost when the machine itself goes down

Listener = Callable[[Event], None]


class Journal:
    """Appends events to a run folder that no other process may write meanwhile.

    Args:
        folder: the run folder; made if missing.

    Raises:
        StorageError: when the folder cannot be written, or another process holds it.
        JournalError: when a line before the last cannot be read.
    """

    def __init__(self, folder: Path):
        self.path = RunFolder(folder).events
        #: called with every event, after it has been recorded, in this order
        self.listeners: list[Listener] = []
        #: what had to be mended on opening, for the user
        self.notice: str | None = None
        #: why nothing more can be recorded
        self.failure: StorageError | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(RunFolder(folder).lock)
            # Who asks whether it is held has it for a moment.
            self._lock.acquire(timeout=_LOOK_SECONDS)
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
            self.events = self._recover()
            self._file = self.path.open("ab", buffering=0)
        except BaseException:
            self._lock.release()
            raise
        self._synced = time.monotonic()

    def append(self, event: Event) -> None:
        """Record an event and tell the listeners; it has reached the operating system by then.

        Raises:
            StorageError: when it cannot be written; nothing more is recorded then.
        """
        event = dataclasses.replace(event, time=round(time.time(), 3))
        if self.failure is not None:
            raise self.failure
        try:
            self._write(json.dumps(event.to_json()).encode() + b"\n")
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync()
        except OSError as error:
            self.failure = StorageError(f"The journal {self.path} cannot be written: {error}.")
            raise self.failure from error
        for listener in self.listeners:
            listener(event)

    def close(self) -> None:
        """Let another process write."""
        try:
            if not self._file.closed and self.failure is None:
                self._sync()
        finally:
            self._file.close()
            self._lock.release()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        """Append a whole line, or nothing of it."""
        end = os.fstat(self._file.fileno()).st_size
        left = line
        try:
            while left:  # of a line that fits only in part, the rest raises
                left = left[self._file.write(left) :]
        except OSError:
            os.truncate(self._file.fileno(), end)
            raise

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _recover(self) -> list[Event]:
        """Return the events so far; cut off a last line that a crash left incomplete."""
        if not self.path.exists():
            return []
        events, end, size = _parse(self.path)
        if end < size:
            os.truncate(self.path, end)
            self.notice = (
                f"The last line of {self.path} was incomplete and has been removed;"
                f" {len(events)} events are intact."
            )
        return events


def read_events(folder: Path) -> list[Event]:
    """Return the events of a run folder, also while another process writes them.

    Raises:
        StorageError: when the folder holds no journal.
        JournalError: when a line before the last cannot be read.
    """
    path = RunFolder(folder).events
    if not path.is_file():
        raise StorageError(f"{folder} is not a run folder: it has no journal.")
    return _parse(path)[0]


def is_locked(folder: Path) -> bool:
    """Return whether a process is writing this run folder now; nothing is written for it.

    Where the file system of several machines has locks for all of them (NFS has), it is seen from
    each.
    """
    try:
        with RunFolder(folder).lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # gone with the file
    except BlockingIOError:
        return True
    except OSError:  # there is none, or no locks are to be had
        return False
    return False


def _parse(path: Path) -> tuple[list[Event], int, int]:
    """Return (events, offset behind the last good line, size of the file)."""
    data = path.read_bytes()
    with collecting_paused():
        records = _records(data)
        if records is not None:
            return [from_json(record) for record in records], len(data), len(data)
        return _parse_lines(path, data)


def _records(data: bytes) -> list[dict[str, Any]] | None:
    """Return what the lines hold, many read at once, in half the time; None: one is damaged."""
    lines = data.splitlines()
    records: list[dict[str, Any]] = []
    try:
        for start in range(0, len(lines), _AT_ONCE):
            records += json.loads(b"[" + b",".join(lines[start : start + _AT_ONCE]) + b"]")
    except (ValueError, RecursionError):
        return None
    whole = len(records) == len(lines) == data.count(b"\n")
    return records if whole and all(map(_is_event, records)) else None


def _parse_lines(path: Path, data: bytes) -> tuple[list[Event], int, int]:
    """Do the same line by line, up to the last line, which a crash may have left incomplete."""
    events: list[Event] = []
    end = 0
    for number, line in enumerate(io.BytesIO(data), start=1):
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            record = None
        if not _is_event(record):
            if end + len(line) < len(data):
                raise JournalError(
                    f"Line {number} of {path} cannot be read. Restore the file from a copy,"
                    " or start a new run under another name."
                )
            break
        events.append(from_json(record))
        end += len(line)
    return events, end, len(data)


def _is_event(record: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(record, dict) and "event" in record


@contextmanager
def collecting_paused() -> Iterator[None]:
    """Keep the garbage collector still, which else looks through all events again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
