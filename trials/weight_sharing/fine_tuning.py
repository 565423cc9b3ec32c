"""Training a child alone for a few mini-batches, before it is judged.

Zhang et al.: Deeper Insights into Weight Sharing in NAS (arXiv 2001.01431), fine-tuning.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from search_spaces import Architecture
from trials.data.parts import Part
from trials.trial import derived_seed
from trials.weight_sharing.path_step import PathStep

T = TypeVar("T")

_LEAST_RATE = 1e-8  # where the schedule has come to 0


def fine_tuned(
    step: PathStep,
    arch: Architecture,
    train: Part,
    batch_size: int,
    batches: int,
    learning_rate: float,
    seed: int,
    judge: Callable[[], T],
    every: int | None = None,
) -> Iterator[T]:
    """Train a child from the shared weights, with a new optimizer.

    The supernet is as before when the iterator has ended.

    Args:
        step: of the supernet.
        arch: the child.
        train: what with.
        batch_size: images of a mini-batch.
        batches: number of mini-batches.
        learning_rate: of all of them.
        seed: of the mini-batches.
        judge: evaluates the child with the weights that the supernet then has.
        every: judge it after every so many mini-batches; None: only at the end.

    Yields:
        What `judge` returns.
    """
    supernet, private = step.supernet, step.private
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    alone = step.alone(max(learning_rate, _LEAST_RATE))
    try:
        with private.of(arch) if private else nullcontext():
            torch.manual_seed(seed)
            endless = _mini_batches(train, batch_size, step.device, seed)
            for done, (images, labels) in enumerate(islice(endless, batches), start=1):
                supernet.train()
                alone(images, labels, [arch])
                if done == batches or (every and done % every == 0):
                    yield judge()
    finally:
        supernet.load_state_dict(before)
        step.update.forget_gradients()


def _mini_batches(
    train: Part, batch_size: int, device: torch.device, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield mini-batches of augmented images and labels, epoch after epoch without end."""
    done = 0
    while True:
        epoch_seed = derived_seed(seed, done)
        for batch in train.batches(batch_size, device, seed=epoch_seed, augment=True):
            yield batch
            done += 1
