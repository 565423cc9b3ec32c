"""Tabular benchmarks: evaluations that somebody has paid for already, read from a file.

A tabular benchmark is a Parquet file with one architecture a row, in the notation of its space,
and columns of numbers; a column of lists is a learning curve, one number an epoch. What each
column is for is said by arguments, or by a YAML file beside it with the same keys (`nb.yaml`
beside `nb.parquet`). Wherever a column is asked for, an expression will do: `time_epoch_s * 12`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

import search_spaces
from search_spaces import Architecture, SearchSpace
from search_spaces.custom.token_space import TokenSpace
from search_spaces.errors import InvalidArchitecture, InvalidArgument, RaynasError, UnknownName
from search_spaces.naming import suggestion
from trials.tables.part import TablePart

Floats = NDArray[np.float64]

_GUESS_FROM = 20  # rows that tell of which space a table is


@dataclass(frozen=True)
class Roles:
    """The columns of a table by their roles; empty where there is none.

    Attributes:
        architecture: the column of architectures, in the notation of the space.
        metric: what a search maximizes; a column or an expression of columns.
        cost: seconds that an evaluation costs (default: 1 each).
        report: what is reported of the architecture that a search chooses (default: metric).
        space: the search space, a name with arguments (default: found from the notation).
    """

    architecture: str = ""
    metric: str = ""
    cost: str = ""
    report: str = ""
    space: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A tabular benchmark, read and checked.

    Attributes:
        space: what the table covers, in whole or in part.
        rows: {architecture: its row}.
        curves: of each row the metric after every epoch; an array of length 1 where the table
            has one value. NaN where an evaluation failed.
        costs: of each row the seconds of all its epochs.
        reports: of each row what is reported.
        frame: the table itself.
        roles: as they were resolved.
    """

    space: SearchSpace
    rows: Mapping[Architecture, int]
    curves: list[Floats]
    costs: Floats
    reports: Floats
    frame: pd.DataFrame
    roles: Roles

    def row(self, arch: Architecture) -> int:
        """Return the row of an architecture, or of one that computes the same function.

        Raises:
            InvalidArchitecture: when the table has neither.
        """
        row = self.rows.get(arch)
        if row is None:
            row = self._forms.get(self.space.canonical(arch))
        if row is None:
            raise InvalidArchitecture(f"The table has no {self.space.to_string(arch)}.")
        return row

    @property
    def epochs(self) -> int:
        """Epochs of the longest learning curve."""
        return max(map(len, self.curves))

    @cached_property
    def finals(self) -> Floats:
        """The metric of each row after its last epoch; minus infinity where it failed."""
        last = np.array([curve[-1] for curve in self.curves])
        return np.where(np.isnan(last), -np.inf, last)

    @cached_property
    def best(self) -> Architecture:
        """The canonical form of the architecture with the highest metric."""
        archs = list(self.rows)
        return self.space.canonical(archs[int(self.finals.argmax())])

    @cached_property
    def _forms(self) -> dict[Architecture, int]:
        return {self.space.canonical(a): row for a, row in reversed(list(self.rows.items()))}


def read_benchmark(
    file: str | Path | pd.DataFrame, roles: Roles, space: SearchSpace | None = None
) -> Benchmark:
    """Read a table.

    Args:
        file: a Parquet file, or what one would hold.
        roles: what its columns are; what is empty is taken from the YAML file beside it.
        space: None: what `roles` says, or the built-in space whose notation the table uses, or
            a space made from the tokens in which the architectures differ.

    Raises:
        InvalidArgument: for a file that cannot be read, a column that is not there, an
            architecture that is not of the space or comes twice, a cost that is no number.
    """
    frame = file if isinstance(file, pd.DataFrame) else _read(Path(file))
    roles = _completed(roles, None if isinstance(file, pd.DataFrame) else Path(file), frame)
    texts = _texts(frame, roles.architecture)
    if space is None:
        space = search_spaces.get(roles.space) if roles.space else space_of(texts)
    rows = _rows(space, texts)
    finals = _column(frame, "metric", roles.metric)
    curves = [_curve(roles.metric, row, value) for row, value in enumerate(finals)]
    if all(np.isnan(curve[-1]) for curve in curves):
        raise InvalidArgument(f"metric={roles.metric!r}: the table has no number there.")
    costs = np.ones(len(frame)) if not roles.cost else _numbers(frame, "cost", roles.cost)
    if np.isnan(costs).any() or (costs < 0).any():
        bad = int(np.flatnonzero(np.isnan(costs) | (costs < 0))[0])
        raise InvalidArgument(f"cost={roles.cost!r} is {costs[bad]} in row {bad} ({texts[bad]}).")
    last = np.array([curve[-1] for curve in curves])
    reports = _numbers(frame, "report", roles.report) if roles.report else last
    covered = space if _covers(space, rows) else TablePart(space, tuple(rows))
    return Benchmark(covered, rows, curves, costs, reports, frame, roles)


