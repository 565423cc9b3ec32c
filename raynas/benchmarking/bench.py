"""Searchers side by side on a tabular benchmark; what `raynas bench` prints."""

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raynas.benchmarking.contest import Contest
from raynas.benchmarking.progress import shown
from raynas.benchmarking.proxy_scores import proxy_scores, stand_ins
from raynas.errors import InvalidArgument
from raynas.schedulers import SCHEDULERS, Scheduler
from raynas.searchers import CONSTRAINTS, SEARCHERS, Constraint, Searcher
from search_spaces import SearchSpace
from search_spaces.naming import construct
from trials.tables.benchmark import Benchmark, Roles, read_benchmark

Floats = NDArray[np.float64]

_POINTS = 200  # of a curve in the figure


def bench(
    table: str | Path | pd.DataFrame | None = None,
    architecture: str = "",
    search: Sequence[str | Searcher] | str = ("random", "evolution", "area", "local", "auto"),
    metric: str = "",
    cost: str = "",
    report: str = "",
    time_budget: float | None = None,
    queries: int | None = None,
    runs: int = 100,
    seed: int = 0,
    space: SearchSpace | str | None = None,
    scheduler: str | Scheduler = "fifo",
    workers: int = 1,
    unique: bool | None = None,
    scores: str | Path | pd.DataFrame | None = None,
    constraint: str | Constraint | None = None,
    jobs: int = 1,
    figure: str | Path | None = None,
) -> pd.DataFrame:
    """Run searchers many times on a tabular benchmark, on a virtual clock.

    How many runs are done is shown on standard error.

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
            hold, with the column `architecture` and one for each proxy, of a function by its name.
            Columns of the table itself serve too. `params` and `macs` need none.
        constraint: a quota, a limit or a penalty on a property of the architectures, as in
            `run()`; parameters and MACs are those of 32 x 32 images in three channels.
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
    _check_budget(time_budget, queries)
    for name, value in {"queries": queries, "runs": runs, "workers": workers, "jobs": jobs}.items():
        if value is not None and value < 1:
            raise InvalidArgument(f"{name}={value} must be at least 1.")
    if seed < 0:
        raise InvalidArgument(f"seed={seed} must not be negative.")
    searchers = _searchers(search)
    benchmark = _benchmark(table, Roles(architecture, metric, cost, report), space)
    if time_budget is not None and not benchmark.costs.any():
        raise InvalidArgument(f"cost={benchmark.roles.cost!r} is 0 everywhere: give queries.")
    decider = _scheduler(scheduler)
    decider.check(benchmark.space)
    proxies = proxy_scores(benchmark, scores, searchers.values())
    notes = stand_ins(searchers, benchmark, proxies)
    limits = {
        "queries": queries,
        "time_budget": math.inf if time_budget is None else time_budget,
        "workers": workers,
        "unique": queries is not None if unique is None else unique,
    }
    rule = _constraint(constraint)
    if rule is not None:
        rule.measured(benchmark.space)  # or says why it cannot
    contest = Contest(benchmark, decider, proxies, seed, limits, rule)
    outcomes = {
        label: contest.results(label, searcher, runs, jobs) for label, searcher in searchers.items()
    }
    results = list(shown(outcomes, runs))
    frame = pd.DataFrame([row for row, _ in results])
    frame.attrs["notes"] = notes
    if figure is not None:
        curves = [curve for _, curve in results]
        _draw(frame, curves, benchmark.roles.metric, time_budget, Path(figure))
    return frame


def _check_budget(time_budget: float | None, queries: int | None) -> None:
    """Refuse budgets that end no run, or contradict each other."""
    if (time_budget is None) == (queries is None):
        raise InvalidArgument(
            f"time_budget={time_budget} and queries={queries}: give one of the two."
        )
    if time_budget is not None and not (0 < time_budget < math.inf):
        raise InvalidArgument(f"time_budget={time_budget} must be positive and finite.")


def _searchers(search: Sequence[str | Searcher] | str) -> dict[str, Searcher]:
    """Return {label: searcher}."""
    if not isinstance(search, str | Sequence):
        raise InvalidArgument(f"search={search!r}: give names, or a list of names and objects.")
    items = split_names(search) if isinstance(search, str) else search
    searchers: dict[str, Searcher] = {}
    for item in items:
        if isinstance(item, str):
            searchers[item] = construct("search", item, SEARCHERS)
        elif isinstance(item, Searcher):
            label = type(item).__name__.lower()
            same = sum(name.split("#")[0] == label for name in searchers)
            searchers[f"{label}#{same + 1}" if same else label] = item
        else:
            raise InvalidArgument(f"search={item!r} is neither a name nor a Searcher.")
    if not searchers:
        raise InvalidArgument(f"search={search!r} names no searcher.")
    for label, searcher in searchers.items():
        if searcher.needs_predictions or searcher.driver:
            kind = "trains a supernet" if searcher.driver else "grows an ensemble of networks"
            raise InvalidArgument(
                f"search={label!r} {kind}, and with a table nothing is trained: leave it out."
            )
    return searchers


def split_names(text: str) -> list[str]:
    """Split `a,b:x=1,y=2,c` into `a`, `b:x=1,y=2` and `c`: options follow their name."""
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


def _constraint(constraint: str | Constraint | None) -> Constraint | None:
    if isinstance(constraint, str):
        return construct("constraint", constraint, CONSTRAINTS)
    if constraint is not None and not isinstance(constraint, Constraint):
        raise InvalidArgument(f"constraint={constraint!r} is neither a name nor a Constraint.")
    return constraint


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


def _draw(
    frame: pd.DataFrame,
    curves: Sequence[list[tuple[float, int, float]]],
    metric: str,
    time_budget: float | None,
    path: Path,
) -> None:
    """Draw the best so far against time, or evaluations: the runs' mean and quartiles."""
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
    """Return the best so far at the points of a grid, none of them before the first."""
    places = [seconds if timed else float(number) for seconds, number, _ in curve]
    values = np.array([value for *_, value in curve])
    return np.asarray(values[np.searchsorted(places, grid, side="right") - 1])


def summary(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return each searcher's means, standard deviations and queries to the best over its runs.

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
