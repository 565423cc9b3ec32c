"""What a full disk makes of a run: one sentence, whichever of many libraries met it first."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raynas.errors import StorageError

_FULL = re.compile("No space left on device|Disk quota exceeded|Read-only file system")
_KIND = re.compile(r"^(?:[\w.]*Error: )+")  # which says nothing to a user
_LONGEST = 300  # characters of an error that are shown


def full_disk(text: str) -> str | None:
    """Return the line of an error's text that says that a disk takes nothing more, if one does."""
    line = next(filter(_FULL.search, text.splitlines()), None)
    return None if line is None else _KIND.sub("", line.strip()).rstrip(".")[:_LONGEST]


@contextmanager
def one_sentence(folder: Path) -> Iterator[None]:
    """Turn whatever a full disk raises into one error; a run folder is whole all the same.

    Args:
        folder: of the run.

    Raises:
        StorageError: naming the folder and the remedy.
    """
    try:
        yield
    except Exception as error:
        found = next(filter(None, map(full_disk, _texts(error))), None)
        if found is None:
            raise
        raise StorageError(
            f"The run folder {folder} cannot be written: {found}. What was recorded is safe: make"
            " room, then the same command goes on where it was."
        ) from error


def _texts(error: BaseException | None) -> Iterator[str]:
    """Yield the texts of an error and of those that led to it."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__
