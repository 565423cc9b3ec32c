"""The data of a search: labeled images, divided into a training, a validation and a test part.

    data = load("cifar10:root=/data", fraction=0.1)
    for images, labels in data.train.batches(64, "cuda", seed=0, augment=True): ...

A data set that fits lives as one uint8 array, which pickles without a copy (protocol 5), so that
every process of a machine can map the same one; on a GPU it is copied to the device once per
process and augmented there. One that does not fit is read by a `DataLoader`, with the same
normalization and augmentation.
"""

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
from torch.utils.data import Dataset

from search_spaces.errors import InvalidArgument, UnknownName
from search_spaces.naming import Table, construct, converted, parse, spell, suggestion
from trials.data.augmentation import Augmentation
from trials.data.images import Unreadable, survey
from trials.data.objects import Arrays, TorchDataset
from trials.data.parts import Indices, Part, Store
from trials.data.scaling import Fit
from trials.data.sources import Collection, Source
from trials.errors import DataError
from trials.places import as_os_errors, is_url, place

_SOURCES: Table[type[Source]] = Table(
    {
        "digits": "trials.data.sources:Digits",
        "mnist": "trials.data.sources:MNIST",
        "fashion_mnist": "trials.data.sources:FashionMNIST",
        "cifar10": "trials.data.sources:CIFAR10",
        "cifar100": "trials.data.sources:CIFAR100",
        "svhn": "trials.data.sources:SVHN",
        "folder": "trials.data.files:Folder",
        "parquet": "trials.data.files:Parquet",
    }
)


def names() -> list[str]:
    """List the names that `load` knows."""
    return list(_SOURCES)


def absolute(source: str) -> str:
    """Write a name with arguments, or a path, so that it means the same in every folder."""
    name, positional, options = parse(source)
    if name not in _SOURCES:
        return str(place(source))
    hints = get_type_hints(_SOURCES[name])

    def spelled(option: str, value: str) -> str:
        is_path = Path in (hints.get(option), *get_args(hints.get(option)))
        return str(place(value)) if is_path else value

    places = [*inspect.signature(_SOURCES[name]).parameters, *[""] * len(positional)]
    arguments = [spelled(option, value) for option, value in zip(places, positional, strict=False)]
    arguments += [f"{option}={spelled(option, value)}" for option, value in options.items()]
    return f"{name}:{','.join(arguments)}" if arguments else name


@dataclass(frozen=True, eq=False)
class Data:
    """Labeled images for one search.

    Attributes:
        name: a short name.
        class_names: one per class.
        train: what networks are trained with.
        validation: what architectures are compared by.
        test: what nothing is chosen by.
        fingerprint: 16 hexadecimal digits that depend on all images and labels, on the names of
            the classes, on the division into parts and on the augmentation.
        notes: what was decided about the images that nobody had said: how they were scaled,
            which were left out.
        fit: how an image of another size is brought to the size of these; see `Scaling`.
    """

    name: str
    class_names: tuple[str, ...]
    train: Part
    validation: Part
    test: Part
    fingerprint: str
    notes: tuple[str, ...] = ()
    fit: Fit = "crop"

    @property
    def train_and_validation(self) -> Part:
        """Both parts as one, to train the chosen architecture anew."""
        indices = np.concatenate((self.train.indices, self.validation.indices))
        return Part(self.train.store, indices)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.train.input_shape

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of the training part; 0..1 unless the user's floats were beyond that."""
        return self.train.store.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel, like `mean`; 1 for a channel without variation."""
        return self.train.store.std

    @property
    def unit(self) -> str:
        """The unit of the numbers of an image before they are normalized, in words."""
        if self.train.store.unit == 255:
            return "0..1"
        return "in the units of the training images"

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of `Part.batches`."""
        return self.train.store.augmentation

    def free(self) -> None:
        """Release the memory that the images take on GPUs; the next batch takes it again."""
        self.train.store.on_device.clear()


