"""The journal: every suggestion, result and decision of a run, in order; the source of truth.

One JSON object a line, `journal/events.jsonl`, appended and flushed before anything else happens
with the event, so a driver may be killed at any moment. Only one process writes at a time. In an
object store the same lines lie in numbered segments; `object_log.py` says what is there when.

What each kind of event carries is in `events.py`, what they come to in `history.py`.
"""

import dataclasses
import gc
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from raynas.errors import JournalError, StorageError
from raynas.record import file_log
from raynas.record.events import (
    Event,
    Reported,
    Retraining,
    Scored,
    Searched,
    Selecting,
    SupernetTrained,
)
from raynas.record.file_log import FileLog
from raynas.record.folder import RunFolder
from raynas.record.lease import Lease
from raynas.record.object_log import ObjectLog, read_segments
from raynas.record.parsing import from_json
from trials.places import as_os_errors, is_local

_AT_ONCE = 1000  # lines read together

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
        #: why nothing more can be recorded
        self.failure: StorageError | None = None
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

        Raises:
            StorageError: when it cannot be written; nothing more is recorded then.
        """
        event = dataclasses.replace(event, time=round(time.time(), 3))
        if self.failure is not None:
            raise self.failure
        line = json.dumps(event.to_json()).encode() + b"\n"
        try:
            self._log.append(line, at_once=not isinstance(event, _OF_CHECKPOINTS))
        except StorageError as error:
            self.failure = error
            raise
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
    """Return whether a process is writing this run folder now; nothing is written for it."""
    if is_local(folder):
        return file_log.is_locked(folder)
    with as_os_errors(folder):
        return Lease(folder).is_held


def _parse(data: bytes, path: Path) -> tuple[list[Event], int]:
    """Return (events, offset behind the last good line).

    Args:
        data: lines.
        path: where they lie, for messages.
    """
    with collecting_paused():
        records = _records(data)
        if records is not None:
            return [from_json(record) for record in records], len(data)
        return _parse_lines(data, path)


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


def _parse_lines(data: bytes, path: Path) -> tuple[list[Event], int]:
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
    return events, end


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
