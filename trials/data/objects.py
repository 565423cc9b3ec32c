"""Data that the user has as Python objects: arrays, and PyTorch data sets."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, Dataset

from trials.data.images import (
    BLOCK,
    Pixels,
    Streamed,
    as_pixels,
    batch_array,
    check_one_size,
    image_array,
    number_array,
    pixel_type,
    quantized,
)
from trials.data.sources import Collection, LargeSource, Source
from trials.errors import DataError


@dataclass(frozen=True, eq=False)
class Arrays(Source):
    """Images and labels in memory.

    Args:
        images: see `trials.data.images.batch_array`.
        labels: N class numbers.
        test: a pair of test images and labels.
    """

    images: Any
    labels: Any
    test: Any = None

    def read(self) -> Collection:
        """See `Source`."""
        pairs = [(self.images, self.labels)]
        if self.test is not None:
            if not (isinstance(self.test, tuple | list) and len(self.test) == 2):
                raise DataError(
                    f"test is a {type(self.test).__name__}, not a pair (images, labels)."
                )
            pairs.append((self.test[0], self.test[1]))
        images = [batch_array(images) for images, _ in pairs]
        labels = [_label_array(labels) for _, labels in pairs]
        for image, label in zip(images, labels, strict=True):
            if len(image) != len(label):
                raise DataError(f"there are {len(image)} images but {len(label)} labels.")
        if len(images) == 1:
            return Collection(images[0], labels[0], (len(images[0]), 0, 0))
        (train, test) = images
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            raise DataError(
                f"test images are {test.shape[1:]} {test.dtype}, but training images "
                f"{train.shape[1:]} {train.dtype} (height, width, channels)."
            )
        return Collection(
            np.concatenate(images), np.concatenate(labels), (len(train), 0, len(test))
        )


def _label_array(labels: Any) -> npt.NDArray[Any]:
    array = number_array(labels)
    if array.ndim != 1:
        raise DataError(f"labels have shape {array.shape}; give one class number per image.")
    return array


@dataclass(frozen=True, eq=False)
class TorchDataset(LargeSource):
    """A map-style `torch.utils.data.Dataset` of (Pillow image, array or tensor; class number).

    It is read once: random transforms in it are frozen unless it exceeds `limit_bytes`.

    Args:
        dataset: the data set.
        test: a data set of test images.
    """

    dataset: Any
    test: Any = None

    @property
    def name(self) -> str:
        """The class of the data set."""
        return type(self.dataset).__name__.lower()

    def read(self) -> Collection:
        """See `Source`."""
        parts = [self.dataset] + ([] if self.test is None else [self.test])
        if not all(hasattr(part, "__len__") and hasattr(part, "__getitem__") for part in parts):
            raise DataError(
                "a data set without length and index cannot be split; make a map-style one."
            )
        whole: ConcatDataset[Any] = ConcatDataset(parts)
        kept: list[Pixels] | None = []
        labels, shapes, types, bounds, total = [], [], set(), [0.0, 0.0], 0
        for index in range(len(whole)):
            image, label = _labeled_image(whole, index)
            labels.append(label)
            shapes.append(image.shape)
            types.add(image.dtype)
            bounds = [min(bounds[0], float(image.min())), max(bounds[1], float(image.max()))]
            total += image.size
            if kept is not None:
                kept.append(image)
            if total > self.limit_bytes:
                kept = None
        shape = _common_shape(shapes)
        sizes = (len(self.dataset), 0, len(whole) - len(self.dataset))
        if kept is not None:
            array = as_pixels(np.stack([np.broadcast_to(image, shape) for image in kept]))
            return Collection(array, np.array(labels), sizes)
        dtype, scale = pixel_type(np.result_type(*types), bounds[0], bounds[1])
        wrapped = Wrapped(whole, shape, dtype, scale, self.workers)
        return Collection(wrapped, np.array(labels), sizes)


@dataclass(frozen=True, eq=False)
class Wrapped(Streamed):
    """The images of a `torch.utils.data.Dataset`, read each time they are asked for."""

    dataset: Dataset[Any]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    scale: int  # of its numbers to ours: 255 for floats in 0..1
    workers: int | None

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Pixels:
        image = image_array(self.dataset[index][0])
        if self.scale != 1:
            image = quantized(image, self.scale)
        return np.ascontiguousarray(np.broadcast_to(image, self.shape), self.dtype)

    def blocks(self) -> Iterator[Pixels]:
        """See `Streamed`."""
        for start in range(0, len(self), BLOCK):
            yield np.stack([self[k] for k in range(start, min(start + BLOCK, len(self)))])


def _labeled_image(dataset: Dataset[Any], index: int) -> tuple[Pixels, int]:
    """Check one item of a data set; return its image (height x width x channels) and class."""
    try:
        image, label = dataset[index]
        array, number = image_array(image), operator.index(label)
    except Exception as error:  # it is the user's code
        raise DataError(
            f"item {index} is not an (image, class number): {type(error).__name__}: {error}"
        ) from None
    if not (array.size and np.isfinite(array).all()):
        raise DataError(f"the image of item {index} is empty or holds NaN or infinity.")
    return array, number


def _common_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
    """Return height, width and channels of all images: gray ones count as RGB among RGB ones."""
    check_one_size([shape[:2] for shape in shapes], "add a Resize to its transforms")
    channels = {shape[2] for shape in shapes}
    if len(channels - {1}) > 1:
        raise DataError(f"images have {sorted(channels)} channels; convert them to one kind.")
    return shapes[0][0], shapes[0][1], max(channels)
