"""What a plan follows from: the data, the hardware, and how fast the networks of a space train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trials.pace import Pace, Work


@dataclass(frozen=True)
class Dataset:
    """The sizes of a data set.

    Attributes:
        train: images of the training part.
        validation: likewise.
        input_shape: channels, height and width of an image.
    """

    train: int
    validation: int
    input_shape: tuple[int, int, int]


@dataclass(frozen=True)
class Hardware:
    """What trials run on.

    Attributes:
        slots: trials at the same time.
        cpus: CPU cores of the largest node.
    """

    slots: int
    cpus: int


@dataclass(frozen=True)
class Speed:
    """How fast the networks of a space train.

    Attributes:
        pace: of a trial.
        precision: the faster one; None: as the device has it.
        alone: how many times faster a network trains that has all cores of a node.
        works: of some random architectures, the smallest first.
        known: {architecture: work} of some that are known to be good, the smallest first.
        batch_size: images of a step.
    """

    pace: Pace
    precision: str | None
    alone: float
    works: Sequence[Work]
    known: Mapping[str, Work]
    batch_size: int

    def image_seconds(self, work: Work) -> float:
        """Return the seconds that training takes for one image."""
        return self.pace.seconds(work, self.batch_size) / self.batch_size

    @property
    def typical(self) -> float:
        """Return the seconds for one image of the architecture in the middle."""
        return self.image_seconds(self.works[len(self.works) // 2])
