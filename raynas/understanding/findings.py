"""Everything that a finished run tells, part by part; a part that cannot be told says why."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from raynas.errors import InvalidArgument, RaynasError
from raynas.record.folder import write
from raynas.record.history import History
from raynas.record.results import Result
from raynas.record.table import read_parquet
from raynas.understanding.bias import Bias, biases, images_of, is_given, run_strata
from raynas.understanding.convergence import curves
from raynas.understanding.proxy_trust import ProxyTrust, Scores, trust
from raynas.understanding.strata import Strata
from raynas.understanding.topology import Population, measured, population, space_of_run
from search_spaces import SearchSpace

T = TypeVar("T")

#: what was scored for the sake of the comparison, in `understanding/` of a run folder
_SCORES = "scores.parquet"


@dataclass(frozen=True)
class Findings:
    """What a finished run tells.

    Attributes:
        population: of the space; None where it has no cells.
        topology: width and depth of what was evaluated; None likewise.
        bias: see `raynas.bias`; None where nothing tells the architectures apart.
        convergence: see `raynas.convergence`; None likewise.
        trust: see `raynas.proxy_trust`; None where that fails.
        problems: {part: why it is None}.
    """

    population: Population | None
    topology: pd.DataFrame | None
    bias: Bias | None
    convergence: pd.DataFrame | None
    trust: ProxyTrust | None
    problems: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write `topology.parquet`, `convergence.parquet`, `bias.parquet` and `proxies.parquet`.

        Args:
            folder: `understanding/` of the run folder; a part that there is not has no file.
        """
        tables = {
            "topology": self.topology,
            "convergence": self.convergence,
            "bias": None if self.bias is None else self.bias.to_frame(),
            "proxies": None if self.trust is None else self.trust.signals,
        }
        for name, table in tables.items():
            (folder / f"{name}.parquet").unlink(missing_ok=True)
            if table is not None:
                write(folder / f"{name}.parquet", table.to_parquet)


def find(
    history: History, space: SearchSpace, config: Mapping[str, Any],
    images: tuple[tuple[int, ...], int] | None, best: str | None, scores: Scores,
) -> Findings:  # fmt: skip
    """Return what the history of a run tells.

    Args:
        history: of the run.
        space: of its architectures.
        config: the arguments of the run.
        images: (shape of one, number of classes).
        best: the architecture that the run chose.
        scores: {name: {architecture: score}} beside those of the run itself.
    """
    problems: dict[str, str] = {}
    notations = [e.notation for e in history.evaluations]
    told = attempted("topology", problems, partial(measured, notations, space))
    known = None if told is None else attempted("topology", problems, partial(population, space))
    groups: list[Strata] | None = attempted(
        "bias", problems, partial(run_strata, history, space, images)
    )
    bias = table = None
    if groups is not None:
        given = is_given(config)
        bias = attempted("bias", problems, partial(biases, history, groups, best, space, given))
        table = attempted("convergence", problems, partial(curves, history, groups))
    trusted = attempted(
        "proxies", problems, partial(trust, history, space, str(config["evaluate"]), images, scores)
    )
    return Findings(known, told, bias, table, trusted, problems)


def findings_of(result: Result, space: SearchSpace | None = None) -> Findings:
    """Return what a finished run tells, with the scores that its folder has.

    Args:
        result: the run.
        space: the search space; None: the one of the run, if it has a name.

    Raises:
        UnknownName: for a space of the user's own that was not given.
    """
    return find(
        result.history, space or space_of_run(result, "findings_of"),
        result.config, images_of(result), result.best.architecture,
        read_scores(result.folder.understanding),
    )  # fmt: skip


def attempted(part: str, problems: dict[str, str], compute: Callable[[], T]) -> T | None:
    """Return what a part comes to; None, with the reason among the problems, where it fails.

    One part must not cost the others, nor the report: a space of the user's own may raise
    anything.
    """
    try:
        return compute()
    except RaynasError as error:
        problems[part] = str(error)
    except Exception as error:
        problems[part] = f"{type(error).__name__}: {error}"
    return None


def read_scores(folder: Path) -> dict[str, dict[str, float]]:
    """Return {name: {architecture: score}} as `write_scores` wrote them; empty without any.

    Raises:
        InvalidArgument: when the file is damaged.
    """
    path = folder / _SCORES
    if not path.exists():
        return {}
    try:
        table = read_parquet(path).set_index("architecture")
    except (OSError, ValueError, KeyError) as error:
        raise InvalidArgument(
            f"{path} cannot be read ({error}). Remove {folder}; `raynas understand` makes it anew."
        ) from error
    return {
        str(name): {str(text): float(score) for text, score in column.dropna().items()}
        for name, column in table.items()
    }


def write_scores(folder: Path, scores: Scores) -> None:
    """Write {name: {architecture: score}} to `scores.parquet` of a folder."""
    table = pd.DataFrame({name: pd.Series(dict(mine)) for name, mine in scores.items()})
    table = table.rename_axis("architecture").reset_index()
    write(folder / _SCORES, table.to_parquet)
