"""Running statistics of batch normalization: one pass of a step moves them, the others do not."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def without_running_statistics(network: nn.Module) -> Iterator[None]:
    """Leave the running statistics of a network in training as they are for a while.

    Batch normalization uses those of the batch, as in training, and keeps none.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
