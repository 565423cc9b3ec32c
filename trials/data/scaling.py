"""Images of different sizes: how they are brought to one, and to which if nobody says."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Literal

from PIL import ExifTags, Image, ImageOps

#: pixels of the shorter side above which nothing is scaled unless asked for
LARGEST = 224
_COMMON = 0.9  # share of the images from which on their size is everybody's

Fit = Literal["crop", "pad"]
Size = tuple[int, int]  # height and width

_Turn = Image.Transpose
#: what makes an image upright, by its orientation in EXIF
_TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}


@dataclass(frozen=True)
class Scaling:
    """Brings images to one size, and keeps the proportions of what they show.

    Args:
        size: height and width.
        fit: `crop`: the largest centered rectangle of the right shape is cut out and scaled;
            `pad`: the whole image is scaled, and what is left of the rectangle becomes black.
    """

    size: Size
    fit: Fit = "crop"

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the scaled image; one that has the size already keeps its pixels."""
        width_and_height = self.size[::-1]
        image = _smooth(image)
        if self.fit == "pad":
            return ImageOps.pad(image, width_and_height, Image.Resampling.BILINEAR, color=0)
        return ImageOps.fit(image, width_and_height, Image.Resampling.BILINEAR)

    def draft(self, image: Image.Image) -> None:
        """Have an opened JPEG decoded no larger than needed; a large one then takes less memory."""
        side = 2 * max(self.size)
        image.draft(None, (side, side))


def usual_size(sizes: Sequence[Size]) -> Size:
    """Return the height and width to which images of different sizes are scaled.

    It is the size that at least nine of ten images have, or else a square of the median of their
    shorter sides; with a shorter side of more than `LARGEST`, it is scaled down to that.
    """
    (size, count) = Counter(sizes).most_common(1)[0]
    if count < _COMMON * len(sizes):
        side = median_low([min(size) for size in sizes])
        size = (side, side)
    shrink = min(1.0, LARGEST / min(size))
    return round(size[0] * shrink), round(size[1] * shrink)


def scaling_note(sizes: Sequence[Size], scaling: Scaling, remedy: str) -> str:
    """Tell the user how images of different sizes are scaled, and how to have it otherwise."""
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    done = "are cut and scaled" if scaling.fit == "crop" else "are scaled and padded"
    return (
        f"{len(sizes):,} images from {shown(ordered[0])} to {shown(ordered[-1])} pixels "
        f"(height x width) {done} to {shown(scaling.size)}; {remedy} says otherwise."
    )


def shown(size: Size) -> str:
    """Return a height and width as people write them."""
    return f"{size[0]}x{size[1]}"


def turn(image: Image.Image) -> Image.Transpose | None:
    """Return what makes an opened image upright, by its EXIF data; its pixels are not read.

    Pillow does so itself for TIFF.
    """
    if "exif" not in image.info:  # asked for by name, a PNG's would be looked for behind the pixels
        return None
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data raise anything; the pixels may be sound
        return None


def upright_size(image: Image.Image) -> Size:
    """Return height and width of an opened image once it is upright; its pixels are not read."""
    size = (image.height, image.width)
    swapped = turn(image) in (
        _Turn.TRANSPOSE, _Turn.ROTATE_90, _Turn.TRANSVERSE, _Turn.ROTATE_270,
    )  # fmt: skip
    return size[::-1] if swapped else size


def _smooth(image: Image.Image) -> Image.Image:
    """Return an image in a mode that scales smoothly: palettes and bitmaps do not."""
    return image.convert({"P": "RGB", "1": "L"}[image.mode]) if image.mode in "P1" else image
