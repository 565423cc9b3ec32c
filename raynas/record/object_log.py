"""The journal in an object store, which cannot append: numbered segments, and a lease.

`journal/events-<first>-<last>.jsonl` are the segments. Each is put whole, only where there is
none of its number yet, so two processes cannot both write the same place of the journal: whoever
comes second learns that the run is not its own any more. Once there are many, they are put
together as one that bears the numbers of the first and the last, and removed after that.

`journal/lease.json` says who writes, so that a second driver is refused before it does anything.
"""

import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from raynas.errors import JournalError, StorageError
from raynas.record.folder import RunFolder
from raynas.record.lease import LEASE_SECONDS, Lease, in_use
from trials.places import as_os_errors, key_of, store_of

_SYNC_SECONDS = 1.0  # at most this much of what may wait is lost when the process is killed
_TRIES = 6  # of a put, with pauses of 1, 2, 4, 8 and 16 seconds
_TOGETHER = 64  # segments that become one
_LEVELS = 2  # how often a segment is put together with others

_NAME = re.compile(r"events-(\d{8})-(\d{8})\.jsonl")


class ObjectLog:
    """Appends lines to the journal in an object store.

    A line that must not be lost is in the store when `append` returns, and with it all before it;
    others follow within a second.

    Args:
        run: the run folder.
        prompt: whether lines that must not be lost are put at once; else they too may wait.

    Raises:
        StorageError: when the store cannot be written, or another process holds the lease.
        JournalError: when a segment is missing.
    """

    def __init__(self, run: Path, prompt: bool):
        folder = RunFolder(run).journal
        self._folder, self._run, self._prompt = folder, run, prompt
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._failure: StorageError | None = None
        self._closed = threading.Event()
        #: of each level the segments that this process has put: (first, last, content)
        self._put_here: list[list[tuple[int, int, bytes]]] = [[] for _ in range(_LEVELS + 1)]
        self._lease = Lease(run)
        try:
            with as_os_errors(folder):
                self._lease.acquire()
                self.content, self._next = read_segments(folder)
                self._claim()
                self._lease.confirm()
        except OSError as error:
            self._lease.release()
            raise StorageError(
                f"The run folder {run} cannot be written ({error}). Is the address right, and are"
                " the credentials in the environment?"
            ) from error
        except BaseException:
            self._lease.release()
            raise
        self._flushed = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="raynas-journal", daemon=True)
        self._thread.start()

    def append(self, line: bytes, at_once: bool) -> None:
        """Append a line, with its end.

        Raises:
            StorageError: when the store cannot be written, or another process goes on with the run.
        """
        with self._lock:
            self._buffer += line
            overdue = time.monotonic() - self._flushed > _SYNC_SECONDS
            if overdue or (at_once and self._prompt):
                self._flush()
            if self._failure is not None:
                raise self._failure

    def cut(self, size: int) -> None:
        """Refuse to cut: segments are put whole, so what cannot be read was not half written.

        Raises:
            JournalError: always.
        """
        raise JournalError(
            f"The journal of {self._run} cannot be read after {size} bytes. Restore"
            f" {self._folder} from a copy, or start a new run under another name."
        )

    def close(self) -> None:
        """Put what is left, and let another process write."""
        self._closed.set()
        self._thread.join()
        with self._lock:
            if self._failure is None:
                self._flush()
        self._lease.release()
        if self._failure is not None and self._buffer:
            raise self._failure

    def _keep(self) -> None:
        """Renew the lease, and put what has waited for a second."""
        while not self._closed.wait(_SYNC_SECONDS / 2):
            with self._lock:
                if self._failure is not None:
                    return
                if time.monotonic() - self._flushed > _SYNC_SECONDS:
                    self._flush()
            with suppress(OSError), as_os_errors(self._folder):  # a put finds out what is wrong
                self._lease.beat()

    def _flush(self) -> None:
        """Put what has waited; what goes wrong is raised by the next `append`."""
        self._flushed = time.monotonic()
        if not self._buffer or self._failure is not None:
            return
        try:
            self._lease.check()
            self._put(bytes(self._buffer))
            self._buffer.clear()
        except StorageError as error:
            self._failure = error
            return
        self._put_together()

    def _claim(self) -> None:
        """Take the next number with an empty segment, so that nobody else can go on from here.

        Raises:
            StorageError: when another process has, or the store would let it.
        """
        path = self._segment(self._next, self._next)
        try:
            _create(path, b"")
        except FileExistsError:
            raise in_use(self._run) from None
        with suppress(FileExistsError):
            _create(path, b"")
            raise StorageError(
                f"The store of {self._run} overwrites what it is told to create (If-None-Match), so"
                " two drivers could spoil each other's journal. Use one that knows conditional"
                " writes, as S3 and MinIO do by now, or a network folder."
            )
        self._put_here[0].append((self._next, self._next, b""))
        self._next += 1

    def _put(self, content: bytes) -> None:
        path = self._segment(self._next, self._next)
        for attempt in range(_TRIES):
            try:
                with as_os_errors(path):
                    self._create_or_find(path, content)
                break
            except OSError as error:
                if attempt == _TRIES - 1:
                    raise StorageError(
                        f"{path} cannot be written: {error}. Once that is mended, the same command"
                        " continues the run."
                    ) from error
                time.sleep(2**attempt)
        self._put_here[0].append((self._next, self._next, content))
        self._next += 1

    def _create_or_find(self, path: Path, content: bytes) -> None:
        """Put a segment; one that is there may be of an earlier try whose answer was lost.

        Raises:
            StorageError: when it is another process's.
        """
        try:
            _create(path, content)
        except FileExistsError:
            if path.read_bytes() != content:
                raise StorageError(
                    f"Another process goes on with the run {self._run}: this one was not heard of"
                    f" for {LEASE_SECONDS:.0f} s or more."
                ) from None

    def _put_together(self) -> None:
        """Make one segment of many; where the store fails, later."""
        for level in range(_LEVELS):
            parts = self._put_here[level]
            if len(parts) < _TOGETHER:
                return
            first, last = parts[0][0], parts[-1][1]
            content = b"".join(part[2] for part in parts)
            with suppress(OSError), as_os_errors(self._folder):
                store, path = store_of(self._folder), self._segment(first, last)
                store.pipe_file(key_of(path), content)
                self._put_here[level] = []
                self._put_here[level + 1].append((first, last, content))
                store.rm([key_of(self._segment(*part[:2])) for part in parts])

    def _segment(self, first: int, last: int) -> Path:
        return self._folder / f"events-{first:08d}-{last:08d}.jsonl"


