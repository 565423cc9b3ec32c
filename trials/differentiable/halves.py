"""The two halves of the training data: weights learn on one, architecture parameters on the other.

Liu, Simonyan, Yang: DARTS (ICLR 2019), section 3.1: half of the training data is held out "as the
validation set" of the search. Here the validation part of the data stays out of both: by it
searches are compared.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from trials.data import Part
from trials.differentiable.problem import Batch
from trials.trial import derived_seed


def halves(part: Part, share: float, seed: int) -> tuple[Part, Part]:
    """Divide images into those that w and those that a learn on, class by class.

    Args:
        part: the training part.
        share: of the images of each class that go to a, 0..1; rounded.
        seed: which ones they are.

    Returns:
        Two parts in random order, that of w and that of a; no image is in both.
    """
    rng = np.random.default_rng(seed)
    labels = part.labels
    of_a = np.zeros(len(part), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        of_a[members[: round(len(members) * share)]] = True
    order = rng.permutation(len(part))
    return (
        Part(part.store, part.indices[order[~of_a[order]]]),
        Part(part.store, part.indices[order[of_a[order]]]),
    )


def cycling(part: Part, size: int, device: torch.device, seed: int) -> Iterator[Batch]:
    """Yield augmented batches without end: without replacement, and when they are used up, anew.

    Args:
        part: the images.
        size: images of a batch.
        device: where the batches are to be.
        seed: of the orders; that of an epoch.
    """
    for cycle in itertools.count():
        yield from part.batches(size, device, seed=derived_seed(seed, cycle), augment=True)
