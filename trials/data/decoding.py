"""Encoded images (JPEG, PNG, ...): decoded at once, or one by one where they are too many."""

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, UnidentifiedImageError
from pydantic import PositiveInt

from trials.data.images import Pixels, Streamed, Unreadable, block_length, is_gray, pixels
from trials.data.scaling import (
    LARGEST,
    Fit,
    Scaling,
    Size,
    scaling_note,
    shown,
    turn,
    upright_size,
    usual_size,
)
from trials.data.sources import Collection, LargeSource
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
    """Images that are decoded each time they are asked for.

    Args:
        items: the encoded images.
        numbers: those of `items` that are used, rising.
        shape: height, width and channels of all images.
        scaling: how they are brought to this size; None: they have it.
        workers: see `Streamed`.
    """

    items: Files | Rows
    numbers: npt.NDArray[np.int64]
    shape: tuple[int, int, int]
    scaling: Scaling | None = None
    workers: int | None = None
    dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Pixels:
        channels = self.shape[2]
        with self.items.open(self.numbers[index]) as image:
            turned = turn(image)
            if self.scaling is not None:
                self.scaling.draft(image)
            if channels == 4 and image.has_transparency_data:
                image = image.convert("RGBA")  # a palette, or one transparent color, scales badly
            if turned is not None:
                image = image.transpose(turned)
            if self.scaling is not None:
                image = self.scaling(image)
            return pixels(image, channels)

    def blocks(self) -> Iterator[Pixels]:
        """See `Streamed`; decodes in threads (Pillow leaves the interpreter's lock)."""
        failures: dict[int, str] = {}
        height, width, _ = self.shape
        small = self.scaling is None and height * width <= _SMALL
        length = block_length(self.shape)
        with ThreadPoolExecutor(1 if small else _threads()) as pool:
            for start in range(0, len(self), length):
                block = np.zeros((min(length, len(self) - start), *self.shape), self.dtype)

                def fill(place: int, start: int = start, block: Pixels = block) -> None:
                    block[place] = self[start + place]

                for place, error in _failures(pool, fill, len(block)):
                    failures[start + place] = _described(self, start + place, error)
                yield block
        if failures:
            raise Unreadable(failures, self.without(failures), len(self))

    def without(self, places: Iterable[int]) -> "Encoded":
        """Return all images but some."""
        return replace(self, numbers=np.delete(self.numbers, list(places)))


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedSource(LargeSource):
    """A source of encoded images.

    Args:
        fit: what happens to the shape of images that are scaled: `crop` (the largest centered
            rectangle is cut out first) or `pad` (they are kept whole, with black margins).
        channels: 1 (gray), 3 (RGB) or 4 (RGB and alpha, how opaque a pixel is); None: 1 if all
            images are gray, else 3.
        broken: the largest part of the images that may be unreadable; they are left out.
    """

    fit: Fit = "crop"
    channels: PositiveInt | None = None
    broken: float = 0.01

    def __post_init__(self) -> None:
        """Check the options; see `Source`."""
        super().__post_init__()
        if self.channels not in (None, 1, 3, 4):
            raise DataError(f"channels={self.channels} is not 1, 3 or 4.")
        if not 0 <= self.broken < 1:
            raise DataError(f"broken={self.broken} is not in [0, 1).")


def read_encoded(
    source: EncodedSource,
    items: Files | Rows,
    labels: npt.NDArray[Any],
    sizes: tuple[int, int, int],
    class_names: Sequence[str],
    side: int | None,
) -> Collection:
    """Decode images into one uint8 array, or leave them encoded where that would be too large.

    Args:
        source: its options.
        items: the encoded images.
        labels: see `Collection`, also for `sizes` and `class_names`.
        sizes: how many are for training, validation and test.
        class_names: one per class.
        side: height and width to which all are scaled; None: as they are, or `usual_size`.

    Raises:
        DataError: for too many unreadable images (how many, the first).
    """
    if not len(items):
        raise DataError("there are no images.")
    looks, failures = _looks(items)
    scaling, shape, notes = _planned([look for look in looks if look is not None], source, side)
    encoded = Encoded(items, np.arange(len(items)), shape, scaling, source.workers)
    collection = Collection(encoded, labels, sizes, class_names, notes, source.broken)
    if failures:
        unread = {place: _described(encoded, place, error) for place, error in failures}
        encoded = encoded.without(unread)
        collection = collection.without(unread, encoded)
    if len(encoded) * math.prod(shape) > source.limit_bytes:
        return collection
    images, start = np.empty((len(encoded), *shape), np.uint8), 0
    try:
        for block in encoded.blocks():
            images[start : start + len(block)] = block
            start += len(block)
    except Unreadable as error:
        rest = np.delete(images, list(error.failures), axis=0)
        return collection.without(error.failures, rest)
    return replace(collection, images=images)


@dataclass(frozen=True)
class _Look:
    """What the header of an image tells."""

    size: Size
    gray: bool
    transparent: bool


def _looks(items: Files | Rows) -> tuple[list[_Look | None], list[tuple[int, Exception]]]:
    """Read the headers of all images; return what they tell, and which cannot be read."""
    looks: list[_Look | None] = [None] * len(items)

    def look(index: int) -> None:
        with items.open(index) as image:
            transparent = image.has_transparency_data
            looks[index] = _Look(upright_size(image), is_gray(image), transparent)

    with ThreadPoolExecutor(_threads()) as pool:
        return looks, list(_failures(pool, look, len(items)))


def _planned(
    looks: list[_Look], source: EncodedSource, side: int | None
) -> tuple[Scaling | None, tuple[int, int, int], tuple[str, ...]]:
    """Return how images are scaled, their shape then, and what the user should know of it."""
    if not looks:
        return None, (0, 0, 0), ()
    notes, sizes, scaling = [], [look.size for look in looks], None
    if side is not None:
        scaling = Scaling((side, side), source.fit)
    elif len(set(sizes)) > 1:
        scaling = Scaling(usual_size(sizes), source.fit)
        notes.append(scaling_note(sizes, scaling, "size="))
    elif min(sizes[0]) > LARGEST:
        notes.append(
            f"all images have {shown(sizes[0])} pixels and are used so; size={LARGEST} takes about "
            f"{math.prod(sizes[0]) / LARGEST**2:.1f} times less computation."
        )
    channels = source.channels or (1 if all(look.gray for look in looks) else 3)
    transparent = sum(look.transparent for look in looks)
    if transparent and source.channels is None:
        notes.append(
            f"{transparent:,} of {len(looks):,} images say how opaque their pixels are, which is "
            "left out; channels=4 keeps it as a fourth channel."
        )
    height, width = sizes[0] if scaling is None else scaling.size
    return scaling, (height, width, channels), tuple(notes)


def _described(images: Encoded, place: int, error: Exception) -> str:
    """Tell which image cannot be read, and why."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, UnidentifiedImageError):  # whose own words are an address in memory
        reason = "not an image, or of an unknown format"
    return f"{images.items.name(images.numbers[place])} ({reason})"


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
