"""The rankings of a run by its shared weights, and the truth to compare them with."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import search_spaces
from raynas.errors import InvalidArgument, UnknownName
from raynas.record.events import METRIC, Status
from raynas.record.folder import RunFolder
from raynas.record.results import Result, load
from raynas.record.table import read_parquet
from raynas.understanding.rank_measures import Numbers
from search_spaces import SearchSpace
from search_spaces.naming import construct
from trials import EVALUATORS, Table


def read_rankings(folder: Path) -> pd.DataFrame:
    """Return one row per ranking, (kind, offset), and one column per architecture.

    Args:
        folder: of a run.

    Raises:
        InvalidArgument: when it has no complete rankings.
    """
    path = RunFolder(folder).rankings
    if not path.exists():
        raise InvalidArgument(
            f"runs: {folder} has no {path.relative_to(folder)}. Rankings are kept by runs with"
            " evaluate='supernet' and probes > 0, once the supernet is trained."
        )
    try:
        rows = read_parquet(path)
        rows = rows.drop_duplicates(["kind", "offset", "architecture"], keep="last")
        table = rows.pivot(index=["kind", "offset"], columns="architecture", values="accuracy")
    except (OSError, ValueError, KeyError) as error:
        raise InvalidArgument(f"runs: {path} cannot be read: {error}") from error
    if "final" not in table.index:
        raise InvalidArgument(f"runs: {path} has no final ranking; the training has not ended.")
    return table


def space_of(result: Result) -> SearchSpace | None:
    """Return the space of a run; None where only the user could make it."""
    try:
        return search_spaces.get(result.config["space"])
    except UnknownName:
        return None


def true_values(truth: Any, names: list[str], space: SearchSpace | None) -> Numbers:
    """Return the true value of each architecture; NaN where it is not known.

    Args:
        truth: as of `raynas.rank_stability`.
        names: the architectures, in the notation of their space.
        space: of the architectures, where it is known.

    Raises:
        InvalidArgument: when the truth is none, or of things that were not trained alone.
    """
    if isinstance(truth, str) and truth.partition(":")[0] == "table":
        truth = construct("truth", truth, EVALUATORS)
    if isinstance(truth, Table):
        if space is None:
            raise InvalidArgument("truth: a table needs a built-in space.")
        benchmark = truth.benchmark(space)
        values = {}
        for name in names:
            arch = space.from_string(name)
            if benchmark.space.is_valid(arch):
                values[name] = float(benchmark.curves[benchmark.row(arch)][-1])
        return np.array([values.get(name, math.nan) for name in names])
    if isinstance(truth, Result | str | Path):
        truth = _trained(truth if isinstance(truth, Result) else load(truth))
    if not isinstance(truth, Mapping | pd.Series):
        raise InvalidArgument(
            f"truth={truth!r}: give a mapping or Series from notation to value, a run, or"
            " table:FILE."
        )

    def form(text: str) -> Any:
        return text if space is None else space.canonical(space.from_string(text))

    own = {str(name): float(value) for name, value in truth.items()}
    equal = {form(name): value for name, value in own.items()}
    return np.array([own.get(name, equal.get(form(name), math.nan)) for name in names])


def _trained(result: Result) -> dict[str, float]:
    """Return what the trials of a run reached that were trained longest."""
    if result.config["evaluate"].partition(":")[0] in ("supernet", "proxy"):
        raise InvalidArgument(f"truth: {result.path} has no architectures that were trained alone.")
    trials = result.trials
    done = trials[trials["status"] == Status.COMPLETED]
    done = done[done["epochs"] == done["epochs"].max()]
    return dict(zip(done["architecture"], done[METRIC], strict=True))
