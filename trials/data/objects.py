"""Data that the user has as Python objects: arrays, and PyTorch data sets."""

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
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
from trials.data.scaling import Scaling, scaling_note, usual_size
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

    It is read once: random transforms in it are frozen unless it exceeds `limit_bytes`. Pillow
    images that differ in size are scaled, and read twice.

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
        pictures = True
        for index in range(len(whole)):
            image, label, is_picture = _labeled_image(whole, index)
            pictures = pictures and is_picture
            labels.append(label)
            shapes.append(image.shape)
            types.add(image.dtype)
            bounds = [min(bounds[0], float(image.min())), max(bounds[1], float(image.max()))]
            total += image.size
            if total > self.limit_bytes or image.shape[:2] != shapes[0][:2]:
                kept = None
            if kept is not None:
                kept.append(image)
        shape, scaling, notes = _common_shape(shapes, pictures)
        sizes = (len(self.dataset), 0, len(whole) - len(self.dataset))
        if kept is not None:
            array = as_pixels(np.stack([np.broadcast_to(image, shape) for image in kept]))
            return Collection(array, np.array(labels), sizes)
        dtype, scale = pixel_type(np.result_type(*types), bounds[0], bounds[1])
        wrapped = Wrapped(whole, shape, dtype, scale, self.workers, scaling)
        images: Pixels | Streamed = wrapped
        if scaling is not None and len(whole) * math.prod(shape) <= self.limit_bytes:
            images = np.concatenate(list(wrapped.blocks()))
        return Collection(images, np.array(labels), sizes, notes=notes)


@dataclass(frozen=True, eq=False)
class Wrapped(Streamed):
    """The images of a `torch.utils.data.Dataset`, read each time they are asked for."""

    dataset: Dataset[Any]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    scale: int  # of its numbers to ours: 255 for floats in 0..1
    workers: int | None
    scaling: Scaling | None = None  # of Pillow images

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Pixels:
        image = self.dataset[index][0]
        image = image_array(image if self.scaling is None else self.scaling(image))
        if self.scale != 1:
            image = quantized(image, self.scale)
        return np.ascontiguousarray(np.broadcast_to(image, self.shape), self.dtype)

    def blocks(self) -> Iterator[Pixels]:
        """See `Streamed`."""
        for start in range(0, len(self), BLOCK):
            yield np.stack([self[k] for k in range(start, min(start + BLOCK, len(self)))])


def _labeled_image(dataset: Dataset[Any], index: int) -> tuple[Pixels, int, bool]:
    """Check one item of a data set.

    Returns:
        Its image (height x width x channels) and class, and whether it is a Pillow image.
    """
    try:
        image, label = dataset[index]
        array, number = image_array(image), operator.index(label)
    except Exception as error:  # it is the user's code
        raise DataError(
            f"item {index} is not an (image, class number): {type(error).__name__}: {error}"
        ) from None
    if not (array.size and np.isfinite(array).all()):
        raise DataError(f"the image of item {index} is empty or holds NaN or infinity.")
    return array, number, isinstance(image, Image.Image)


def _common_shape(
    shapes: Sequence[tuple[int, ...]], pictures: bool
) -> tuple[tuple[int, int, int], Scaling | None, tuple[str, ...]]:
    """Return the shape that all images get, how, and what the user should know of it.

    Gray images count as RGB among RGB ones. Where they differ in size, Pillow images are scaled
    to `usual_size`; arrays and tensors, whose numbers may be anything, are refused.

    Args:
        shapes: height, width and channels of every image.
        pictures: whether all are Pillow images.
    """
    sizes = [(height, width) for height, width, _ in shapes]
    channels = {shape[2] for shape in shapes}
    if not pictures or len(set(sizes)) < 2:
        check_one_size(sizes, "arrays and tensors are not scaled; add a Resize to its transforms")
    if len(channels - {1}) > 1:
        raise DataError(f"images have {sorted(channels)} channels; convert them to one kind.")
    if len(set(sizes)) == 1:
        return (*sizes[0], max(channels)), None, ()
    scaling = Scaling(usual_size(sizes))
    note = scaling_note(sizes, scaling, "a Resize among the transforms of the data set")
    return (*scaling.size, max(channels)), scaling, (note,)
