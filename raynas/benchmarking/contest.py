"""A contest of searchers: every run of each, on the same table, scheduler and budget."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ray import cloudpickle

from raynas.benchmarking.simulation import Simulation
from raynas.schedulers import Scheduler
from raynas.search.admission import Admission
from raynas.searchers import Constraint, Searcher
from search_spaces import Architecture
from trials.proxies import Score, proxy_name
from trials.tables.benchmark import Benchmark
from trials.trial import derived_seed

_CHUNK = 10  # runs that a process does at a time

#: one row of the result, and (seconds, evaluations, metric) of every new best
Outcome = tuple[dict[str, Any], list[tuple[float, int, float]]]


@dataclass
class Contest:
    """What all runs have in common."""

    benchmark: Benchmark
    scheduler: Scheduler
    scores: Mapping[str, Mapping[Architecture, float]]
    seed: int
    limits: dict[str, Any]
    constraint: Constraint | None = None

    @cached_property
    def _measured(self) -> Callable[[Architecture], float] | None:
        """What the constraint is about, counted once for all runs of a process."""
        if self.constraint is None:
            return None
        return self.constraint.measured(self.benchmark.space)

    def results(self, label: str, searcher: Searcher, runs: int, jobs: int) -> Iterator[Outcome]:
        """Yield the outcomes of all runs of one searcher, in order."""
        if jobs == 1:
            yield from (self.result(label, searcher, run) for run in range(runs))
            return
        sent = cloudpickle.dumps((self, label, searcher))  # type: ignore[no-untyped-call]
        chunks = [range(i, min(i + _CHUNK, runs)) for i in range(0, runs, _CHUNK)]
        with ProcessPoolExecutor(min(jobs, len(chunks))) as pool:
            futures = [pool.submit(_chunk, sent, chunk) for chunk in chunks]
            for future in futures:
                yield from future.result()

    def result(self, label: str, searcher: Searcher, run: int) -> Outcome:
        """Return the outcome of one run."""
        benchmark = self.benchmark
        simulation = Simulation(
            benchmark,
            copy.deepcopy(searcher),
            copy.deepcopy(self.scheduler),
            seed=derived_seed(self.seed, run),
            scores=self.score,
            admission=Admission(self.constraint, self._measured),
            **self.limits,
        ).run()
        evaluations = simulation.search.evaluations
        best = simulation.search.best
        reported = math.nan
        if best is not None:
            arch = simulation.search.architectures[best.index]
            reported = float(benchmark.reports[benchmark.row(arch)])
        row = {
            "search": label,
            "run": run,
            "report": reported,
            "queries": simulation.search.finished,
            "queries_to_best": float(simulation.found_best or math.nan),
            "seconds": simulation.seconds,
        }
        curve = [(s, n, evaluations[index].value) for s, n, index in simulation.incumbents]
        return row, curve

    def score(self, proxy: str | Score, arch: Architecture) -> float:
        """Return a proxy's score of an architecture, or what stands in for it; see `stand_ins`."""
        space = self.benchmark.space
        name = proxy_name(proxy)
        if name in self.scores:
            return self.scores[name].get(space.canonical(arch), -math.inf)
        if not space.counts_fast:
            return 0.0
        counts = space.counts(arch)
        return float(counts.params if proxy == "params" else counts.macs)


def _chunk(sent: bytes, runs: range) -> list[Outcome]:
    """Return the outcomes of some runs of one searcher; called in a process of their own."""
    contest, label, searcher = cloudpickle.loads(sent)
    return [contest.result(label, searcher, run) for run in runs]
