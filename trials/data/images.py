"""Images as arrays, and images that are too many to be held decoded.

Everywhere in the data layer one image is `height x width x channels` (in batches: NHWC, which
PyTorch calls channels-last). Pixels are uint8, or float32 where a user's floats are not in 0..1.
"""

import hashlib
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from trials.errors import DataError

Pixels = npt.NDArray[Any]

_NUMBERS = "biuf"  # the kinds of NumPy types that pixels may have
_GRAY_MODES = ("1", "L", "LA", "I", "F")
_SQUARE = 8  # pixels of a side from which on a square is taken for an image
#: images that are looked at together, at most
BLOCK = 256
_BLOCK_NUMBERS = 1 << 26  # of them


class Streamed(Dataset[Pixels]):
    """Images that stay where they are; `images[i]` reads one, as height x width x channels.

    Attributes:
        shape: height, width, channels of every image.
        dtype: uint8 or float32.
        workers: processes that read images during training; None: one for each of PyTorch's
            threads but the first, at most 8.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    workers: int | None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def blocks(self) -> Iterator[Pixels]:
        """Yield all images in order, in blocks of images x height x width x channels.

        Raises:
            Unreadable: at the end, when images were.
        """


class Unreadable(DataError):
    """Some images cannot be read.

    Args:
        failures: which and why, by their place in the data set.
        rest: the images without them.
        total: how many images there are with them.
    """

    def __init__(self, failures: Mapping[int, str], rest: Streamed, total: int):
        first = next(iter(failures.values()))
        super().__init__(f"{len(failures)} of {total} images cannot be read, the first is {first}.")
        self.failures, self.rest = failures, rest


def block_length(shape: Sequence[int]) -> int:
    """Return how many images of a height, width and channels are looked at together."""
    return max(1, min(BLOCK, _BLOCK_NUMBERS // math.prod(shape)))


def blocks(images: Pixels | Streamed) -> Iterator[Pixels]:
    """Yield all images in order, `images x height x width x channels` at a time."""
    if isinstance(images, Streamed):
        yield from images.blocks()
    else:
        length = block_length(images.shape[1:])
        for start in range(0, len(images), length):
            yield images[start : start + length]


def survey(
    images: Pixels | Streamed, train: npt.NDArray[np.int64]
) -> tuple[tuple[float, ...], tuple[float, ...], "hashlib.blake2b"]:
    """Look at all images once.

    Args:
        images: all of a data set.
        train: the numbers of the training images.

    Returns:
        Mean and standard deviation per channel of the training images (1 for a channel without
        variation), uint8 counting as 0..1; a digest of all images, equal for equal pixels.

    Raises:
        Unreadable: at the end, for images that are streamed.
    """
    shape, is_bytes, start = images.shape[-3:], images.dtype == np.uint8, 0
    digest = hashlib.blake2b(f"{shape} {images.dtype}".encode(), digest_size=8)
    is_train = np.zeros(len(images), bool)
    is_train[train] = True
    total, squares = np.zeros(shape), np.zeros(shape)
    for block in blocks(images):
        digest.update(np.ascontiguousarray(block).data)
        values = block[is_train[start : start + len(block)]]
        # float32 is exact here: 256 squares of bytes make less than 2**24
        values = values.astype(np.float32 if is_bytes else np.float64)
        total += values.sum(0)
        squares += np.square(values, out=values).sum(0)
        start += len(block)
    mean = (total / len(train)).mean((0, 1))
    std = np.sqrt(np.maximum((squares / len(train)).mean((0, 1)) - mean**2, 0))
    unit = 255.0 if is_bytes else 1.0
    std[std == 0] = unit
    return tuple((mean / unit).tolist()), tuple((std / unit).tolist()), digest


def batch_array(images: Any) -> Pixels:
    """Return a user's images as one contiguous array N x H x W x C of uint8 or float32.

    Args:
        images: array or tensor, N x H x W, N x H x W x C or N x C x H x W (see `channels_last`).
            uint8 stays; other integers become uint8 where 0..255 holds them; floats in 0..1
            become uint8 (times 255, rounded); whatever else is kept as float32.

    Raises:
        DataError: for another number of axes, no pixels, or NaN or infinity among them.
    """
    is_tensor = isinstance(images, Tensor)
    array = number_array(images)
    if array.dtype.kind not in _NUMBERS or array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(
            f"images have shape {array.shape} of {array.dtype}; "
            "give N x H x W, N x H x W x C or N x C x H x W real numbers."
        )
    return np.ascontiguousarray(as_pixels(channels_last(array, is_tensor)))


def number_array(values: Any) -> npt.NDArray[Any]:
    """Return an array, tensor or nested list as an array.

    Raises:
        DataError: for lists of different lengths, or a tensor of a type that NumPy lacks.
    """
    try:
        if isinstance(values, Tensor):
            return np.asarray(values.detach().cpu().numpy())
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"they cannot be made one array: {error}.") from None


def channels_last(array: Pixels, is_tensor: bool) -> Pixels:
    """Return a batch N x H x W, N x H x W x C or N x C x H x W as N x H x W x C.

    The channels are the axis beside which the images are squares of at least 8 pixels; if neither
    or both are, the shorter one. Where the second and the last axis are equally long, tensors have
    their channels in the second and arrays in the last.
    """
    if array.ndim == 3:
        return array[..., None]
    _, second, third, last = array.shape
    if second == last:
        channels_first = is_tensor
    elif third in (second, last) and third >= _SQUARE:
        channels_first = third == last
    else:
        channels_first = second < last
    return array.transpose(0, 2, 3, 1) if channels_first else array


def as_pixels(array: Pixels) -> Pixels:
    """Return numbers N x H x W x C as uint8 or float32; see `batch_array`."""
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(low + high):
        bad = int((~np.isfinite(array)).any(axis=(1, 2, 3)).sum())
        raise DataError(f"{bad} images hold NaN or infinity; remove or repair them.")
    dtype, scale = pixel_type(array.dtype, low, high)
    return array.astype(dtype, copy=False) if scale == 1 else quantized(array, scale)


def pixel_type(dtype: np.dtype[Any], low: float, high: float) -> tuple[np.dtype[Any], int]:
    """Choose the type and factor with which a user's numbers from `low` to `high` are kept."""
    if dtype.kind == "f" and low >= 0 and high <= 1:
        return np.dtype(np.uint8), 255
    if dtype.kind in "iub" and low >= 0 and high <= 255:
        return np.dtype(np.uint8), 1
    return np.dtype(np.float32), 1


