"""A cheap model of how good an architecture is: a Gaussian process on what networks share.

Rasmussen, Williams: Gaussian Processes for Machine Learning (2006), algorithm 2.1; the acquisition
is the expected improvement of Jones et al. (1998). Values enter by rank, as normal scores (Salinas
et al.: A Quantile-based Approach for Hyperparameter Transfer Learning, ICML 2020), so neither the
unit of a metric nor the long tail of bad architectures matters.

scikit-learn's Gaussian process in place of ours was measured by `python -m benchmarks.surrogate`
(1.9.1; NAS-Bench-201, classes, CIFAR-10, 100 runs of at most 100 evaluations). With Matern kernels
on standardized columns and the likelihood alone `auto` needed 63.7 ± 3.0 (mean and standard error)
evaluations until the best was found, with ours 24.2 ± 1.2. With our kernels and our prior written
for it, it needed as many, 22.7 ± 1.0, and an `ask` took about twice as long (with 100 results known
15.5 ms of CPU against 7.2). That is no less code, and journals of earlier searches would not
replay, so ours stays.
"""

import math
import re
import sys
import zlib
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist
from scipy.stats import norm, rankdata

from search_spaces import Architecture, SearchSpace
from search_spaces.graph import CellGraph

Floats = NDArray[np.float64]
#: {component: one row per architecture}
Features = dict[str, Floats]

_PATHS = 64  # numbers that describe the paths of a cell
_MAX_PATHS = 200  # of one cell, that are looked at
_TRIES = 40  # for better lengths and weights, at each fit


class Description:
    """What of an architecture the model sees: a few vectors, each with its own distance.

    `choices`: the choices of the canonical form, where a space has no cells; the distance is the
    part of the decisions in which two differ. `sizes`: the choices of decisions between numbers,
    on a logarithmic scale. `paths`: how many paths through its cells carry which operations
    (White et al.: BANANAS, AAAI 2021). `costs`: logarithms of parameters and MACs, where a space
    has them in closed form.

    `structure`, no component but for a prior mean: of each cell the logarithm of the number of
    paths, how many operations are on the shortest, on the longest and in the mean, and whether one
    has none, a residual connection.
    """

    def __init__(self, space: SearchSpace):
        self.space = space
        self._rows: dict[Architecture, dict[str, Floats]] = {}

    def rows(self, archs: Sequence[Architecture]) -> Features:
        """Return the vectors of architectures in canonical form."""
        rows = [self._row(arch) for arch in archs]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, arch: Architecture) -> dict[str, Floats]:
        row = self._rows.get(arch)
        if row is None:
            graphs = self.space.cell_graphs(arch)
            row = {}
            if not graphs and not self._numeric.all():
                row["choices"] = np.array(arch.choices, dtype=np.float64)[~self._numeric]
            if self._numeric.any():
                row["sizes"] = np.array(
                    [scale[c] for scale, c in zip(self._scales, arch.choices, strict=True)]
                )[self._numeric]
            if graphs:
                row["paths"] = np.concatenate([_paths(graph) for graph in graphs.values()])
                row["structure"] = np.concatenate([_structure(graph) for graph in graphs.values()])
            if self.space.counts_fast:
                counts = self.space.counts(arch)
                row["costs"] = np.log1p([counts.params, counts.macs])
            self._rows[arch] = row
        return row

    @cached_property
    def _numeric(self) -> NDArray[np.bool_]:
        """Return which decisions are between three or more positive sizes."""
        return np.array(
            [
                decision.kind == "size"
                and len(decision.choices) > 2
                and all(0 < size < sys.float_info.max for size in decision.choices)
                for decision in self.space.decisions
            ]
        )

    @cached_property
    def _scales(self) -> list[Floats]:
        """Return the place of each choice between its decision's smallest, 0, and largest, 1."""
        scales = []
        for decision, numeric in zip(self.space.decisions, self._numeric, strict=True):
            logs = np.array([math.log(c) if numeric else 0.0 for c in decision.choices])
            scales.append((logs - logs.min()) / (np.ptp(logs) or 1.0))
        return scales


def description_of(space: SearchSpace) -> Description:
    """Return the description of a space; those used last are kept, for the next search."""
    try:
        return _kept_description(space)
    except TypeError:  # a user's space that is not hashable
        return Description(space)


@lru_cache(maxsize=8)
def _kept_description(space: SearchSpace) -> Description:
    return Description(space)


@lru_cache(maxsize=4096)  # neighbors have one of their cells in common
def _paths(graph: CellGraph) -> Floats:
    """Count the paths from an input to the output by their operations, hashed."""
    places = [path % _PATHS for path, _ in _found(graph)]
    return np.bincount(np.array(places, dtype=np.intp), minlength=_PATHS).astype(np.float64)


