"""The verb `understand`: what a finished run tells, or a study of published cells."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import raynas
from raynas.cli.flags import read_flags, with_flags
from raynas.cli.output import AsJson, finite, plain
from raynas.errors import InvalidArgument, StorageError, UnknownName
from search_spaces.cells.genotypes import named
from trials.places import is_url

if TYPE_CHECKING:  # pandas takes long to import
    import pandas as pd

    from raynas.record.results import Result
    from raynas.understanding.findings import Findings


@with_flags(read_flags("raynas.studies:study"))
def understand(
    target: Annotated[str, typer.Argument(help="run folder, or published cells: DARTS_V2")],
    as_json: AsJson = False,
    *,
    arguments: dict[str, Any],
) -> None:
    """Tell what a search has favored, and what its signals were worth; or study published cells.

    Of published cells, their adapted form and random variants are trained side by side. The flags
    are those of such a study.
    """
    result = _studied(target, arguments) or _of_run(target, arguments)

    from raynas.understanding.findings import findings_of  # with torch

    found = findings_of(result)
    if as_json:
        print(json.dumps(_content(found), default=plain))
        return
    _print(found)
    print(result.folder.understanding)
    print(result.folder.report)


def _studied(target: str, arguments: dict[str, Any]) -> "Result | None":
    """Return the study of published cells; None where the target is none."""
    if is_url(target) or Path(target).exists():
        return None
    try:
        named(target)
    except UnknownName as error:
        raise InvalidArgument(
            f"target={target!r} is neither a run folder nor the name of published cells. {error}"
        ) from None
    return raynas.study(target, **arguments)


def _of_run(target: str, arguments: dict[str, Any]) -> "Result":
    """Return a finished run whose findings are written."""
    if arguments:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in arguments)
        raise InvalidArgument(f"{given}: only a study of published cells has them; a run is done.")
    try:
        result = raynas.load(target)
    except StorageError as error:
        raise InvalidArgument(f"{error} Give the folder of a finished run.") from None
    if not result.finished:
        raise InvalidArgument(f"path={target!r}: the run is not finished. raynas resume {target}")
    return raynas.resume(target, understand=True)


def _content(found: "Findings") -> dict[str, Any]:
    bias, trust = found.bias, found.trust
    return {
        "sentences": [*(bias.sentences if bias else ()), *(trust.sentences if trust else ())],
        "bias": _rows(bias.to_frame()) if bias else [],
        "signals": _rows(trust.signals) if trust else [],
        "problems": found.problems,
    }


def _rows(table: "pd.DataFrame") -> list[dict[str, Any]]:
    return [
        {str(key): finite(value) for key, value in row.items()} for row in table.to_dict("records")
    ]


def _print(found: "Findings") -> None:
    """Print the sentences, and a table of the shares by width and depth."""
    for sentence in found.bias.sentences if found.bias else ():
        print(sentence)
    if found.bias:
        asked = "given" if found.bias.given else "proposed"
        table = Table("", "group", "of the space", asked, "went on", "won", box=None)
        for row in _shares(found.bias.steps):
            table.add_row(*row)
        Console().print(table)
    for sentence in found.trust.sentences if found.trust else ():
        print(sentence)
    for part, problem in found.problems.items():
        print(f"{part}: {problem}")


def _shares(steps: "pd.DataFrame") -> list[tuple[str, ...]]:
    """Return the rows of the table: each group's shares; of the last epoch that stopped some."""
    rows: list[tuple[str, ...]] = []
    single = steps[steps["of"] != "width and depth"]
    for (of, stratum), mine in single.groupby(["of", "stratum"], sort=False):
        by = mine.groupby("step")
        one = {step: part.iloc[-1] for step, part in by}
        survived = one.get("survived")
        went_on = "" if survived is None else f"{survived['count']:.0f}/{survived['out_of']:.0f}"
        rows.append((
            str(of).replace("_", " "), str(stratum), f"{one['population']['share']:.1%}",
            f"{one['proposed']['share']:.1%}", went_on,
            "x" if "won" in one and one["won"]["count"] else "",
        ))  # fmt: skip
    return rows
