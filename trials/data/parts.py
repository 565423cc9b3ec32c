"""The parts of a data set, and the images that they share: from stored pixels to batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from search_spaces.errors import InvalidArgument
from trials.data.augmentation import Augmentation
from trials.data.images import Pixels, Streamed

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Store:
    """The images and labels that the parts of a data set share.

    Attributes:
        images: N x height x width x channels, uint8 or float32.
        labels: N int64.
        mean: per channel, in the units of `Part.raw`.
        std: per channel, likewise.
        augmentation: of training images.
        on_device: what is cached on devices; not pickled.
    """

    images: Pixels | Streamed
    labels: Indices
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    on_device: dict[torch.device, Tensor] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.images, self.labels, self.mean, self.std, self.augmentation)

    @property
    def unit(self) -> float:
        """The stored value that counts as 1."""
        return 255.0 if self.images.dtype == np.uint8 else 1.0

    def read(self, order: Indices, batch_size: int, device: torch.device) -> Iterator[Tensor]:
        """Yield batches of the images numbered `order`, NHWC as stored, on the device."""
        starts = range(0, len(order), batch_size)
        chunks = [order[start : start + batch_size] for start in starts]
        if isinstance(self.images, Streamed):
            yield from self._stream(self.images, chunks, device)
        elif device.type == "cpu":
            yield from (torch.from_numpy(self.images[chunk]) for chunk in chunks)
        else:
            device = torch.empty(0, device=device).device  # "cuda" is "cuda:0", say
            if device not in self.on_device:
                self.on_device[device] = torch.tensor(self.images, device=device)
            for chunk in torch.split(torch.tensor(order, device=device), batch_size):
                yield self.on_device[device].index_select(0, chunk)

    def scale_and_shift(
        self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return scale and shift, by which stored x become (x / unit - mean) / std.

        Returns:
            Two tensors with one number for each of a row's `width * channels` numbers, so that
            the innermost loop of the multiplication is a long one.
        """
        width = self.images.shape[-2]
        inverse = 1 / np.array(std)
        rows = np.tile((inverse / self.unit, -np.array(mean) * inverse), width)
        scale, shift = torch.tensor(rows, dtype=torch.float32, device=device)
        return scale, shift

    @staticmethod
    def _stream(images: Streamed, chunks: list[Indices], device: torch.device) -> Iterator[Tensor]:
        workers = images.workers
        loader: DataLoader[Pixels] = DataLoader(
            images,
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=min(8, torch.get_num_threads() - 1) if workers is None else workers,
            collate_fn=_stacked,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from PyTorch's own
        )
        for batch in loader:
            yield batch.to(device, non_blocking=True)


def _stacked(images: list[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(images))


@dataclass(frozen=True, eq=False, repr=False)
class Part:
    """Some of a data set's images: those to train, to validate or to test with."""

    store: Store
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"<{len(self)} images>"

    @property
    def labels(self) -> Indices:
        """The class numbers, in the order of `batches` without a seed."""
        return self.store.labels[self.indices]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        height, width, channels = self.store.images.shape[-3:]
        return channels, height, width

    def with_cutout(self, side: int) -> "Part":
        """Return the same images, augmented by cutting out squares of `side` pixels; 0: none."""
        augmentation = replace(self.store.augmentation, cutout=side)
        return Part(replace(self.store, augmentation=augmentation), self.indices)

    def batches(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        augment: bool = False,
        share: Callable[[int], slice] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over one epoch of (normalized images, labels).

        Args:
            batch_size: images of a batch.
            device: where the batches are to be.
            seed: None: all images in order, the last batch as small as it comes out. Else they
                are shuffled, the epoch is a function of this seed alone, and an incomplete
                last batch is left out unless it is the only one.
            augment: change the images at random; needs a seed.
            share: tells which rows of a batch of so many images are wanted; the others are not
                read. Those that are come out as without it. Needs a seed. None: all.

        Returns:
            An iterator of float32 `batch x channels x height x width` in channels-last memory,
            and int64 `batch`.

        Raises:
            InvalidArgument: for a batch size below 1, or augmentation without a seed.
        """
        if augment and seed is None:
            raise InvalidArgument("augment=True draws random numbers; pass a seed.")
        order, draws = self.indices, None
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            order = order[torch.randperm(len(order), generator=generator).numpy()]
            if augment:
                _, height, width = self.input_shape
                draws = self.store.augmentation.draw(len(order), height, width, generator)
            if len(order) > batch_size:
                order = order[: len(order) // max(batch_size, 1) * batch_size]
            if share is not None:
                size = min(batch_size, len(order))
                rows = np.arange(len(order)).reshape(-1, size)[:, share(size)]
                order, batch_size = order[rows.ravel()], rows.shape[1]
                draws = None if draws is None else draws[torch.from_numpy(rows.ravel())]
        return self._batches(order, batch_size, device, self.store.mean, self.store.std, draws)

    def raw(
        self, batch_size: int, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over all images in order, as an exported model takes them, and labels.

        Like `batches`, but the images are in 0..1 (or in the user's own units where those were
        floats beyond 0..1), not normalized.
        """
        channels = len(self.store.mean)
        zeros, ones = (0.0,) * channels, (1.0,) * channels
        return self._batches(self.indices, batch_size, device, zeros, ones, None)

    def _batches(
        self,
        order: Indices,
        batch_size: int,
        device: torch.device | str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        draws: Tensor | None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if batch_size < 1:
            raise InvalidArgument(f"batch_size={batch_size} is not positive.")
        device, augmentation = torch.device(device), self.store.augmentation
        scale, shift = self.store.scale_and_shift(mean, std, device)
        labels = torch.from_numpy(self.store.labels[order]).to(device)
        draws = None if draws is None else draws.to(device)

        def generate() -> Iterator[tuple[Tensor, Tensor]]:
            start = 0
            for images in self.store.read(order, batch_size, device):
                stop = start + len(images)
                if draws is not None:
                    images = augmentation.crop_and_flip(images, draws[start:stop])
                rows = images.view(*images.shape[:2], -1).to(torch.float32)
                images = torch.addcmul(shift, rows, scale).view(images.shape)
                if draws is not None:
                    images = augmentation.cut_out(images, draws[start:stop])
                yield images.permute(0, 3, 1, 2), labels[start:stop]
                start = stop

        return generate()
