"""A prior mean for the surrogate: what cheap signals alone tell of an architecture.

Rasmussen, Williams: Gaussian Processes for Machine Learning (2006), section 2.7: a mean that is
linear in some functions of the input, with normal weights, is a term of the kernel.
"""

from collections.abc import Sequence

import numpy as np

from raynas.searchers.surrogate import Features, Floats, Surrogate
from search_spaces import SearchSpace
from search_spaces.errors import InvalidArgument

_START = -1.0  # logarithm of the weights' variance, before anything is known
#: {prior: the vectors of a description that have its signals, where a space has them}
PRIORS = {"counts": ("costs",), "structure": ("costs", "structure")}


def check_prior(prior: str, space: SearchSpace) -> None:
    """Refuse a space of which nothing that the prior goes by is known without building networks.

    Raises:
        InvalidArgument: for such a space.
    """
    if space.counts_fast:
        return
    lacks = "does not count parameters and MACs in closed form"
    if prior == "structure":
        if space.cell_graphs(space.sample(np.random.default_rng(0))):
            return
        lacks += " and has no cells"
    raise InvalidArgument(
        f"prior={prior!r}: {space.name} {lacks}; leave the prior out, or define `counts` in your"
        " space."
    )


class LinearPrior(Surrogate):
    """The surrogate, with a mean that is linear in some signals.

    k'(a, b) = k(a, b) + v (z_a . z_b) / n, where z are the n signals in units of their deviation
    among random architectures, and their weights have mean 0, so that the results alone say which
    way and how strongly they point. v is learned with the other parameters, and small where the
    signals tell nothing.

    Args:
        components: those of the surrogate.
        rng: for the search for parameters.
        signals: names of the vectors that have the signals.
        drawn: those of random architectures, by which they are centered and scaled.
        drift: see `Surrogate`.
    """

    def __init__(
        self,
        components: Sequence[str],
        rng: np.random.Generator,
        signals: Sequence[str],
        drawn: Features,
        drift: bool = False,
    ):
        super().__init__(components, rng, drift)
        self._names = list(signals)
        values = self._joined(drawn)
        self._center = values.mean(axis=0)
        spread = values.std(axis=0)
        scale = np.sqrt(values.shape[1])
        self._unit = scale * np.where(spread > 1e-9, spread, np.inf)  # infinite: no signal
        #: the logarithm of v, then those of `Surrogate`
        self.parameters = np.concatenate(([_START], self.parameters))
        self._prior = self.parameters.copy()

    def _joined(self, features: Features) -> Floats:
        return np.concatenate([features[name] for name in self._names], axis=1)

    def _signals(self, features: Features) -> Floats:
        signals: Floats = (self._joined(features) - self._center) / self._unit
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
