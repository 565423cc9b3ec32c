"""The verb `spaces`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Column, Table

import search_spaces
from raynas.cli.output import AsJson
from raynas.errors import InvalidArgument, StorageError


def spaces(
    name: Annotated[Optional[str], typer.Argument(help="one space only")] = None,  # noqa: UP045
    draw: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="architecture, or genotype, to draw: Graphviz text, and a PNG"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the search spaces, or draw an architecture of one."""
    if draw is not None:
        _draw(name, draw)
        return
    listed = [search_spaces.get(n) for n in ([name] if name else search_spaces.names())]
    rows = [
        {
            "name": space.name,
            "size": space.size,
            "decisions": len(space.decisions),
            "notation": space.notation,
            "paper": space.paper,
        }
        for space in listed
    ]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(*(Column(key, overflow="fold") for key in rows[0]), box=None)
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    Console().print(table)
    if name:
        for decision in listed[0].decisions:
            print(f"{decision.name}: {', '.join(map(str, decision.choices))}")


def _draw(name: str | None, text: str) -> None:
    """Print an architecture as Graphviz text and write its picture to the current folder."""
    if name is None:
        raise InvalidArgument("--draw needs the name of a space: raynas spaces NAME --draw ARCH.")
    space = search_spaces.get(name)
    arch = space.from_string(text)
    print(space.to_graphviz(arch))
    path = Path(f"{space.name}.png")
    try:
        space.draw(arch).savefig(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}.") from error
    print(path, file=sys.stderr)
