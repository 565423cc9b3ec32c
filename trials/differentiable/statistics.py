"""Running statistics of batch normalization: one pass of a step moves them, the others do not."""

from collections.abc import Iterator
from contextlib import contextmanager

from search_spaces.weight_sharing.shared_norm import kept_statistics, own_norms
from search_spaces.weight_sharing.supernet import Supernet


class RunningStatistics:
    """The running statistics of a supernet.

    Args:
        supernet: whose batch normalization is `SharedNorm`, but for classes of a user's own.
    """

    def __init__(self, supernet: Supernet):
        self.normalization = supernet.normalization
        self._others = own_norms(supernet)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Leave them as they are for a while; in training, those of the batch are used anyway."""
        with kept_statistics(self._others), self.normalization.set(tracking=False):
            yield
