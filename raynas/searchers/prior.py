"""A prior mean for the surrogate: what parameters and MACs alone tell of an architecture.

Rasmussen, Williams: Gaussian Processes for Machine Learning (2006), section 2.7: a mean that is
linear in some functions of the input, with normal weights, is a term of the kernel.
"""

from collections.abc import Sequence

import numpy as np

from raynas.searchers.surrogate import Features, Floats, Surrogate
from search_spaces import SearchSpace
from search_spaces.errors import InvalidArgument

_START = -1.0  # logarithm of the weight's variance, before anything is known


def check_prior(space: SearchSpace) -> None:
    """Refuse a space whose architectures cannot be counted without building them.

    Raises:
        InvalidArgument: for such a space.
    """
    if not space.counts_fast:
        raise InvalidArgument(
            f"prior='counts': {space.name} does not count parameters and MACs in closed form; leave"
            " the prior out, or define `counts` in your space."
        )


class LinearPrior(Surrogate):
    """The surrogate, with a mean that is linear in the logarithms of parameters and MACs.

    k'(a, b) = k(a, b) + v (z_a . z_b) / 2, where z are the two logarithms in units of their
    deviation among random architectures, and their weights have mean 0, so that the results alone
    say which way and how strongly they point. v is learned with the other parameters, and small
    where the counts tell nothing.

    Args:
        components: those of the surrogate; `costs` must be among them.
        rng: for the search for parameters.
        costs: those of random architectures, by which they are centered and scaled.
    """

    def __init__(self, components: Sequence[str], rng: np.random.Generator, costs: Floats):
        super().__init__(components, rng)
        self._center = costs.mean(axis=0)
        spread = costs.std(axis=0)
        self._unit = np.sqrt(2) * np.where(spread > 1e-9, spread, np.inf)  # infinite: no signal
        #: the logarithm of v, then those of `Surrogate`
        self.parameters = np.concatenate(([_START], self.parameters))
        self._prior = self.parameters.copy()

    def _signals(self, features: Features) -> Floats:
        signals: Floats = (features["costs"] - self._center) / self._unit
        return signals

    def _distances(self, features: Features) -> list[Floats]:
        """Return inner products of the signals, then distances per component."""
        products = self._signals(self.features) @ self._signals(features).T
        return [products, *super()._distances(features)]

    def _kernel(self, distances: list[Floats], parameters: Floats) -> Floats:
        products, *others = distances
        mean: Floats = np.exp(parameters[0]) * products
        return mean + super()._kernel(others, parameters[1:])

    def _own(self, features: Features) -> Floats:
        own: Floats = np.exp(self.parameters[0]) * (self._signals(features) ** 2).sum(axis=1)
        return 1 + own
