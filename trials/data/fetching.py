"""Folders of images in an object store: fetched once, and decoded here."""

import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from trials.data.sources import Collection
from trials.errors import DataError
from trials.places import as_os_errors, key_of, store_of


def fetched(folder: Path, limit_bytes: int, read: Callable[[Path], Collection]) -> Collection:
    """Fetch a folder to this machine, read it, and remove it.

    What is read goes on to the nodes of a cluster by Ray's object store. So it must fit into
    memory: images that are read again in every epoch would have to be fetched again.

    Args:
        folder: in an object store.
        limit_bytes: size of the decoded images up to which they are kept as one array.
        read: reads a folder of this machine.

    Raises:
        DataError: when it cannot be fetched, or its images do not fit.
    """
    try:
        with as_os_errors(folder):
            sizes = _files(folder)
        with tempfile.TemporaryDirectory(prefix="raynas-data-") as here:
            _check_room(folder, sum(sizes.values()), here)
            root = Path(here) / folder.name
            targets = [str(root / name) for name in sizes]
            with as_os_errors(folder):
                store_of(folder).get([key_of(folder / name) for name in sizes], targets)
            collection = _read(folder, root, read)
    except OSError as error:
        raise DataError(f"{folder} cannot be fetched: {error}") from error
    images = collection.images
    if isinstance(images, np.ndarray):
        return collection
    raise DataError(
        f"the decoded images take {len(images) * math.prod(images.shape):,} bytes, and"
        f" limit_bytes={limit_bytes:,} of a folder in an object store are kept in memory: scale"
        " them with size=, raise limit_bytes=, or give a folder that all nodes see, which is read"
        " again in every epoch."
    )


def _files(folder: Path) -> dict[str, int]:
    """Return {name below the folder: bytes} of all files.

    Raises:
        DataError: when there are none, or a name would lead out of the folder.
    """
    root = key_of(folder).rstrip("/")
    found = store_of(folder).find(root, detail=True)
    if not found:
        raise DataError(f"there is no folder {folder}.")
    sizes = {key.removeprefix(f"{root}/"): int(info["size"]) for key, info in found.items()}
    for name in sizes:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{folder} holds a file {name!r}, which leads out of it; rename it.")
    return {name: size for name, size in sizes.items() if not name.endswith("/")}


def _read(folder: Path, root: Path, read: Callable[[Path], Collection]) -> Collection:
    """Read what was fetched; where that fails, name the folder that the user knows."""
    try:
        return read(root)
    except DataError as error:
        raise DataError(str(error).replace(str(root), str(folder))) from None


def _check_room(folder: Path, size: int, here: str) -> None:
    free = shutil.disk_usage(here).free
    if size > free:
        raise DataError(
            f"{folder} takes {size:,} bytes, and {free:,} are free in {here}: name a larger disk in"
            " TMPDIR, or give a folder that all nodes see."
        )
