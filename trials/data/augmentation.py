"""Augmentation of whole batches: pad and crop, mirror, cut out.

All random numbers of an epoch are drawn at once (`draw`) and then applied batch by batch, so an
epoch depends on its seed only: not on the device, nor on how many threads read the images.
Padding, mirroring and cropping are one gather of image rows; nothing loops over images.

Cutout is DeVries, Taylor (2017), arXiv:1708.04552: a square whose center is uniform over the
image and which may reach beyond its border; what it covers becomes the mean of the data.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image that keep its class.

    Args:
        crop: pixels of zero padding on every side before a crop of the original size; 0: none.
        flip: mirror left to right with probability 1/2.
        cutout: side of the square that is cut out, in pixels; 0: none.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw the random numbers for `count` images: `count x 5` int64 on the CPU.

        The columns are the top and left edge of the crop in the padded image (0..2 `crop`),
        whether to mirror (0 or 1), and row and column of the center of the cutout.
        """
        bounds = (2 * self.crop + 1, 2 * self.crop + 1, 1 + self.flip, height, width)
        columns = [torch.randint(bound, (count,), generator=generator) for bound in bounds]
        return torch.stack(columns, dim=1)

    def crop_and_flip(self, images: Tensor, draws: Tensor) -> Tensor:
        """Pad, crop and mirror images, `batch x height x width x channels` of any type.

        Args:
            images: contiguous, in the same layout.
            draws: the `batch x 5` rows of `draw` for these images, on the same device.
        """
        if not (self.crop or self.flip):
            return images
        batch, height, width, channels = images.shape
        top, left, mirror = draws[:, 0], draws[:, 1], draws[:, 2]
        image = torch.arange(batch, device=images.device)
        if self.flip:  # both versions lie one behind the other, and the gather takes one of them
            mirrored = images.permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)
            images = torch.cat((images, mirrored))
            image = image + batch * mirror
        padding = self.crop
        images = F.pad(images, (0, 0, padding, padding, padding, padding))
        _, tall, wide, _ = images.shape
        # All rows of `width` pixels, wherever they start: an overlapping view, nothing is copied.
        starts = len(images) * tall * wide - width + 1
        rows = images.as_strided((starts, width * channels), (channels, 1))
        first = (image * tall + top) * wide + left
        chosen = first[:, None] + wide * torch.arange(height, device=images.device)
        return rows.index_select(0, chosen.flatten()).view(batch, height, width, channels)

    def cut_out(self, images: Tensor, draws: Tensor) -> Tensor:
        """Set a square of each normalized image to 0, in place; return the images.

        Args:
            images: `batch x height x width x channels`, normalized, so that 0 is the mean of
                the data.
            draws: as in `crop_and_flip`.
        """
        if not self.cutout:
            return images
        _, height, width, _ = images.shape
        rows = _covered(draws[:, 3], height, self.cutout)
        columns = _covered(draws[:, 4], width, self.cutout)
        return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[..., None], 0.0)


def _covered(center: Tensor, length: int, side: int) -> Tensor:
    """Tell which of `length` positions a segment of `side` around each center covers.

    Returns:
        `batch x length`.
    """
    offset = torch.arange(length, device=center.device) - center[:, None] + side // 2
    return (offset >= 0) & (offset < side)
