"""The verb `ensemble`. Its flags are the fields of `SAEP`."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import raynas
from raynas.cli.flags import read_flags, with_flags
from raynas.cli.output import AsJson, plain
from raynas.errors import InvalidArgument
from search_spaces.naming import spell

if TYPE_CHECKING:  # pandas takes long to import
    from raynas.record.results import Ensemble


@with_flags(read_flags("raynas.ensemble.saep:SAEP"))
def ensemble(
    path: Annotated[Path, typer.Argument(help="run folder")],
    as_json: AsJson = False,
    *,
    arguments: dict[str, Any],
) -> None:
    """Prune the trained architectures of a finished run to a small, diverse ensemble."""
    if not raynas.load(path).finished:
        raise InvalidArgument(f"path={str(path)!r}: the run is not finished. raynas resume {path}")
    pruned = raynas.resume(path, ensemble=spell("saep", arguments)).ensemble
    if as_json:
        content = {**pruned.summary, "members": pruned.members.to_dict("records")}
        print(json.dumps(content, default=plain))
        return
    _print(pruned)


def _print(pruned: "Ensemble") -> None:
    from raynas.reports.ensemble import table as rows  # takes long

    table = Table("", "members", "validation", "test", "loss", "parameters", box=None)
    for label, values in rows(pruned.folder, pruned.summary).items():
        known = {key: values.get(key, math.nan) for key in ("test_accuracy", "test_loss", "params")}
        table.add_row(
            label, f"{values['members']:.0f}", f"{values['val_accuracy']:.2%}",
            f"{known['test_accuracy']:.2%}", f"{known['test_loss']:.4f}",
            f"{known['params']:,.0f}",
        )  # fmt: skip
    Console().print(table)
    if pruned.summary.get("warning"):
        print(f"raynas: {pruned.summary['warning']}", file=sys.stderr)
    for index, reason in pruned.excluded.items():
        print(f"raynas: #{index} is no candidate: {reason}", file=sys.stderr)
    print(pruned.folder / "model.pt2")
