"""Searchers side by side on a tabular benchmark; what `raynas bench` prints."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raynas.errors import InvalidArchitecture, InvalidArgument
from raynas.schedulers import SCHEDULERS, Scheduler
from raynas.searchers import SEARCHERS, Searcher
from raynas.simulate import Simulation
from search_spaces import Architecture, SearchSpace
from search_spaces.naming import construct
from trials.proxies import PROXIES
from trials.table import Benchmark, Roles, read_benchmark
from trials.trial import derived_seed

Floats = NDArray[np.float64]

_POINTS = 200  # of a curve in the figure
_CHUNK = 10  # runs that a process does at a time


def bench(
    table: str | Path | pd.DataFrame | None = None,
    architecture: str = "",
    search: Sequence[str | Searcher] | str = ("random", "evolution", "area", "local", "auto"),
    metric: str = "",
    cost: str = "",
    report: str = "",
    time_budget: float | None = None,
    queries: int | None = None,
    runs: int = 500,
    seed: int = 0,
    space: SearchSpace | str | None = None,
    scheduler: str | Scheduler = "fifo",
    workers: int = 1,
    unique: bool | None = None,
    scores: str | Path | pd.DataFrame | None = None,
    jobs: int = 1,
    figure: str | Path | None = None,
) -> pd.DataFrame:
    """Run searchers many times on a tabular benchmark, on a virtual clock.

    Args:
        table: a Parquet file, or what one would hold; None: the small table that comes with
            raynas (`digits-nb201.parquet`). What its columns are is said by the next arguments,
            or in a YAML file beside it.
        architecture: column of the architectures.
        search: searchers, names with arguments or objects.
        metric: what they maximize: a column, or an expression of columns (`valid / 100`).
        cost: seconds of an evaluation, likewise (`time_epoch_s * 12`); none: 1 each.
        report: what is reported of the architecture chosen, likewise; none: metric.
        time_budget: virtual seconds of a run. What has not ended by then does not count.
        queries: number of evaluations of a run. Give this or `time_budget`.
        runs: repetitions, each with its own seed.
        seed: all randomness derives from it.
        space: the search space; None: the built-in one whose notation the table uses.
        scheduler: of trials with learning curves.
        workers: evaluations at the same time.
        unique: whether architectures that compute the same function are paid for once only, as
            in `run()`. None: with `queries` yes; with `time_budget` no, because published
            results under a time budget pay for every repetition.
        scores: proxy scores, for searchers that want some: a Parquet file, or what one would
            hold, with the column `architecture` and one for each proxy. Columns of the table
            itself serve too. `params` and `macs` need none.
        jobs: processes.
        figure: file for a picture of the best so far against time, or evaluations.

    Returns:
        One row per searcher and run: `search`, `run`, `report` (of the best by `metric`),
        `queries` (evaluations ended), `queries_to_best` (until the best architecture of the
        table was found; NaN where it was not), `seconds` (virtual).
        `attrs["notes"]` lists what had to be replaced.

    Raises:
        InvalidArgument: for a wrong argument or table, before anything starts.
    """
    if (time_budget is None) == (queries is None):
        raise InvalidArgument(
            f"time_budget={time_budget} and queries={queries}: give one of the two."
        )
    for name, value in {"queries": queries, "runs": runs, "workers": workers, "jobs": jobs}.items():
        if value is not None and value < 1:
            raise InvalidArgument(f"{name}={value} must be at least 1.")
    if time_budget is not None and not time_budget > 0:
        raise InvalidArgument(f"time_budget={time_budget} must be positive.")
    searchers = _searchers(search)
    benchmark = _benchmark(table, Roles(architecture, metric, cost, report), space)
    known = _known_scores(benchmark, scores)
    notes = _stand_ins(searchers, benchmark.space, known)
    limits = {
        "queries": queries,
        "time_budget": math.inf if time_budget is None else time_budget,
        "workers": workers,
        "unique": queries is not None if unique is None else unique,
    }
    contest = Contest(benchmark, _scheduler(scheduler), known, seed, limits)
    results = [
        result
        for label, searcher in searchers.items()
        for result in contest.results(label, searcher, runs, jobs)
    ]
    frame = pd.DataFrame([row for row, _ in results])
    frame.attrs["notes"] = notes
    if figure is not None:
        curves = [curve for _, curve in results]
        _draw(frame, curves, benchmark.roles.metric, time_budget, Path(figure))
    return frame


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

    def results(self, label: str, searcher: Searcher, runs: int, jobs: int) -> Iterator[Outcome]:
        """Of all runs of one searcher, in order."""
        if jobs == 1:
            yield from (self.result(label, searcher, run) for run in range(runs))
            return
        with ProcessPoolExecutor(jobs) as pool:
            chunks = [range(i, min(i + _CHUNK, runs)) for i in range(0, runs, _CHUNK)]
            futures = [pool.submit(self._chunk, label, searcher, chunk) for chunk in chunks]
            for future in futures:
                yield from future.result()

    def _chunk(self, label: str, searcher: Searcher, runs: range) -> list[Outcome]:
        return [self.result(label, searcher, run) for run in runs]

    def result(self, label: str, searcher: Searcher, run: int) -> Outcome:
        """Of one run."""
        benchmark = self.benchmark
        simulation = Simulation(
            benchmark,
            copy.deepcopy(searcher),
            copy.deepcopy(self.scheduler),
            seed=derived_seed(self.seed, run),
            scores=self.score,
            **self.limits,
        ).run()
        evaluations = simulation.search.evaluations
        found: float = math.nan
        for position, evaluation in enumerate(evaluations[: simulation.ended], start=1):
            if benchmark.space.canonical(evaluation.architecture) == benchmark.best:
                found = position
                break
        best = simulation.search.best
        reported = math.nan if best is None else benchmark.reports[benchmark.row(best.architecture)]
        row = {
            "search": label, "run": run, "report": float(reported), "queries": simulation.ended,
            "queries_to_best": found, "seconds": simulation.seconds,
        }  # fmt: skip
        curve = [(s, n, evaluations[index].value) for s, n, index in simulation.incumbents]
        return row, curve

    def score(self, proxy: str, arch: Architecture) -> float:
        """Of an architecture by a proxy: as given, or what stands in for it (`_stand_ins`)."""
        space = self.benchmark.space
        if proxy in self.scores:
            return self.scores[proxy].get(space.canonical(arch), -math.inf)
        if not space.counts_fast:
            return 0.0
        counts = space.counts(arch)
        return float(counts.params if proxy == "params" else counts.macs)


def _searchers(search: Sequence[str | Searcher] | str) -> dict[str, Searcher]:
    """{label: searcher}."""
    items = split_names(search) if isinstance(search, str) else search
    found: dict[str, Searcher] = {}
    for item in items:
        if isinstance(item, str):
            found[item] = construct("search", item, SEARCHERS)
        elif isinstance(item, Searcher):
            found[repr(item)] = item
        else:
            raise InvalidArgument(f"search={item!r} is neither a name nor a Searcher.")
    if not found:
        raise InvalidArgument(f"search={search!r} names no searcher.")
    return found


def split_names(text: str) -> list[str]:
    """`a,b:x=1,y=2,c` as [`a`, `b:x=1,y=2`, `c`]: options belong to the name before them."""
    names: list[str] = []
    for piece in filter(None, text.split(",")):
        if "=" in piece and ":" not in piece and names:
            names[-1] += f",{piece}"
        else:
            names.append(piece.strip())
    return names


def _scheduler(scheduler: str | Scheduler) -> Scheduler:
    if isinstance(scheduler, str):
        return construct("scheduler", scheduler, SCHEDULERS)
    return scheduler


def _benchmark(
    table: str | Path | pd.DataFrame | None, roles: Roles, space: SearchSpace | str | None
) -> Benchmark:
    if isinstance(space, str):
        roles, space = Roles(**{**vars(roles), "space": space}), None
    if table is not None:
        return read_benchmark(table, roles, space)
    with resources.as_file(resources.files("trials") / "tables" / "digits-nb201.parquet") as path:
        return read_benchmark(path, roles, space)


def _known_scores(
    benchmark: Benchmark, scores: str | Path | pd.DataFrame | None
) -> dict[str, dict[Architecture, float]]:
    """{proxy: {canonical form: score}}, from the table's own columns and from `scores`."""
    space = benchmark.space
    archs = list(benchmark.rows)
    known = {
        str(name): dict(zip(map(space.canonical, archs), benchmark.frame[name], strict=True))
        for name in benchmark.frame
        if name in PROXIES
    }
    if scores is None:
        return known
    try:
        frame = scores if isinstance(scores, pd.DataFrame) else pd.read_parquet(scores)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"scores={str(scores)!r} is no Parquet file: {error}") from None
    proxies = [str(name) for name in frame if name in PROXIES]
    if "architecture" not in frame or not proxies:
        raise InvalidArgument(
            "scores: wanted are a column 'architecture' and one named after a proxy; there are"
            f" {', '.join(map(str, frame))}."
        )
    try:
        forms = [space.canonical(space.from_string(text)) for text in frame["architecture"]]
    except InvalidArchitecture as error:
        raise InvalidArgument(f"scores: {error}") from None
    return known | {name: dict(zip(forms, frame[name], strict=True)) for name in proxies}


