"""Images that are evaluated again and again: decoded, normalized and put into memory once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import InvalidArgument
from trials.data.parts import Part

_DECODED = 512  # images of a batch while they are read


@dataclass(frozen=True, eq=False)
class Sample:
    """Images and labels in memory.

    Attributes:
        images: normalized, not augmented, `images x channels x height x width`, float32,
            channels-last.
        labels: `images` class numbers, int64.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Sample":
        """Return the same on a device."""
        return Sample(self.images.to(device), self.labels.to(device))

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over views of (images, labels), the last batch as small as it comes out."""
        images, labels = torch.split(self.images, batch_size), torch.split(self.labels, batch_size)
        return zip(images, labels, strict=True)


def sample(part: Part, images: int | None = None, seed: int = 0) -> Sample:
    """Read images of a part of the data, in random order, onto the CPU.

    Args:
        part: of the data.
        images: how many, drawn without replacement; None: all.
        seed: of the order and the draw.

    Raises:
        InvalidArgument: when the part has not so many.
    """
    count = len(part) if images is None else images
    if not 1 <= count <= len(part):
        raise InvalidArgument(f"images={images}: the part of the data has {len(part)}.")
    chosen = part.indices[np.random.default_rng(seed).permutation(len(part))[:count]]
    channels, height, width = part.input_shape
    pixels = torch.empty((count, channels, height, width), memory_format=torch.channels_last)
    drawn, start = Part(part.store, chosen), 0
    for batch, _ in drawn.batches(_DECODED):
        pixels[start : start + len(batch)] = batch
        start += len(batch)
    return Sample(pixels, torch.from_numpy(drawn.labels))
