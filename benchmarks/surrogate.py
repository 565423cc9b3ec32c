"""The surrogate of `auto` against scikit-learn's Gaussian process, on NAS-Bench-201.

    python -m benchmarks.surrogate --table nb201.parquet [--data c10] [--runs 100]
        [--queries 100] [--quick] [--json]

`ours` is `raynas.searchers.surrogate`. The others have the same interface on scikit-learn's
`GaussianProcessRegressor`, and L-BFGS finds their parameters, from those of the last fit:

    stock        Matern kernels (nu = 1/2) of the standardized columns of each component, and of
                 their product; the likelihood is maximized
    stock-prior  the same kernels; the likelihood times a prior as broad as ours, in five steps
    same         our kernels, written for scikit-learn; the likelihood
    same-prior   our kernels; the likelihood times the prior, in five steps

Printed are, with the seeds of `benchmarks.auto`, the evaluations until the best class of cells was
found: mean with its standard error and quantiles (a run that did not find it counts as `--queries`
in the mean, and as infinite in the quantiles), and the mean difference from ours in pairs of runs,
with its standard error. `ms@50` and `ms@100` are CPU milliseconds of an `ask` when so many results
are known: the median over some runs of the mean of six in a row, two of which search for
parameters.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from operator import add, mul
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

import search_spaces
from benchmarks.auto import figures
from raynas.searchers import Auto
from raynas.searchers.surrogate import Features, Surrogate, normal_scores
from search_spaces import Architecture
from trials.tables.benchmark import Benchmark, Roles, read_benchmark
from trials.trial import derived_seed

KNOWN = (50, 100)  # results, when `ask` is timed
UNITS = {"paths": 4.0, "costs": 1.0}  # those of our distances
STEPS = 5  # of L-BFGS with a prior; more are slower and, in a dozen runs, were no better

Floats = NDArray[np.float64]
#: minus the logarithm of the likelihood, and its gradient
Loss = Callable[[Floats], tuple[float, Floats]]


class Columns(Matern):
    """A Matern kernel of some of the columns."""

    def __init__(
        self,
        start: int = 0,
        stop: int = 1,
        length_scale: float = 1.0,
        length_scale_bounds: tuple[float, float] = (1e-2, 1e3),
        nu: float = 0.5,
    ):
        super().__init__(length_scale, length_scale_bounds, nu)
        self.start, self.stop = start, stop

    def __call__(self, a: Floats, b: Floats | None = None, eval_gradient: bool = False) -> Any:
        """Return the kernel and, where asked for, its gradient by the length's logarithm."""
        part = slice(self.start, self.stop)
        return super().__call__(a[:, part], None if b is None else b[:, part], eval_gradient)


class Exponential(Columns):
    """Our kernel: exponential in the sum of absolute differences."""

    def __call__(self, a: Floats, b: Floats | None = None, eval_gradient: bool = False) -> Any:
        """Return the kernel and, where asked for, its gradient by the length's logarithm."""
        part = slice(self.start, self.stop)
        distance = cdist(a[:, part], (a if b is None else b)[:, part], "cityblock")
        scaled = distance / self.length_scale
        kernel = np.exp(-scaled)
        return (kernel, (kernel * scaled)[..., None]) if eval_gradient else kernel


