"""Extrapolation of learning curves by a small ensemble of power laws.

A power law c - a t^-b is among the models of Domhan et al. (Speeding Up Automatic Hyperparameter
Optimization of Deep Neural Networks by Extrapolation of Learning Curves, IJCAI 2015), where an
ensemble is sampled with MCMC. Here b stands on a grid, the rest of each law is a least-squares fit
in closed form, and the laws are averaged with weights by how well they fit: a prediction takes a
tenth of a millisecond.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_EXPONENTS = np.geomspace(0.1, 3.0, 12)
#: (noise of a value / spread of the gains)^2: how strongly a fit is drawn to no gain at all
_SHRINKAGE = 0.004
_NOISE = 1e-4  # the least noise of a value, relative to the range of its curve


class PowerLaws:
    """Predicts the last value of learning curves, and learns from each which laws hold here.

    Law b is y(t) = L + g (1 - (t/n)^-b) / (1 - (T/n)^-b) for n values, the last at epoch n, and T
    epochs in all: L is the level now and g the gain until T. That is c - a t^-b written so that
    what is asked for, L + g, is linear. A curve of one value is predicted to stay there.

    Args:
        epochs: T.
    """

    def __init__(self, epochs: int):
        self.epochs = epochs
        #: {curve: the log-likelihood of every law}, of what was predicted last
        self._fits: dict[int, NDArray[np.float64]] = {}

    def predict(self, number: int, curve: Sequence[float]) -> float:
        """Return what a curve will be at after all epochs, and learn from it.

        Laws count by how well they fit this curve and, as one more such curve, the mean of the
        others. The gain is not negative.

        Args:
            number: of the curve, by which a longer one takes the place of a shorter.
            curve: its values after epochs 1, 2, ...
        """
        values, n = np.asarray(curve, dtype=np.float64), len(curve)
        if n < 2 or n >= self.epochs or not np.isfinite(values).all():
            return float(values[-1])
        predicted, fit = _fitted(values, self.epochs)
        others = [other for key, other in self._fits.items() if key != number]
        self._fits[number] = fit
        weights = np.exp(_normalized(fit + np.mean(others, axis=0) if others else fit))
        return float(weights @ predicted / weights.sum())


def _fitted(
    values: NDArray[np.float64], epochs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit every law to a curve, late epochs with more weight.

    Returns:
        (laws,) what each predicts, and its log-likelihood, that of the best one 0.
    """
    n = len(values)
    times, weights = np.arange(1, n + 1) / n, np.arange(1, n + 1) / n
    weights = weights / weights.sum()
    b = _EXPONENTS[:, None]
    x = (1 - times**-b) / (1 - (epochs / n) ** -b)  # (laws, epochs)
    mean_x, mean_y = x @ weights, values @ weights
    dx, dy = x - mean_x[:, None], values - mean_y
    gains = np.maximum((dx * dy) @ weights / ((dx**2) @ weights + _SHRINKAGE / n), 0.0)
    levels = mean_y - gains * mean_x
    misfit = ((dy - gains[:, None] * dx) ** 2) @ weights + (_NOISE * np.ptp(values)) ** 2
    scale = misfit.min()
    likelihood = -n / 2 * np.log(misfit / scale) if scale > 0 else np.zeros(len(gains))
    return levels + gains, _normalized(likelihood)


def _normalized(likelihood: NDArray[np.float64]) -> NDArray[np.float64]:
    return likelihood - np.max(likelihood)
