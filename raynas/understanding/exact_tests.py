"""Exact tests of counts: against shares that are known, against a sample, between groups.

Where an overall p-value is not summed up exactly, it is estimated by 10,000 draws with a fixed
seed (Monte Carlo; Besag and Clifford count the observation as one of them), so it is never below
1e-4.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlogy
from scipy.stats import binomtest, fisher_exact

_DRAWS = 10_000

Numbers = NDArray[np.float64]


def share_p(count: int, out_of: int, share: float) -> float:
    """Return the two-sided p-value of the exact binomial test against a known share."""
    return float(binomtest(count, out_of, min(share, 1.0)).pvalue) if out_of else 1.0


def two_groups_p(count: int, out_of: int, other: int, other_out_of: int) -> float:
    """Return the two-sided p-value of Fisher's exact test of `count` of `out_of` and `other`."""
    table = [[count, out_of - count], [other, other_out_of - other]]
    return float(fisher_exact(table)[1])


def shares_p(counts: ArrayLike, shares: ArrayLike, seed: int = 0) -> float:
    """Return the p-value of the exact multinomial test, by Monte Carlo.

    As extreme is what is no more likely than what was observed.

    Args:
        counts: of each of k strata.
        shares: of each; they add up to 1.
        seed: of the draws.
    """
    observed, expected = np.asarray(counts, np.int64), np.asarray(shares, float)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(observed.sum(), expected / expected.sum(), _DRAWS)
    with np.errstate(divide="ignore"):
        mine, theirs = (xlogy(n, expected) - gammaln(n + 1.0) for n in (observed, draws))
    return _monte_carlo(-mine.sum(-1), -theirs.sum(-1))


def subset_p(counts: ArrayLike, totals: ArrayLike, seed: int = 0) -> float:
    """Return the p-value of a subset's strata against draws from the whole, by Monte Carlo.

    The draws are hypergeometric, so this is the Fisher-Freeman-Halton test with Pearson's
    statistic.

    Args:
        counts: of each of k strata, in the subset.
        totals: of each, in the whole.
        seed: of the draws.
    """
    observed, whole = np.asarray(counts, np.int64), np.asarray(totals, np.int64)
    observed, whole = observed[whole > 0], whole[whole > 0]
    if not 0 < observed.sum() < whole.sum() or len(whole) < 2:
        return 1.0
    expected = whole * (observed.sum() / whole.sum())
    rng = np.random.default_rng(seed)
    draws = rng.multivariate_hypergeometric(whole, observed.sum(), _DRAWS, method="marginals")
    mine, theirs = (((n - expected) ** 2 / expected).sum(-1) for n in (observed, draws))
    return _monte_carlo(mine, theirs)


def mean_ranks_p(changes: ArrayLike, strata: ArrayLike, seed: int = 0) -> Numbers:
    """Return for each stratum the two-sided p-value of its mean, by permutation.

    Args:
        changes: a number of each of n architectures.
        strata: of each its stratum, 0..k-1, all of which occur.
        seed: of the permutations.

    Returns:
        k p-values: how often architectures drawn at random have a mean as far from the mean of
        all.
    """
    values, member = np.asarray(changes, float), np.asarray(strata)
    values = values - values.mean()
    members = np.eye(member.max() + 1)[member]
    sizes = members.sum(0)
    rng = np.random.default_rng(seed)
    draws = max(1, min(_DRAWS, 10_000_000 // len(values)))
    drawn = rng.permuted(np.tile(values, (draws, 1)), axis=1) @ members / sizes
    mine = np.abs(values @ members / sizes)
    return np.array([_monte_carlo(m, np.abs(d)) for m, d in zip(mine, drawn.T, strict=True)])


def holm(p: ArrayLike) -> Numbers:
    """Return p-values corrected for their number (Holm 1979)."""
    values = np.asarray(p, float)
    order = np.argsort(values)
    scaled = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def _monte_carlo(observed: float, drawn: Numbers) -> float:
    """Return how often a draw is at least as extreme; rounding makes no difference."""
    return float((1 + np.sum(drawn >= observed - 1e-9 * abs(observed))) / (1 + len(drawn)))