def load(source: Any = "digits", seed: int = 0, **options: Any) -> Data:
    """Read, check and divide a data set.

    Args:
        source: a name with arguments (`digits`, `cifar10:root=/data,fraction=0.1`,
            `folder:/photos,size=32`, `parquet:train.parquet,test=test.parquet`), a path of a
            folder or a `.parquet` file, a pair (images, labels) of arrays or tensors, a
            map-style `torch.utils.data.Dataset`, a `Source`; or a `Data`, which comes back.
        seed: of the division into parts.
        options: of the source, as in its class; they add to those that a name carries.

    Raises:
        UnknownName: for what is neither a name nor a path (the closest match is suggested).
        InvalidArgument: for an option that the source lacks, or of the wrong type.
        DataError: for data that cannot be used: where, why and the remedy.
    """
    if seed < 0:
        raise InvalidArgument(f"seed={seed} is negative.")
    if isinstance(source, (Data, Source)):
        if options:
            raise InvalidArgument(f"data is a {type(source).__name__} and takes no {options}.")
        if isinstance(source, Data):
            return source
    try:
        return _prepared(_source(source, options), seed)
    except OSError as error:
        if not (isinstance(source, (str, os.PathLike)) and "://" in str(source)):
            raise
        raise DataError(f"data={str(source)!r} cannot be read: {error}.") from error
    except DataError as error:
        shown = repr(str(source)) if isinstance(source, (str, os.PathLike)) else _kind(source)
        raise DataError(f"data={shown}: {error}") from None


def _kind(source: Any) -> str:
    return "(images, labels)" if isinstance(source, (tuple, list)) else type(source).__name__


def _source(source: Any, options: dict[str, Any]) -> Source:
    """Return the source that `source` denotes; see `load`."""
    if isinstance(source, Source):
        if type(source) in _SOURCES.values():
            values = {f.name: getattr(source, f.name) for f in fields(source) if f.init}
            converted("data", type(source).__name__, type(source), values)
        return source
    if isinstance(source, (str, os.PathLike)):
        name = parse(source)[0] if isinstance(source, str) else ""
        if isinstance(source, str) and name in _SOURCES:
            stated = {key: value for key, value in options.items() if value is not None}
            extra = spell("", stated).removeprefix(":")
            separator = "," if ":" in source else ":"
            return construct("data", source + (extra and separator + extra), _SOURCES)
        path = place(source) if is_url(source) else Path(source).expanduser()
        with as_os_errors(path):
            return _path_source(path, options)
    if isinstance(source, (tuple, list)) and len(source) == 2:
        images, labels = source
        if isinstance(images, Dataset) or isinstance(labels, Dataset):
            raise DataError(
                "a pair is (images, labels). For a training and a test data set give"
                " trials.data.load(train, test=test)."
            )
        return Arrays(images, labels, **converted("data", "arrays", Arrays, options))
    if hasattr(source, "__getitem__") or hasattr(source, "__iter__"):
        checked = converted("data", "dataset", TorchDataset, options)
        return TorchDataset(source, **checked)
    raise DataError(
        "expected a name, a path, a pair (images, labels), a torch Dataset, a Source or a Data."
    )


def _path_source(path: Path, options: dict[str, Any]) -> Source:
    """Return the folder or Parquet file at `path`."""
    from trials.data.files import Folder, Parquet  # with pyarrow, which no trial needs

    if path.is_dir():
        return Folder(path, **converted("data", "folder", Folder, options))
    if path.suffix == ".parquet":
        return Parquet(path, **converted("data", "parquet", Parquet, options))
    if path.exists():
        raise DataError("it is neither a folder of class folders nor a .parquet file.")
    if len(path.parts) > 1:
        raise DataError("there is no such folder or file.")
    hint = suggestion(str(path).partition(":")[0], _SOURCES)
    raise UnknownName(f"data={str(path)!r} is neither a known name nor a path. {hint}")


def _prepared(source: Source, seed: int) -> Data:
    """Read, check, divide and measure the data set of a source."""
    collection = source.read()
    try:
        return _measured(collection, source, seed)
    except Unreadable as error:  # images that are streamed were not decoded before
        return _measured(collection.without(error.failures, error.rest), source, seed)


