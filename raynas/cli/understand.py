"""The verb `understand`: what a finished run tells."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import raynas
from raynas.cli.output import AsJson, finite, plain
from raynas.errors import InvalidArgument, StorageError

if TYPE_CHECKING:  # pandas takes long to import
    import pandas as pd

    from raynas.understanding.findings import Findings


def understand(
    path: Annotated[Path, typer.Argument(help="run folder")], as_json: AsJson = False
) -> None:
    """Tell whether a finished search was biased, and how far its cheap signals could be trusted."""
    try:
        result = raynas.load(path)
    except StorageError as error:
        raise InvalidArgument(f"{error} Give the folder of a finished run.") from None
    if not result.finished:
        raise InvalidArgument(f"path={str(path)!r}: the run is not finished. raynas resume {path}")
    result = raynas.resume(path, understand=True)

    from raynas.understanding.findings import findings_of  # with torch

    found = findings_of(result)
    if as_json:
        print(json.dumps(_content(found), default=plain))
        return
    _print(found)
    print(result.folder.understanding)
    print(result.folder.report)


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
        table = Table("", "group", "of the space", "proposed", "went on", "won", box=None)
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