def space_of(texts: list[str]) -> SearchSpace:
    """Find the built-in space in whose notation these are, or make one from their tokens."""
    for name in search_spaces.names():
        space = search_spaces.get(name)
        try:
            for text in texts[:: max(1, len(texts) // _GUESS_FROM)]:
                space.from_string(text)
        except RaynasError:
            continue
        return space
    return TokenSpace(texts)


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"table={str(path)!r} is no Parquet file: {error}") from None


def _completed(roles: Roles, path: Path | None, frame: pd.DataFrame) -> Roles:
    """Complete the roles, where they are silent, from the YAML file beside the table."""
    beside = {} if path is None else _read_roles(path.with_suffix(".yaml"))
    columns = {key: value or beside.get(key, "") for key, value in asdict(roles).items()}
    for role in ("architecture", "metric"):
        if not columns[role]:
            raise InvalidArgument(
                f"{role}: say which column of the table that is."
                f" Columns: {', '.join(map(str, frame))}."
            )
    return Roles(**columns)


def _read_roles(path: Path) -> dict[str, str]:
    """Read the roles in a YAML file, if it is there."""
    if not path.is_file():
        return {}
    try:
        roles = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}") from None
    if not isinstance(roles, dict):
        raise InvalidArgument(f"{path} must be a mapping of roles to columns.")
    for key, value in roles.items():
        if key not in asdict(Roles()):
            raise InvalidArgument(
                f"{path}: {key!r} is no role of a column. {suggestion(str(key), asdict(Roles()))}"
            )
        if not isinstance(value, str):
            raise InvalidArgument(f"{path}: {key} must be a text, not {value!r}.")
    return roles


def _texts(frame: pd.DataFrame, column: str) -> list[str]:
    if column not in frame:
        raise InvalidArgument(
            f"architecture={column!r} is no column. {suggestion(column, map(str, frame))}"
        )
    if frame.empty:
        raise InvalidArgument("table: it has no rows.")
    return [str(text) for text in frame[column]]


def _rows(space: SearchSpace, texts: list[str]) -> dict[Architecture, int]:
    rows: dict[Architecture, int] = {}
    for row, text in enumerate(texts):
        try:
            arch = space.from_string(text)
        except InvalidArchitecture as error:
            raise InvalidArgument(f"table: row {row} is not of the space: {error}") from None
        if arch in rows:
            raise InvalidArgument(f"table: rows {rows[arch]} and {row} are both {text!r}.")
        rows[arch] = row
    return rows


def _covers(space: SearchSpace, rows: Mapping[Architecture, int]) -> bool:
    """Tell whether every architecture of the space, or an equal one, is in the table."""
    if len(rows) == space.size:
        return True
    forms = {space.canonical(arch) for arch in rows}
    if space.size > 100 * len(rows):
        return False
    return all(space.canonical(arch) in forms for arch in space)


def _curve(metric: str, row: int, value: Any) -> Floats:
    """Return the values of one architecture; NaN where it has none."""
    try:
        missing = value is None or value is pd.NA
        curve = np.atleast_1d(np.asarray(np.nan if missing else value, dtype=np.float64))
    except (ValueError, TypeError, OverflowError):
        curve = np.full((1, 1), np.nan)
    if curve.ndim != 1 or np.isinf(curve).any():
        raise InvalidArgument(
            f"metric={metric!r} is {value!r} in row {row}: wanted is a finite number, or a list of"
            " them, one an epoch; NaN for an evaluation that failed."
        )
    return curve if len(curve) else np.array([np.nan])


def _column(frame: pd.DataFrame, role: str, expression: str) -> "pd.Series[Any]":
    """Return the values of a column, or of an expression of columns."""
    if expression in frame:
        return frame[expression]
    try:
        values = frame.eval(expression)
    except pd.errors.UndefinedVariableError as error:
        name = str(error).split("'")[1]
        raise UnknownName(
            f"{role}={expression!r}: {name!r} is no column. {suggestion(name, map(str, frame))}"
        ) from None
    except Exception as error:  # pandas raises all kinds
        raise InvalidArgument(f"{role}={expression!r} is no expression: {error}") from None
    if not isinstance(values, pd.Series):
        raise InvalidArgument(f"{role}={expression!r} is a constant, not a column of the table.")
    return values


def _numbers(frame: pd.DataFrame, role: str, expression: str) -> Floats:
    values = _column(frame, role, expression)
    try:
        return values.to_numpy(dtype=np.float64)
    except (ValueError, TypeError):
        raise InvalidArgument(
            f"{role}={expression!r} must be one number for every architecture."
        ) from None
