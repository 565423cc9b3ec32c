"""Where images come from: one class per kind of source, each with its options.

Here are the contract and the data sets that have a name; `files` has folders and Parquet
files, `objects` arrays and PyTorch data sets. A source of one's own is a subclass of
`Source` with a `read` method; its object goes wherever data is asked for.
"""

import math
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt

from trials.data.images import Pixels, Streamed, batch_array
from trials.errors import DataError

_DOWNLOAD_TIMEOUT = 5.0  # seconds without an answer


@dataclass(frozen=True, eq=False)
class Collection:
    """The images of a source: those of training first, then those of validation, then of test.

    Attributes:
        images: N x height x width x channels.
        labels: N integers.
        sizes: how many images are for training, validation and test; a 0 is split off the
            training images.
        class_names: one per class; empty: the class numbers.
        notes: what was decided about them that the user should know.
        broken: the largest part of the images that may be left out as unreadable.
        unreadable: which have been left out, and why.
    """

    images: Pixels | Streamed
    labels: npt.NDArray[Any]
    sizes: tuple[int, int, int]
    class_names: Sequence[str] = ()
    notes: tuple[str, ...] = ()
    broken: float = 0.0
    unreadable: tuple[str, ...] = ()

    def without(self, failures: Mapping[int, str], rest: Pixels | Streamed) -> "Collection":
        """Return the collection without some images that cannot be read.

        Args:
            failures: which and why, by their place.
            rest: the images without them.

        Raises:
            DataError: when these are too many, all of a class, or all of a part.
        """
        unreadable = (*self.unreadable, *failures.values())
        total = len(self.labels) + len(self.unreadable)
        told = f"cannot be read, the first is {unreadable[0]}; remove or replace them"
        if len(unreadable) > self.broken * total:
            enough = math.ceil(100 * len(unreadable) / total) / 100
            otherwise = f", or leave out so many with broken={enough}" if enough < 1 else ""
            raise DataError(f"{len(unreadable)} of {total} images {told}{otherwise}.")
        kept = np.ones(len(self.labels), bool)
        kept[list(failures)] = False
        train, validation, test = (
            int(part.sum()) for part in np.split(kept, np.cumsum(self.sizes)[:-1])
        )
        labels = self.labels[kept]
        lost = np.setdiff1d(self.labels[: self.sizes[0]], labels[:train])
        if lost.size:
            names = dict(enumerate(self.class_names))
            raise DataError(f"all training images of class {names.get(lost[0], lost[0])} {told}.")
        for part, before, after in zip(
            ("validation", "test"), self.sizes[1:], (validation, test), strict=True
        ):
            if before and not after:
                raise DataError(f"all {part} images {told}.")
        return replace(
            self, images=rest, labels=labels, sizes=(train, validation, test),
            unreadable=unreadable,
        )  # fmt: skip

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The notes, and which images were left out."""
        if not self.unreadable:
            return self.notes
        total = len(self.labels) + len(self.unreadable)
        return (
            *self.notes,
            f"{len(self.unreadable):,} of {total:,} images cannot be read and are left out; the "
            f"first is {self.unreadable[0]}.",
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Source(ABC):
    """A source of labeled images, how they are divided, and how augmented.

    Args:
        fraction: the part of the training images to use, of every class alike.
        validation_fraction: the part of the training images to validate with, where the
            source brings no validation images.
        test_fraction: the part of all images to test with, where it brings no test images.
        crop: pixels of padding before the random crop; None: an eighth of the height (of the
            width, where the images are too narrow for that).
        flip: mirror training images at random; None: as is usual for the source.
        cutout: side of the square to cut out of training images, in pixels; 0: none.
    """

    fraction: float = 1.0
    validation_fraction: float = 0.2
    test_fraction: float = 0.2
    crop: int | None = None
    flip: bool | None = None
    cutout: int = 0
    #: whether a mirrored image keeps its class; None: unless the images are gray
    flips: ClassVar[bool | None] = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            DataError: for one out of its range.
        """
        if not 0 < self.fraction <= 1:
            raise DataError(f"fraction={self.fraction} is not in (0, 1].")
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise DataError(f"{name}={getattr(self, name)} is not in (0, 1).")
        for name in ("crop", "cutout"):
            if (getattr(self, name) or 0) < 0:
                raise DataError(f"{name}={getattr(self, name)} is negative; it counts pixels.")

    @property
    def name(self) -> str:
        """A short name for reports."""
        return type(self).__name__.lower()

    @abstractmethod
    def read(self) -> Collection:
        """Read all images and labels.

        Raises:
            DataError: for what cannot be read or used.
        """