def _measured(collection: Collection, source: Source, seed: int) -> Data:
    """Check, divide and measure what a source has read."""
    labels, class_names = _checked(collection)
    train, validation, test = _divided(collection, labels, class_names, source, seed)
    augmentation = _augmentation(source, collection.images.shape[-3:])
    mean, std, digest = survey(collection.images, train)
    for array in (labels, train, validation, test):
        digest.update(array.tobytes())
    digest.update(f"{class_names} {augmentation}".encode())
    store = Store(collection.images, labels, mean, std, augmentation)
    return Data(
        name=source.name,
        class_names=class_names,
        train=Part(store, train),
        validation=Part(store, validation),
        test=Part(store, test),
        fingerprint=digest.hexdigest(),
        notes=collection.all_notes,
        fit=getattr(source, "fit", "crop"),
    )


def _augmentation(source: Source, shape: Sequence[int]) -> Augmentation:
    """Return the augmentation that a source asks for, or that is usual for its images.

    Raises:
        DataError: for one that is too large for the images.
    """
    height, width, channels = shape
    crop = source.crop
    if crop is None:
        crop = height // 8 if height // 8 < width else width // 8
    usual = channels != 1 if source.flips is None else source.flips
    if crop >= min(height, width):
        raise DataError(f"crop={crop} is no less than the size of the images, {height}x{width}.")
    if source.cutout > min(height, width):
        raise DataError(f"cutout={source.cutout} is larger than the images, {height}x{width}.")
    return Augmentation(crop, usual if source.flip is None else source.flip, source.cutout)


def _checked(collection: Collection) -> tuple[Indices, tuple[str, ...]]:
    """Return labels as int64, and the class names.

    Raises:
        DataError: for labels that are not 0..n-1.
    """
    if collection.labels.dtype.kind not in "iu":
        raise DataError(f"labels are {collection.labels.dtype}; give integers 0..n-1.")
    labels = np.ascontiguousarray(collection.labels, np.int64)
    numbers = np.unique(labels[: collection.sizes[0]])
    if labels.min() < 0:
        where = int(labels.argmin())
        raise DataError(f"label {labels[where]} of image {where} is negative; number from 0.")
    if len(numbers) == 1:
        raise DataError(f"all training images are of one class, {numbers[0]}; give at least two.")
    classes = len(numbers)
    if numbers[-1] != classes - 1:
        absent = next(k for k in range(numbers[-1]) if k not in numbers)
        raise DataError(
            f"labels are not 0..n-1: the largest is {numbers[-1]}, but no training image has "
            f"{absent}; number the {classes} classes without gaps."
        )
    if labels.max() >= classes:
        raise DataError(
            f"label {labels.max()} is among the validation or test images, but not among the "
            f"training images, which have 0..{classes - 1}; move some there or drop the class."
        )
    names = collection.class_names if len(collection.class_names) == classes else range(classes)
    return labels, tuple(str(name) for name in names)


def _divided(
    collection: Collection, labels: Indices, class_names: Sequence[str], source: Source, seed: int
) -> list[Indices]:
    """Divide the images into training, validation and test part: sorted numbers, all classes."""
    train, validation, test = np.split(np.arange(len(labels)), np.cumsum(collection.sizes)[:-1])
    counts = np.bincount(labels[train])
    needed = 1 + (not len(validation)) + (not len(test))
    if counts.min() < needed:
        raise DataError(
            f"class {class_names[int(counts.argmin())]!r} has too few training images "
            f"({counts.min()}) to split: give at least {needed} of every class."
        )
    if not len(test):
        leave = 1 if len(validation) else 2
        test = _drawn(train, labels, source.test_fraction, [seed, 0], leave)
        train = np.setdiff1d(train, test)
    if not len(validation):
        validation = _drawn(train, labels, source.validation_fraction, [seed, 1], leave=1)
        train = np.setdiff1d(train, validation)
    if source.fraction < 1:
        train = _drawn(train, labels, source.fraction, [seed, 2], leave=0)
    return [train, validation, test]


def _drawn(
    indices: Indices, labels: Indices, fraction: float, seed: list[int], leave: int
) -> Indices:
    """Draw a random `fraction` of every class, rounded; at least one, at most all but `leave`.

    Not by scikit-learn, whose `StratifiedShuffleSplit` draws other parts and can leave a class
    out: a run folder is continued only with the division that its fingerprint is of.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for label in range(labels.max() + 1):
        members = rng.permutation(indices[labels[indices] == label])
        count = min(max(round(len(members) * fraction), 1), len(members) - leave)
        drawn.append(members[:count])
    return np.sort(np.concatenate(drawn))
