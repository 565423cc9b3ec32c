"""Measures of rankings: against the truth, and against each other.

Zhang et al.: Deeper Insights into Weight Sharing in NAS (arXiv 2001.01431), section 4: GT-Tau,
S-Tau, Top-n-Rank. Kendall's tau is tau-b throughout; what has no value ranks lowest.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, rankdata

from raynas.errors import InvalidArgument

Numbers = NDArray[np.float64]

_MOST = 1000  # architectures in a bootstrap: memory grows with their square


def gt_tau(values: ArrayLike, truth: ArrayLike) -> float:
    """Return Kendall's tau-b of a ranking with the truth (GT-Tau).

    Args:
        values: n numbers, higher is better.
        truth: n numbers of the same architectures.

    Returns:
        -1..1; 0 where one of the two is constant.

    Raises:
        InvalidArgument: when they are not equally many.
    """
    x, y = ranks(values), ranks(truth)
    if len(x) != len(y):
        raise InvalidArgument(f"truth: {len(y)} numbers for {len(x)} values.")
    return _tau(x, y)


def tau_interval(
    values: ArrayLike, truth: ArrayLike, seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of `gt_tau`, over architectures.

    An architecture that is drawn twice is a tie with itself in both rankings, and tau-b leaves
    such pairs out. Of more than 1,000 architectures, as many are drawn first, so that the interval
    is wider than it need be.

    Args:
        values: n numbers, higher is better.
        truth: n numbers of the same architectures.
        seed: of the draws.
        draws: number of resamples.
    """
    x, y = ranks(values), ranks(truth)
    rng = np.random.default_rng(seed)
    if len(x) > _MOST:
        some = rng.choice(len(x), _MOST, replace=False)
        x, y = x[some], y[some]
    a, b = (np.sign(r[:, None] - r[None, :]) for r in (x, y))
    weights = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=draws).astype(float)
    agree, apart_x, apart_y = (
        ((weights @ matrix) * weights).sum(1) for matrix in (a * b, np.abs(a), np.abs(b))
    )
    with np.errstate(invalid="ignore"):
        taus = agree / np.sqrt(apart_x * apart_y)
    low, high = np.percentile(np.nan_to_num(taus), [2.5, 97.5])
    return float(low), float(high)


class STau(NamedTuple):
    """Agreement of several rankings of the same architectures.

    Attributes:
        mean: of tau over all pairs of rankings.
        most: the largest.
        least: the smallest.
        low: of the 95 % interval of the mean, by the jackknife over rankings; NaN for fewer
            than 3.
        high: likewise.
    """

    mean: float
    most: float
    least: float
    low: float = math.nan
    high: float = math.nan


def s_tau(rankings: ArrayLike) -> STau:
    """Return mean, maximum and minimum of tau over all pairs of instances (S-Tau).

    Args:
        rankings: instances x architectures, at least 2 x 2.
    """
    rows = [ranks(row) for row in np.atleast_2d(np.asarray(rankings, float))]
    n = len(rows)
    if n < 2:
        raise InvalidArgument(f"rankings: {n} instance; S-Tau compares at least 2.")
    taus = np.full((n, n), np.nan)
    for i, j in itertools.combinations(range(n), 2):
        taus[i, j] = taus[j, i] = _tau(rows[i], rows[j])
    mean, most, least = (float(f(taus)) for f in (np.nanmean, np.nanmax, np.nanmin))
    if n < 3:
        return STau(mean, most, least)
    without = [np.nanmean(np.delete(np.delete(taus, i, 0), i, 1)) for i in range(n)]
    half = 1.96 * math.sqrt((n - 1) / n * float(np.sum((without - np.mean(without)) ** 2)))
    return STau(mean, most, least, mean - half, mean + half)


def top_n_rank(values: ArrayLike, truth: ArrayLike, n: int) -> int:
    """Return the best true rank (1 is best) among the `n` first of a ranking (Top-n-Rank).

    Where the ranking has ties, the truly worse count as first.
    """
    order = np.lexsort((ranks(truth), -ranks(values)))[:n]
    return int(rankdata(-ranks(truth), "min")[order].min())


def random_std(n: int) -> float:
    """Return the standard deviation of tau between random rankings; NaN for `n` = 1."""
    if n < 2:
        return math.nan
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))


def _tau(x: Numbers, y: Numbers) -> float:
    """Return tau-b; 0 where one ranking is constant and tells nothing."""
    tau = float(kendalltau(x, y).statistic) if len(x) > 1 else 0.0
    return 0.0 if math.isnan(tau) else tau


def ranks(values: ArrayLike) -> Numbers:
    """Return ranks from 1 (worst), ties averaged; NaN and minus infinity lowest."""
    numbers = np.asarray(values, float)
    ranks: Numbers = rankdata(np.where(np.isnan(numbers), -math.inf, numbers))
    return ranks
