"""TensorBoard's files of a run in an object store: written here, and put there now and then."""

import tempfile
import time
from contextlib import suppress
from pathlib import Path

from raynas.record.events import Event
from trials.places import as_os_errors, is_local, key_of, store_of

_SECONDS = 60.0  # between two times


class Mirror:
    """Listens to the journal, and puts what has changed since the last time.

    It is a view: where the store cannot be written, the search goes on, and all that has changed
    is put the next time.

    Args:
        there: the folder in the run folder; one of this machine is written directly.
    """

    def __init__(self, there: Path):
        self._there = there
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        #: where the files are to be written
        self.here = there
        if not is_local(there):
            self._temporary = tempfile.TemporaryDirectory(
                prefix="raynas-", ignore_cleanup_errors=True
            )
            self.here = Path(self._temporary.name)
        self._sizes: dict[Path, int] = {}
        self._put = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Put what has changed, if that is long ago."""
        if self._temporary and time.monotonic() - self._put > _SECONDS:
            self._update()

    def close(self) -> None:
        """Put what has changed; remove the files here."""
        if self._temporary:
            self._update()
            self._temporary.cleanup()

    def _update(self) -> None:
        """Put every file that has grown."""
        sizes = {path: path.stat().st_size for path in self.here.rglob("*") if path.is_file()}
        grown = [path for path, size in sizes.items() if size != self._sizes.get(path)]
        keys = [key_of(self._there / path.relative_to(self.here).as_posix()) for path in grown]
        with suppress(OSError), as_os_errors(self._there):
            if grown:
                store_of(self._there).put([str(path) for path in grown], keys)
            self._sizes = sizes
        self._put = time.monotonic()