@dataclass(frozen=True, eq=False, kw_only=True)
class LargeSource(Source):
    """A source that may be too large for memory, and is then read again in every epoch.

    Args:
        limit_bytes: size of the decoded images up to which they are kept as one array.
        workers: processes that read what is not kept; None: one for each of PyTorch's
            threads but the first, at most 8.
    """

    limit_bytes: NonNegativeInt = 2 << 30
    workers: NonNegativeInt | None = None


@dataclass(frozen=True, eq=False)
class Digits(Source):
    """1,797 handwritten digits of 8 x 8 gray pixels, which come with scikit-learn."""

    flips = False

    def read(self) -> Collection:
        """See `Source`."""
        from sklearn.datasets import load_digits  # slow to import; trials never come here

        digits = load_digits()
        return Collection(
            batch_array(digits.images / 16), digits.target, (len(digits.target), 0, 0)
        )


@dataclass(frozen=True, eq=False)
class TorchvisionSet(Source):
    """A data set that torchvision knows; downloaded when `root` does not hold it.

    Args:
        root: folder that holds the files, in torchvision's layout.
    """

    root: Path = Path("~/.cache/raynas")
    kind: ClassVar[str]  # the class in torchvision.datasets
    files: ClassVar[tuple[str, ...]]  # what it looks for in `root`

    def read(self) -> Collection:
        """See `Source`."""
        root = self.root.expanduser()
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)  # torchvision would wait forever
        try:
            train, test = self._open(root, train=True), self._open(root, train=False)
        except (OSError, RuntimeError) as error:
            files = ", ".join(str(root / file) for file in self.files)
            raise DataError(
                f"not found in {root}, and the download failed ({str(error).splitlines()[-1]}); "
                f"put these files there: {files}; or name the folder that has them with root=."
            ) from None
        finally:
            socket.setdefaulttimeout(timeout)
        images = [batch_array(part.data) for part in (train, test)]
        labels = [getattr(part, "targets", getattr(part, "labels", None)) for part in (train, test)]
        return Collection(
            np.concatenate(images),
            np.concatenate([np.asarray(part) for part in labels]),
            (len(images[0]), 0, len(images[1])),
            getattr(train, "classes", ()),
        )

    def _open(self, root: Path, train: bool) -> Any:
        import torchvision.datasets  # slow to import; trials never come here

        kind = getattr(torchvision.datasets, self.kind)
        if self.kind == "SVHN":
            return kind(root, split="train" if train else "test", download=True)
        return kind(root, train=train, download=True)


_MNIST_FILES = tuple(
    f"{part}-{what}-ubyte.gz"
    for part in ("train", "t10k")
    for what in ("images-idx3", "labels-idx1")
)


class MNIST(TorchvisionSet):
    """70,000 handwritten digits, 28 x 28 gray."""

    kind, flips = "MNIST", False
    files = tuple(f"MNIST/raw/{file}" for file in _MNIST_FILES)


class FashionMNIST(TorchvisionSet):
    """70,000 pieces of clothing, 28 x 28 gray."""

    kind, flips = "FashionMNIST", True
    files = tuple(f"FashionMNIST/raw/{file}" for file in _MNIST_FILES)

    @property
    def name(self) -> str:
        """The name as it is spelled where data is asked for."""
        return "fashion_mnist"


class CIFAR10(TorchvisionSet):
    """60,000 photos of 10 classes, 32 x 32 RGB."""

    kind, flips, files = "CIFAR10", True, ("cifar-10-python.tar.gz",)


class CIFAR100(TorchvisionSet):
    """60,000 photos of 100 classes, 32 x 32 RGB."""

    kind, flips, files = "CIFAR100", True, ("cifar-100-python.tar.gz",)


class SVHN(TorchvisionSet):
    """99,289 house numbers, 32 x 32 RGB."""

    kind, flips, files = "SVHN", False, ("train_32x32.mat", "test_32x32.mat")
