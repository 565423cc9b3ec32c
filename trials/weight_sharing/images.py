"""The validation images that children are judged on."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trials.data.parts import Part

_BATCH = 512  # images
_KEPT = 1 << 30  # bytes of images that are kept; more are read anew each time


@dataclass(frozen=True)
class Images:
    """The images that children are judged on: batches of validation images, on the device.

    Args:
        batches: (images, labels), again and again; all of about the same size.
        calibration: training images that batch-normalization statistics are recomputed with,
            `n x channels x height x width`; None where they are not.
    """

    batches: Iterable[tuple[Tensor, Tensor]]
    calibration: Tensor | None = None

    @classmethod
    def of(
        cls,
        part: Part,
        device: torch.device,
        seed: int,
        most: int | None = None,
        calibration: Tensor | None = None,
    ) -> "Images":
        """Return the images of a part in an order drawn once, in batches of about equal size.

        Args:
            part: which; where images are stored class by class, statistics of a batch would
                otherwise be those of a class.
            device: where they are to be.
            seed: of the order.
            most: how many of them; None: all.
            calibration: see the class.
        """
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed)).numpy()
        chosen = Part(part.store, part.indices[order[:most]])
        size = -(-len(chosen) // -(-len(chosen) // _BATCH))
        batches = _Batches(chosen, size, device)
        pixels = len(chosen) * math.prod(chosen.input_shape)
        return cls(list(batches) if 4 * pixels <= _KEPT else batches, calibration)


@dataclass(frozen=True)
class _Batches:
    """The batches of a part, made anew each time that they are gone through."""

    part: Part
    size: int
    device: torch.device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.part.batches(self.size, self.device)
