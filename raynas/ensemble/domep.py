"""DOMEP: COMEP on many machines, for thousands of members.

Bian et al.: arXiv 1910.00370, and Ensemble Pruning Based on Objection Maximization With a General
Distributed Framework (IEEE TNNLS 2020). The members are divided at random; COMEP chooses from each
part, and then from the union of what was chosen; the outcome is that, unless the set of one part
alone has a larger TDAS.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import ray

from raynas.cluster import connected, prepare_process
from raynas.ensemble.combination import Labels
from raynas.ensemble.comep import comep, tdas
from raynas.ensemble.information import Predictions, check_alpha, tdac_matrix
from raynas.errors import InvalidArgument

#: TDAS and members of a set
Chosen = tuple[float, list[int]]

_CLASSES = 2**16  # at most
_PART = 1000  # members, whose TDAC takes seconds and less than half a GiB


def domep(
    predictions: Predictions, labels: Labels, size: int, alpha: float = 0.5, seed: int = 0
) -> list[int]:
    """Choose `size` members of thousands and return their numbers, rising.

    Args:
        predictions: `members x images`, classes as numbers from 0.
        labels: the true class of each image.
        size: how many to choose.
        alpha: lambda of TDAC, 0..1.
        seed: of the division and of COMEP's draws.

    Raises:
        InvalidArgument: for a size that is not in 2..members, a wrong alpha or seed, shapes that do
            not fit, or what are no classes.
    """
    check_alpha(alpha)
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.ndim != 2 or labels.shape != predictions.shape[1:] or not len(labels):
        raise InvalidArgument(
            f"predictions of shape {predictions.shape} with labels of shape {labels.shape}: give"
            " members x images, and the label of each of the same images."
        )
    for name, classes in {"predictions": predictions, "labels": labels}.items():
        if classes.dtype.kind not in "iu" or classes.min() < 0 or classes.max() >= _CLASSES:
            raise InvalidArgument(
                f"{name} hold {classes.dtype}, or numbers outside 0..{_CLASSES - 1}: give classes"
                " as whole numbers from 0."
            )
    if not isinstance(size, Integral) or not 2 <= size <= len(predictions):
        raise InvalidArgument(f"size={size}: give 2 to {len(predictions)}, the number of members.")
    if not isinstance(seed, Integral) or seed < 0:
        raise InvalidArgument(f"seed={seed}: give a whole number from 0.")
    with connected():
        shared = ray.put((predictions, labels))
        return sorted(_chosen(shared, range(len(predictions)), size, alpha, [seed])[1])


def _chosen(
    shared: "ray.ObjectRef[Any]", among: Sequence[int], size: int, alpha: float, seed: list[int]
) -> Chosen:
    """Return (TDAS, members) chosen from some: at once where they are few, else from parts."""
    task: Any = ray.remote(_choose).options(num_cpus=1)
    most = max(_PART, 2 * size)
    if len(among) <= most:
        alone: Chosen = ray.get(task.remote(shared, among, size, alpha, seed))
        return alone
    shuffled = np.random.default_rng(seed).permutation(np.asarray(among))
    parts = np.array_split(shuffled, -(-len(among) // most))
    outcomes: list[Chosen] = ray.get(
        [task.remote(shared, part, size, alpha, [*seed, i]) for i, part in enumerate(parts)]
    )
    union = [member for _, chosen in outcomes for member in chosen]
    together = _chosen(shared, union, size, alpha, [*seed, len(parts)])
    return max([together, *outcomes], key=lambda chosen: chosen[0])


def _choose(
    shared: tuple[Predictions, Labels], among: Sequence[int], size: int, alpha: float,
    seed: list[int],
) -> Chosen:  # fmt: skip
    """Return (TDAS, members) that COMEP chooses from one part."""
    prepare_process(threads=1)
    predictions, labels = shared
    matrix = tdac_matrix(predictions[np.asarray(among)], labels, alpha)
    chosen = comep(matrix, size, np.random.default_rng(seed))
    return tdas(matrix, chosen), [int(among[i]) for i in chosen]