def quantized(array: Pixels, scale: int) -> Pixels:
    """Multiply floats by `scale` and round them to uint8."""
    return np.rint(array * np.float32(scale)).astype(np.uint8)


def is_gray(image: Image.Image) -> bool:
    """Tell whether an opened image has one channel of intensity; its pixels are not read."""
    return image.mode in _GRAY_MODES or image.mode.startswith("I;")


def pixels(image: Image.Image, channels: int) -> Pixels:
    """Return an opened image as height x width x `channels` (1, 3, or 4 with alpha) uint8."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip rather than scale
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    array = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    return array[..., None] if channels == 1 else array


def check_one_size(shapes: Sequence[tuple[int, ...]], remedy: str) -> None:
    """Refuse images (height, width) of different sizes.

    Raises:
        DataError: with the commonest sizes; or when there are no images.
    """
    if not shapes:
        raise DataError("there are no images.")
    counts = Counter(shapes).most_common(4)
    if len(counts) > 1:
        sizes = ", ".join(f"{'x'.join(map(str, shape))} ({n} images)" for shape, n in counts)
        raise DataError(f"images differ in size (height x width): {sizes}; {remedy}.")


def image_array(image: Any) -> Pixels:
    """Return a Pillow image, array or tensor as height x width x channels, its type kept."""
    if isinstance(image, Image.Image):
        return pixels(image, 1 if is_gray(image) else 3)
    array = number_array(image)
    if array.ndim not in (2, 3) or array.dtype.kind not in _NUMBERS:
        raise DataError(f"an image of shape {array.shape} of {array.dtype} is no H x W x C.")
    batch = channels_last(array[None], isinstance(image, Tensor))
    return np.asarray(batch[0])