def _structure(graph: CellGraph) -> Floats:
    """Return ln(1 + paths), their shortest, longest and mean length, and whether one has none."""
    lengths = [length for _, length in _found(graph)]
    if not lengths:
        return np.zeros(5)
    mean = sum(lengths) / len(lengths)
    return np.array(
        [math.log1p(len(lengths)), min(lengths), max(lengths), mean, float(0 in lengths)]
    )


@lru_cache(maxsize=4096)
def _found(graph: CellGraph) -> list[tuple[int, int]]:
    """Return checksum and number of the operations on each path from an input to the output."""
    outgoing: dict[str, list[tuple[str, bytes]]] = {}
    for edge in graph.edges:
        inside = _kind(edge.target) if edge.target != graph.output else ""
        step = ("" if "skip" in edge.operation else edge.operation) + inside
        outgoing.setdefault(edge.source, []).append((edge.target, f">{step}".encode() * bool(step)))
    found = []
    stack = [(node, 0, 0) for node in graph.inputs]  # and what is on the path up to it
    for _ in range(_MAX_PATHS):
        if not stack:
            break
        node, path, length = stack.pop()
        if node == graph.output:
            found.append((path, length))
            continue
        stack += [
            (target, zlib.crc32(step, path), length + bool(step))
            for target, step in outgoing.get(node, ())
        ]
    return found


@lru_cache(maxsize=1024)
def _kind(node: str) -> str:
    """Return what a node computes, where its name tells: "conv1x1" of "2: conv1x1"."""
    return re.sub(r"^\d+(: )?", "", node)


