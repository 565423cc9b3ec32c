"""What a trained network says of images: files as it was trained with them, or arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raynas.errors import InvalidArgument
from raynas.record.models import is_bounded
from trials.data.decoding import Encoded, Files
from trials.data.files import image_files
from trials.data.images import Unreadable, channels_last, number_array
from trials.data.scaling import Scaling
from trials.errors import DataError

_BATCH = 64  # images


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    Attributes:
        image: the path of the file, or the number of the image in the array.
        label: the name of the most probable class.
        probability: of that class, 0..1.
        probabilities: of all classes, in the order of their numbers.
    """

    image: str | int
    label: str
    probability: float
    probabilities: dict[str, float]


def predictions(model: nn.Module, content: Mapping[str, Any], images: Any) -> list[Prediction]:
    """Return what a network says of each image.

    Args:
        model: maps images to logits.
        content: of its `architecture.json`.
        images: a path of a file or folder, or several; or an array or tensor of images, as those
            the network was trained with.

    Raises:
        DataError: for files that cannot be read as images, naming the first.
        InvalidArgument: for arrays that the network does not take.
    """
    paths = _paths(images)
    if paths is None:
        batches, names = _of_array(images, content), None
    else:
        batches, names = _of_files(paths, content), paths
    found: list[Prediction] = []
    with torch.inference_mode():
        for batch in batches:
            shares = torch.softmax(model(batch).double(), dim=1).tolist()
            for row in shares:
                name = len(found) if names is None else names[len(found)]
                found.append(_prediction(name, row, content["class_names"]))
    return found


def _prediction(image: str | int, shares: Sequence[float], classes: Sequence[str]) -> Prediction:
    best = int(np.argmax(shares))
    named = dict(zip(classes, shares, strict=True))
    return Prediction(image, classes[best], shares[best], named)


def _paths(images: Any) -> list[str] | None:
    """Return the files that are meant, folders being searched; None: they are no paths.

    Raises:
        DataError: for a path where nothing is, or a folder without images.
    """
    given = [images] if isinstance(images, str | Path) else images
    if not isinstance(given, Sequence) or not all(isinstance(item, str | Path) for item in given):
        return None
    paths: list[str] = []
    for path in (Path(item).expanduser() for item in given):
        if path.is_dir():
            inside = image_files(path)
            if not inside:
                raise DataError(f"images: the folder {path} holds none.")
            paths += inside
        elif path.exists():
            paths.append(str(path))
        else:
            raise DataError(f"images: there is no file {path}.")
    return paths


def _of_files(paths: Sequence[str], content: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield batches of uint8 images, read and scaled as for the training."""
    channels, height, width = content["input_shape"]
    if not is_bounded(content) or channels not in (1, 3, 4):
        kind = f"arrays of {channels} channels" if is_bounded(content) else "numbers beyond 0..1"
        raise InvalidArgument(
            f"images: this network was trained with {kind}, which image files do not hold; give"
            " arrays, in Python: best.predict(array)."
        )
    scaling = Scaling((height, width), content.get("fit") or "crop")
    files = Encoded(Files(paths), np.arange(len(paths)), (height, width, channels), scaling)
    try:
        for block in files.blocks():
            yield from torch.split(torch.from_numpy(block).permute(0, 3, 1, 2), _BATCH)
    except Unreadable as error:
        raise DataError(f"images: {error} Remove or replace them.") from None


def _of_array(images: Any, content: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield batches of an array or tensor: uint8, or floats."""
    array = number_array(images)
    channels = content["input_shape"][0]
    if array.ndim == 3 and channels == 1:
        array = array[..., None]
    elif array.ndim == 4:
        array = channels_last(array, isinstance(images, Tensor))
    if array.ndim != 4 or array.shape[-1] != channels:
        raise InvalidArgument(
            f"images have shape {np.shape(images)}; this network takes batches of images with"
            f" {channels} channels: N x H x W x {channels}, or tensors N x {channels} x H x W."
        )
    if array.dtype.kind in "iub" and is_bounded(content):
        if array.size and not 0 <= array.min() <= array.max() <= 255:
            raise InvalidArgument(
                f"images go from {array.min()} to {array.max()}; integers must be in 0..255."
            )
        array = array.astype(np.uint8)
    elif array.dtype != np.uint8 or not is_bounded(content):
        array = array.astype(np.float32)
    yield from torch.split(torch.from_numpy(np.array(array)).permute(0, 3, 1, 2), _BATCH)