class Stock(Surrogate):
    """scikit-learn's Gaussian process on standardized columns."""

    kernel: Kernel | None = None

    def fit(self, features: Features, values: Floats, search: bool) -> None:
        """Learn from values of which minus infinity is the worst; `search` for parameters too."""
        self.targets, self.features = normal_scores(values), features
        self._scale()
        if self.kernel is None:
            self.kernel = self._first_kernel()
            self.first = self.kernel.theta
        self._learn(search)

    def believe(self, features: Features) -> None:
        """Take what is predicted of some architectures for their values."""
        mean, _ = self.predict(features)
        both = {n: np.concatenate((self.features[n], features[n])) for n in self.components}
        self.features, self.targets = both, np.concatenate((self.targets, mean))
        self._learn(search=False)

    def predict(self, features: Features) -> tuple[Floats, Floats]:
        """Return mean and standard deviation, without the noise, of normal scores."""
        assert self.kernel is not None
        mean, deviation = self.model.predict(self._columns(features), return_std=True)
        noise = self.kernel.k2.noise_level
        return mean, np.sqrt(np.maximum(deviation**2 - noise, 1e-12))

    def _learn(self, search: bool) -> None:
        optimizer = self._optimizer() if search else None
        self.model = GaussianProcessRegressor(self.kernel, alpha=1e-8, optimizer=optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter at its bound
            self.model.fit(self._columns(self.features), self.targets)
        self.kernel = self.model.kernel_

    def _optimizer(self) -> Any:
        return "fmin_l_bfgs_b"

    def _scale(self) -> None:
        self.centers = {name: self.features[name].mean(axis=0) for name in self.components}
        spreads = {name: self.features[name].std(axis=0) for name in self.components}
        self.units = {name: np.where(spread > 0, spread, 1.0) for name, spread in spreads.items()}

    def _columns(self, features: Features) -> Floats:
        return np.hstack([(features[n] - self.centers[n]) / self.units[n] for n in self.components])

    def _first_kernel(self) -> Kernel:
        """Return a weighted sum of one kernel per component and their product, and noise."""
        widths = [self.features[name].shape[1] for name in self.components]
        edges = list(pairwise(np.cumsum([0, *widths]).tolist()))
        weight = 1 / (len(edges) + 1)
        terms = [ConstantKernel(weight, (1e-3, 1e2)) * self._part(*edge) for edge in edges]
        product = reduce(mul, [self._part(*edge) for edge in edges])
        product = ConstantKernel(weight, (1e-3, 1e2)) * product
        return reduce(add, [*terms, product]) + WhiteKernel(np.exp(-4.0), (1e-6, 1.0))

    def _part(self, start: int, stop: int) -> Kernel:
        return Columns(start, stop, length_scale=np.sqrt(stop - start))


class Same(Stock):
    """The same with our distances and kernels."""

    def _scale(self) -> None:
        self.centers = dict.fromkeys(self.components, np.zeros(1))
        self.units = {name: np.full(1, UNITS[name]) for name in self.components}

    def _part(self, start: int, stop: int) -> Kernel:
        return Exponential(start, stop, length_scale=np.exp(0.5))


class Prior(Stock):
    """Lets a prior around the first parameters have its say."""

    def _optimizer(self) -> Any:
        spread = np.ones(len(self.first))
        spread[-1] = 2.0  # of the noise

        def optimize(loss: Loss, start: Floats, bounds: Floats) -> tuple[Floats, float]:
            def posterior(parameters: Floats) -> tuple[float, Floats]:
                value, gradient = loss(parameters)
                offset = (parameters - self.first) / spread
                return value + 0.5 * (offset**2).sum(), gradient + offset / spread

            limit = {"maxiter": STEPS}
            end = minimize(posterior, start, jac=True, bounds=bounds, options=limit)
            return end.x, end.fun

        return optimize


class StockPrior(Prior, Stock):
    """Standardized columns, and the prior."""


class SamePrior(Prior, Same):
    """Our kernels, and the prior."""


SURROGATES: dict[str, type[Surrogate]] = {
    "ours": Surrogate, "stock": Stock, "stock-prior": StockPrior, "same": Same,
    "same-prior": SamePrior,
}  # fmt: skip


class Contender(Auto):
    """`auto` with another surrogate."""

    surrogate: type[Surrogate] = Surrogate

    def _new_surrogate(self, components: Sequence[str]) -> Surrogate:
        return self.surrogate(components, self.rng)


def started(name: str, table: Benchmark, run: int) -> Contender:
    """Return a searcher as it is in a run of `benchmarks.auto`, with its scores."""
    searcher = Contender()
    searcher.surrogate = SURROGATES[name]
    searcher.start(table.space, derived_seed(derived_seed(0, run)))
    assert searcher.scoring is not None
    drawn = searcher.scoring.architectures
    searcher.tell_scores({arch: float(table.space.counts(arch).macs) for arch in drawn})
    return searcher


def step(searcher: Contender, table: Benchmark) -> tuple[Architecture, float]:
    """Ask and tell once; return what was asked for, and the CPU seconds of the asking."""
    start = time.process_time()
    arch = searcher.ask()
    seconds = time.process_time() - start
    searcher.tell(arch, float(table.finals[table.row(arch)]), 1)
    return arch, seconds


def queries_to_best(name: str, table: Benchmark, run: int, queries: int) -> float:
    """Return the evaluations until the best was found; NaN where it was not."""
    searcher = started(name, table, run)
    for query in range(1, queries + 1):
        if step(searcher, table)[0] == table.best:
            return query
    return np.nan


def milliseconds(name: str, table: Benchmark, runs: int) -> dict[str, float]:
    """Return CPU milliseconds of `ask` at each number of results."""
    taken = []
    for run in range(runs):
        searcher = started(name, table, run)
        taken.append([step(searcher, table)[1] for _ in range(max(KNOWN) + 3)])
    around = {known: slice(known - 3, known + 3) for known in KNOWN}
    return {
        f"ms@{known}": round(1e3 * float(np.median([np.mean(t[part]) for t in taken])), 1)
        for known, part in around.items()
    }


def compare(table: Benchmark, runs: int, queries: int, timed: int) -> dict[str, dict[str, float]]:
    """Return the figures of every surrogate."""
    needed = pd.DataFrame(
        [{n: queries_to_best(n, table, run, queries) for n in SURROGATES} for run in range(runs)]
    )
    cut = needed.fillna(queries)
    worse = cut.sub(cut["ours"], axis=0)
    rows = {}
    for name in SURROGATES:
        frame = pd.DataFrame({"queries_to_best": needed[name], "report": 0.0})
        rows[name] = {k: v for k, v in figures(frame, queries).items() if k != "report"} | {
            "mean_error": round(float(cut[name].sem()), 1),
            "more": round(float(worse[name].mean()), 1),
            "more_error": round(float(worse[name].sem()), 1),
        }
        rows[name] |= milliseconds(name, table, timed)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", required=True)
    parser.add_argument("--data", default="c10", help="c10, c100 or in16")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="four runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    roles = Roles("arch", f"{given.data}_valid_200")
    table = read_benchmark(given.table, roles, search_spaces.get("nasbench201"))
    runs, timed = (4, 1) if given.quick else (given.runs, 5)
    rows = compare(table, runs, given.queries, timed)
    print(json.dumps(rows) if given.json else pd.DataFrame(rows).T.to_string())


if __name__ == "__main__":
    main()