def read_segments(folder: Path) -> tuple[bytes, int]:
    """Return the lines of a journal, and the number of the segment that comes next.

    Raises:
        OSError: when the store cannot be read.
        JournalError: when a segment is missing.
    """
    store = store_of(folder)
    for _ in range(_TRIES):
        chosen = list(_in_order(folder, _segments(folder)))
        if not chosen:
            return b"", 0
        keys = [key_of(folder / name) for _, _, name in chosen]
        with suppress(FileNotFoundError), as_os_errors(folder):  # put together since listed
            contents = store.cat(keys)
            return b"".join(contents[key] for key in keys), chosen[-1][1] + 1
    raise OSError(f"the segments in {folder} change all the time")


def _segments(folder: Path) -> list[tuple[int, int, str]]:
    """Return (first, last, name) of all segments."""
    try:
        with as_os_errors(folder):
            keys = store_of(folder).ls(key_of(folder), detail=False)
    except FileNotFoundError:
        return []
    names = (key.rstrip("/").rpartition("/")[2] for key in keys)
    matches = (_NAME.fullmatch(name) for name in names)
    return [(int(m[1]), int(m[2]), m[0]) for m in matches if m]


def _in_order(
    folder: Path, segments: Iterable[tuple[int, int, str]]
) -> Iterator[tuple[int, int, str]]:
    """Yield the segments of a journal; of those with the same first number, the longest."""
    following = 0
    for first, last, name in sorted(segments, key=lambda s: (s[0], -s[1])):
        if first > following:
            raise JournalError(
                f"The journal {folder} lacks the segment {following:08d}. Restore it from a copy,"
                " or start a new run under another name."
            )
        if first == following:
            yield first, last, name
            following = last + 1


def _create(path: Path, content: bytes) -> None:
    """Put an object that must not be there yet.

    Raises:
        FileExistsError: when it is.
    """
    store_of(path).pipe_file(key_of(path), content, mode="create")