def _stand_ins(
    searchers: Mapping[str, Searcher], space: SearchSpace, known: Mapping[str, Any]
) -> list[str]:
    """What the user should know of proxies of which there are no scores."""
    notes = []
    for label, searcher in searchers.items():
        probe = copy.deepcopy(searcher)
        probe.start(space, 0)
        scoring = probe.scoring
        if scoring is None or scoring.proxy in known:
            continue
        if not space.counts_fast:
            stand_in = "all architectures count as equal"
        elif scoring.proxy in ("params", "macs"):
            continue
        else:
            stand_in = "MACs stand in for them"
        notes.append(f"{label}: no scores by {scoring.proxy} were given (`scores`); {stand_in}.")
    return notes


def _draw(
    frame: pd.DataFrame,
    curves: Sequence[list[tuple[float, int, float]]],
    metric: str,
    time_budget: float | None,
    path: Path,
) -> None:
    """The best so far against time, or evaluations: mean over the runs, and its quartiles."""
    from matplotlib.figure import Figure  # takes long to import

    timed = time_budget is not None
    end = float(time_budget or frame["queries"].max())
    grid = np.linspace(0, end, _POINTS) if timed else np.arange(1, end + 1)
    firsts = [curve[0][0] if timed else curve[0][1] for curve in curves if curve]
    grid = grid[grid >= max(firsts, default=end)]
    picture = Figure(figsize=(7, 4.5), layout="constrained")
    axes = picture.subplots()
    for label in frame["search"].unique():
        chosen = [c for c, name in zip(curves, frame["search"], strict=True) if name == label and c]
        values = np.stack([_on(grid, curve, timed) for curve in chosen])
        low, high = np.percentile(values, (25, 75), axis=0)
        axes.fill_between(grid, low, high, alpha=0.2, linewidth=0)
        axes.plot(grid, values.mean(axis=0), label=label)
    axes.set_xlabel("seconds (virtual)" if timed else "evaluations")
    axes.set_ylabel(f"best {metric} so far")
    axes.legend()
    try:
        picture.savefig(path)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"figure={str(path)!r} cannot be written: {error}") from None


def _on(grid: Floats, curve: list[tuple[float, int, float]], timed: bool) -> Floats:
    """The best so far at the points of a grid, none of them before the first."""
    places = [seconds if timed else float(number) for seconds, number, _ in curve]
    values = np.array([value for *_, value in curve])
    return np.asarray(values[np.searchsorted(places, grid, side="right") - 1])


def summary(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Of every searcher, over its runs: means, standard deviations, and queries to the best.

    Where the best was not found, its queries count as infinite; a median or percentile that
    falls there is infinite.
    """
    rows = {}
    for label, runs in frame.groupby("search", sort=False):
        queries = runs["queries_to_best"].fillna(np.inf)
        rows[str(label)] = {
            "report_mean": float(runs["report"].mean()),
            "report_std": float(runs["report"].std(ddof=0)),
            "queries_mean": float(runs["queries"].mean()),
            "seconds_mean": float(runs["seconds"].mean()),
            "found_best": float(np.isfinite(queries).mean()),
            "queries_to_best_median": float(np.quantile(queries, 0.5, method="higher")),
            "queries_to_best_p90": float(np.quantile(queries, 0.9, method="higher")),
        }
    return rows
