"""Encoded images (JPEG, PNG, ...): decoded at once, or one by one where they are too many."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from trials.data.images import BLOCK, Pixels, Streamed, check_one_size, is_gray, pixels
from trials.errors import DataError

_SMALL = 64 * 64  # pixels of an image up to which threads only wait for each other


@dataclass(frozen=True)
class Files:
    """Encoded images in files."""

    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, index: int) -> Image.Image:
        """Return the image, of which only the header is read so far."""
        return Image.open(self.paths[index])

    def name(self, index: int) -> str:
        """Tell where the image is, for error messages."""
        return self.paths[index]


@dataclass(frozen=True)
class Rows:
    """Encoded images in a binary column (of several Parquet files, one behind the other)."""

    column: pa.ChunkedArray
    files: tuple[tuple[str, int], ...]  # (path, number of rows)

    def __len__(self) -> int:
        return len(self.column)

    def open(self, index: int) -> Image.Image:
        """Return the image, of which only the header is read so far."""
        return Image.open(io.BytesIO(self.column[index].as_py()))

    def name(self, index: int) -> str:
        """Tell where the image is, for error messages."""
        for path, rows in self.files:
            if index < rows:
                return f"{path}, row {index}"
            index -= rows
        raise IndexError(index)


@dataclass(frozen=True, eq=False)
class Encoded(Streamed):
    """Images that are decoded each time they are asked for."""

    items: Files | Rows
    shape: tuple[int, int, int]
    resize: bool = False
    workers: int | None = None
    dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Pixels:
        height, width, channels = self.shape
        with self.items.open(index) as image:
            if self.resize:
                image.draft(None, (2 * width, 2 * height))  # JPEG: decode no larger than needed
                image = ImageOps.fit(_plain(image), (width, height), Image.Resampling.BILINEAR)
            return pixels(image, channels)

    def blocks(self) -> Iterator[Pixels]:
        """See `Streamed`; decodes in threads (Pillow leaves the interpreter's lock)."""
        failures: list[tuple[int, Exception]] = []
        height, width, _ = self.shape
        small = not self.resize and height * width <= _SMALL
        with ThreadPoolExecutor(1 if small else _threads()) as pool:
            for start in range(0, len(self), BLOCK):
                block = np.zeros((min(BLOCK, len(self) - start), *self.shape), self.dtype)

                def fill(place: int, start: int = start, block: Pixels = block) -> None:
                    block[place] = self[start + place]

                failures += [(start + k, e) for k, e in _failures(pool, fill, len(block))]
                yield block
        _raise_unreadable(self.items, failures)


def read_encoded(
    items: Files | Rows, size: int | None, limit_bytes: int, workers: int | None, remedy: str
) -> Pixels | Streamed:
    """Decode images into one uint8 array, or leave them encoded where that would be too large.

    All become RGB unless all are gray.

    Args:
        items: the encoded images.
        size: height and width to which all are scaled (a centered square is cut first);
            None: they must agree already.
        limit_bytes: largest array, in bytes.
        workers: processes that decode during training; see `Streamed`.
        remedy: what to do about mixed sizes.

    Raises:
        DataError: for unreadable images (how many, the first) and for mixed sizes.
    """
    shapes: list[tuple[int, int]] = [(0, 0)] * len(items)
    gray = [True] * len(items)

    def look(index: int) -> None:
        with items.open(index) as image:
            shapes[index], gray[index] = (image.height, image.width), is_gray(image)

    with ThreadPoolExecutor(_threads()) as pool:
        _raise_unreadable(items, list(_failures(pool, look, len(items))))
    check_one_size(shapes if size is None else [(size, size)] * len(items), remedy)
    height, width = (size, size) if size else shapes[0]
    encoded = Encoded(items, (height, width, 1 if all(gray) else 3), size is not None, workers)
    if len(items) * int(np.prod(encoded.shape)) > limit_bytes:
        return encoded
    images = np.empty((len(items), *encoded.shape), np.uint8)
    for number, block in enumerate(encoded.blocks()):
        images[number * BLOCK : number * BLOCK + len(block)] = block
    return images


def _plain(image: Image.Image) -> Image.Image:
    """Return an image in a mode that scales smoothly: palettes and bitmaps do not."""
    return image.convert({"P": "RGB", "1": "L"}[image.mode]) if image.mode in "P1" else image


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _failures(
    pool: ThreadPoolExecutor, work: Callable[[int], None], count: int
) -> Iterator[tuple[int, Exception]]:
    """Call `work(0..count-1)`, a run of them in each thread; yields what failed, in order."""

    def span(indices: range) -> list[tuple[int, Exception]]:
        failed = []
        for index in indices:
            try:
                work(index)
            except Exception as error:  # decoders of damaged files raise anything
                failed.append((index, error))
        return failed

    step = max(1, -(-count // (4 * _threads())))
    for failed in pool.map(span, (range(k, min(k + step, count)) for k in range(0, count, step))):
        yield from failed


def _raise_unreadable(items: Files | Rows, failures: list[tuple[int, Exception]]) -> None:
    if failures:
        index, error = failures[0]
        raise DataError(
            f"{len(failures)} of {len(items)} images cannot be read, the first is "
            f"{items.name(index)} ({type(error).__name__}: {error}); remove or replace them."
        )
