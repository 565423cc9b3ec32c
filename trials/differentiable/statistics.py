"""Running statistics of batch normalization: one pass of a step moves them, the others do not."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.weight_sharing.shared_norm import SharedNorm
from search_spaces.weight_sharing.supernet import Supernet


class RunningStatistics:
    """The running statistics of a supernet.

    Args:
        supernet: whose batch normalization is `SharedNorm`, but for classes of a user's own.
    """

    def __init__(self, supernet: Supernet):
        self.normalization = supernet.normalization
        self._others = [
            norm
            for norm in supernet.modules()
            if isinstance(norm, _BatchNorm)
            and not isinstance(norm, SharedNorm)
            and norm.track_running_stats
        ]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Leave them as they are for a while; in training, those of the batch are used anyway."""
        try:
            for norm in self._others:
                norm.track_running_stats = False
            with self.normalization.set(tracking=False):
                yield
        finally:
            for norm in self._others:
                norm.track_running_stats = True
