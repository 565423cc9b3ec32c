"""Layers that keep what they read and nothing else, and compute the rest again for gradients.

Chen et al.: Training Deep Nets with Sublinear Memory Cost (2016), by `torch.utils.checkpoint`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from search_spaces.weight_sharing.shared_norm import Normalization


def checkpointed(
    values: dict[int, Tensor],
    layer: range,
    needed_later: Sequence[int],
    compute: Callable[[dict[int, Tensor], range], None],
    normalization: Normalization,
) -> dict[int, Tensor]:
    """Compute the values of a layer's steps, and return those that are read after it.

    Args:
        values: those that were computed before.
        layer: numbers of its steps.
        needed_later: numbers of the values to return.
        compute: adds the values of some steps.
        normalization: its statistics follow only the first computation.
    """

    def outputs() -> list[Tensor]:
        local = dict(values)
        compute(local, layer)
        return [local[i] for i in needed_later]

    def again() -> AbstractContextManager[None]:
        return normalization.set(tracking=False)

    return dict(zip(needed_later, recomputed(outputs, again), strict=True))


def recomputed(
    function: Callable[[], Any], again: Callable[[], AbstractContextManager[None]]
) -> Any:
    """Return what a function computes, of which nothing is kept for gradients.

    Args:
        function: without arguments.
        again: makes the context in which it is computed a second time.
    """
    return checkpoint(function, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))