class Surrogate:
    """A Gaussian process; its kernel is a weighted sum of one kernel per component and of all.

    k_i(a, b) = exp(-d_i(a, b) / l_i), k = sum_i w_i k_i + w_0 prod_i k_i, plus noise on the
    diagonal. Lengths l, weights w (of sum 1) and noise maximize the marginal likelihood times a
    broad prior, by random steps from those of the last fit.

    With `drift` values may be of lower fidelity: as the epochs go on, a network's place among the
    others makes a random walk in the logarithm of the epochs, so that what is known after e of E
    has further noise, of variance d ln(E / e), and d is learned like the rest. (The autoregressive
    model of Kennedy and O'Hagan, Biometrika 2000, of which the steps are independent between
    architectures, and the scale is 1 since values are ranks.)
    """

    def __init__(self, components: Sequence[str], rng: np.random.Generator, drift: bool = False):
        self.components, self.rng = list(components), rng
        n = len(self.components)
        #: logarithms of n lengths, n + 1 weights, the noise and, if there is one, the drift
        self.parameters: Floats = np.array([0.5] * n + [0.0] * (n + 1) + [-4.0] + [-1.0] * drift)
        self._prior = self.parameters.copy()
        self._drift = drift

    def fit(
        self, features: Features, values: Floats, search: bool, missing: Floats | None = None
    ) -> None:
        """Learn from values of which minus infinity is the worst; `search` for parameters too.

        Args:
            features: one row for each of n architectures.
            values: n numbers, of which only the order counts.
            search: whether to look for better parameters.
            missing: ln(E / e) of each, with drift; None: all have the most epochs.
        """
        self.targets = normal_scores(values)
        self.features = features
        self._missing = np.zeros(len(values)) if missing is None else missing
        distances = self._among_learned()
        if search:
            self._search(distances)
        self._condition(distances)

    def _condition(self, distances: list[Floats]) -> None:
        self._factor = np.linalg.cholesky(self._noisy(distances, self.parameters))
        self._weights = solve_triangular(self._factor, self.targets, lower=True)
        self._variance = float(self._weights @ self._weights) / len(self.targets)

    def believe(self, features: Features) -> None:
        """Take what is predicted of some architectures for their values (Ginsbourger et al.)."""
        mean, _ = self.predict(features)
        self.features = {
            name: np.concatenate((rows, features[name])) for name, rows in self.features.items()
        }
        self.targets = np.concatenate((self.targets, mean))
        self._missing = np.concatenate((self._missing, np.zeros(len(mean))))
        variance = self._variance
        self._condition(self._among_learned())
        self._variance = variance

    def predict(self, features: Features) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the normal scores of other architectures."""
        covariance = self._kernel(self._distances(features), self.parameters)
        whitened = solve_triangular(self._factor, covariance, lower=True)
        mean = whitened.T @ self._weights
        explained = np.einsum("ij,ij->j", whitened, whitened)
        variance = self._variance * (self._own(features) - explained)
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def expected_improvement(self, features: Features) -> Floats:
        """Return the expected improvement over the best value of the highest fidelity learned."""
        mean, deviation = self.predict(features)
        z = (mean - self.targets[self._missing == self._missing.min()].max()) / deviation
        improvement: Floats = deviation * (z * norm.cdf(z) + norm.pdf(z))
        return improvement

    def _distances(self, features: Features) -> list[Floats]:
        """Return, per component, distances from all learned (rows) to `features` (columns)."""
        return [_distance(name, self.features[name], features[name]) for name in self.components]

    def _among_learned(self) -> list[Floats]:
        """Return, per component, distances between all learned: the lower triangle, row by row."""
        lower = np.tri(len(self.targets), dtype=np.bool_)
        return [distances[lower] for distances in self._distances(self.features)]

    def _kernel(self, distances: list[Floats], parameters: Floats) -> Floats:
        n = len(distances)
        lengths, weights = np.exp(parameters[:n]), np.exp(parameters[n : 2 * n + 1])
        weights = weights / weights.sum()
        total: Floats = np.zeros_like(distances[0])
        product: Floats = np.full_like(total, weights[-1])
        for distance, length, weight in zip(distances, lengths, weights, strict=False):
            kernel = np.exp(distance / -length)
            total += weight * kernel
            product *= kernel
        return total + product

    def _own(self, features: Features) -> Floats | float:
        """Return the kernel of each architecture with itself."""
        return 1.0

    def _noisy(self, distances: list[Floats], parameters: Floats) -> Floats:
        """Return the covariance of all learned; Cholesky reads its lower triangle only."""
        kernel = np.zeros((len(self.targets), len(self.targets)))
        kernel[np.tri(len(kernel), dtype=np.bool_)] = self._kernel(distances, parameters)
        kernel[np.diag_indices_from(kernel)] += self._noise(parameters) + 1e-8
        return kernel

    def _noise(self, parameters: Floats) -> Floats | float:
        """Return the variance of the noise, of each of all learned where there is a drift."""
        if not self._drift:
            return float(np.exp(parameters[-1]))
        noise, drift = np.exp(parameters[-2:])
        variances: Floats = noise + drift * self._missing
        return variances

    def _search(self, distances: list[Floats]) -> None:
        best = self._loss(distances, self.parameters)
        for _ in range(_TRIES):
            step = self.rng.normal(size=len(self.parameters)) * 0.5
            tried = self.parameters + step * (self.rng.random(len(step)) < 0.5)
            loss = self._loss(distances, tried)
            if loss < best:
                best, self.parameters = loss, tried

    def _loss(self, distances: list[Floats], parameters: Floats) -> float:
        """Return minus the logarithm of likelihood (variance maximized out) times prior."""
        factor = np.linalg.cholesky(self._noisy(distances, parameters))
        weights = solve_triangular(factor, self.targets, lower=True)
        n = len(weights)
        likelihood = 0.5 * n * np.log(weights @ weights / n + 1e-9) + np.log(np.diag(factor)).sum()
        spread = np.ones(len(parameters))
        spread[-1 - self._drift :] = 2.0
        return float(likelihood + 0.5 * (((parameters - self._prior) / spread) ** 2).sum())


def normal_scores(values: Floats) -> Floats:
    """Return the normal scores of values by their ranks, of mean 0 and deviation 1."""
    ranks = rankdata(values)
    scores: Floats = norm.ppf((ranks - 0.5) / len(ranks))
    return np.asarray((scores - scores.mean()) / (scores.std() or 1.0))


def _distance(name: str, a: Floats, b: Floats) -> Floats:
    """Return distances from rows of `a` to those of `b`, in units where lengths are near 1."""
    if name == "choices":
        return np.asarray(cdist(a, b, "hamming"))
    if name == "paths":
        return _distance_of_counts(a, b) / 4
    unit = {"sizes": a.shape[1], "costs": 1}[name]
    return np.asarray(cdist(a, b, "cityblock") / unit)


def _distance_of_counts(a: Floats, b: Floats) -> Floats:
    """Return sums of absolute differences of small whole numbers, exact, by a matrix product.

    |x - y| = x + y - 2 min(x, y), and min(x, y) is the number of t >= 0 below both.
    """
    shared = np.zeros((len(a), len(b)), dtype=np.float32)  # exact up to 2^24
    for t in range(int(min(a.max(), b.max()))):
        above_a, above_b = a > t, b > t
        both = above_a.any(axis=0) & above_b.any(axis=0)
        shared += above_a[:, both].astype(np.float32) @ above_b[:, both].astype(np.float32).T
    return np.asarray(a.sum(axis=1)[:, None] + b.sum(axis=1) - 2.0 * shared)
