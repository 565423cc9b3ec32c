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
from ray import cloudpickle

from raynas.benchmarking.simulation import Simulation
from raynas.errors import InvalidArchitecture, InvalidArgument
from raynas.schedulers import SCHEDULERS, Scheduler
from raynas.searchers import SEARCHERS, GrowingSearcher, Searcher
from search_spaces import Architecture, SearchSpace
from search_spaces.naming import construct
from trials.proxies import PROXIES
from trials.tables.benchmark import Benchmark, Roles, read_benchmark
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
    if time_budget is not None and not (0 < time_budget < math.inf):
        raise InvalidArgument(f"time_budget={time_budget} must be positive and finite.")
    if seed < 0:
        raise InvalidArgument(f"seed={seed} must not be negative.")
    searchers = _searchers(search)
    benchmark = _benchmark(table, Roles(architecture, metric, cost, report), space)
    if time_budget is not None and not benchmark.costs.any():
        raise InvalidArgument(f"cost={benchmark.roles.cost!r} is 0 everywhere: give queries.")
    known = _known_scores(benchmark, scores)
    notes = _stand_ins(searchers, benchmark, known)
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
        sent = cloudpickle.dumps((self, label, searcher))  # type: ignore[no-untyped-call]
        with ProcessPoolExecutor(jobs) as pool:
            chunks = [range(i, min(i + _CHUNK, runs)) for i in range(0, runs, _CHUNK)]
            futures = [pool.submit(_chunk, sent, chunk) for chunk in chunks]
            for future in futures:
                yield from future.result()

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

    def score(self, proxy: str, arch: Architecture) -> float:
        """Of an architecture by a proxy: as given, or what stands in for it (`_stand_ins`)."""
        space = self.benchmark.space
        if proxy in self.scores:
            return self.scores[proxy].get(space.canonical(arch), -math.inf)
        if not space.counts_fast:
            return 0.0
        counts = space.counts(arch)
        return float(counts.params if proxy == "params" else counts.macs)


def _chunk(sent: bytes, runs: range) -> list[Outcome]:
    """Some runs of one searcher, in a process of their own."""
    contest, label, searcher = cloudpickle.loads(sent)
    return [contest.result(label, searcher, run) for run in runs]


def _searchers(search: Sequence[str | Searcher] | str) -> dict[str, Searcher]:
    """{label: searcher}."""
    if not isinstance(search, str | Sequence):
        raise InvalidArgument(f"search={search!r}: give names, or a list of names and objects.")
    items = split_names(search) if isinstance(search, str) else search
    found: dict[str, Searcher] = {}
    for item in items:
        if isinstance(item, str):
            found[item] = construct("search", item, SEARCHERS)
        elif isinstance(item, Searcher):
            label = type(item).__name__.lower()
            same = sum(name.split("#")[0] == label for name in found)
            found[f"{label}#{same + 1}" if same else label] = item
        else:
            raise InvalidArgument(f"search={item!r} is neither a name nor a Searcher.")
    if not found:
        raise InvalidArgument(f"search={search!r} names no searcher.")
    for label, searcher in found.items():
        if isinstance(searcher, GrowingSearcher):
            raise InvalidArgument(
                f"search={label!r} grows an ensemble of trained networks, and a table has none:"
                " leave it out."
            )
    return found


def split_names(text: str) -> list[str]:
    """`a,b:x=1,y=2,c` as [`a`, `b:x=1,y=2`, `c`]: options belong to the name before them."""
    names: list[str] = []
    for piece in filter(None, text.split(",")):
        if "=" in piece.partition(":")[0] and names:
            names[-1] += f",{piece}"
        else:
            names.append(piece.strip())
    return names


def _scheduler(scheduler: str | Scheduler) -> Scheduler:
    if isinstance(scheduler, str):
        return construct("scheduler", scheduler, SCHEDULERS)
    if not isinstance(scheduler, Scheduler):
        raise InvalidArgument(f"scheduler={scheduler!r} is neither a name nor a Scheduler.")
    return scheduler


def _benchmark(
    table: str | Path | pd.DataFrame | None, roles: Roles, space: SearchSpace | str | None
) -> Benchmark:
    if space is not None and not isinstance(space, str | SearchSpace):
        raise InvalidArgument(f"space={space!r} is neither a name nor a SearchSpace.")
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
    forms = [space.canonical(arch) for arch in archs]
    known = {
        str(name): _numbers(str(name), forms, benchmark.frame[name])
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
    return known | {name: _numbers(name, forms, frame[name]) for name in proxies}


def _numbers(
    proxy: str, forms: list[Architecture], scores: "pd.Series[Any]"
) -> dict[Architecture, float]:
    try:
        numbers = pd.to_numeric(scores).astype(float)
    except (ValueError, TypeError):
        raise InvalidArgument(f"scores: {proxy} must be numbers.") from None
    return dict(zip(forms, numbers, strict=True))


def _stand_ins(
    searchers: Mapping[str, Searcher], benchmark: Benchmark, known: Mapping[str, Any]
) -> list[str]:
    """What the user should know of proxies of which there are no scores."""
    notes = []
    space = benchmark.space
    forms = {space.canonical(arch) for arch in benchmark.rows}
    for label, searcher in searchers.items():
        probe = copy.deepcopy(searcher)
        probe.start(space, 0)
        scoring = probe.scoring
        if scoring is None:
            continue
        if scoring.proxy in known:
            lacking = sum(form not in known[scoring.proxy] for form in forms)
            if lacking:
                notes.append(
                    f"{label}: {lacking} of {len(forms)} architectures have no score by"
                    f" {scoring.proxy}; they rank last."
                )
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
        if not chosen:
            continue  # nothing ended within the budget
        values = np.stack([_on(grid, curve, timed) for curve in chosen])
        low, high = np.percentile(values, (25, 75), axis=0)
        axes.fill_between(grid, low, high, alpha=0.2, linewidth=0)
        axes.plot(grid, values.mean(axis=0), label=label)
    axes.set_xlabel("seconds (virtual)" if timed else "evaluations")
    axes.set_ylabel(f"best {metric} so far")
    if firsts:
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
