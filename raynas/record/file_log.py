"""The journal in a file, `journal/events.jsonl`, which one process appends to behind a lock."""

import fcntl
import os
import time
from pathlib import Path

import filelock

from raynas.errors import StorageError
from raynas.record.folder import RunFolder

_LOOK_SECONDS = 0.5  # that a look at the lock may take
_SYNC_SECONDS = 1.0  # at most this much is lost when the machine itself goes down


class FileLog:
    """Appends lines to the journal in a file.

    Args:
        folder: the run folder; made if missing.

    Raises:
        StorageError: when the folder cannot be written, or another process holds it.
    """

    def __init__(self, folder: Path):
        self._path = RunFolder(folder).events
        self._failed = False
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
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
            #: the lines so far
            self.content = self._path.read_bytes() if self._path.exists() else b""
            self._file = self._path.open("ab", buffering=0)
        except BaseException:
            self._lock.release()
            raise
        self._synced = time.monotonic()

    def append(self, line: bytes, at_once: bool) -> None:
        """Append a line, with its end; it has reached the operating system by then.

        Raises:
            StorageError: when it cannot be written.
        """
        try:
            self._write(line)
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync()
        except OSError as error:
            self._failed = True
            raise StorageError(f"The journal {self._path} cannot be written: {error}.") from error

    def cut(self, size: int) -> None:
        """Cut off what is behind so many bytes."""
        os.truncate(self._path, size)

    def close(self) -> None:
        """Let another process write."""
        try:
            if not self._file.closed and not self._failed:
                self._sync()
        finally:
            self._file.close()
            self._lock.release()

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
