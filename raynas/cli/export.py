"""The verb `export`."""

from pathlib import Path
from typing import Annotated

import typer

import raynas


def export(
    path: Annotated[Path, typer.Argument(help="run folder")],
    to: Annotated[Path, typer.Option(help="folder to write to")] = Path(),
    format: Annotated[
        str, typer.Option(help="torch, onnx, weights or source, or several: weights,source")
    ] = "torch",
) -> None:
    """Write the trained best architecture in a form that loads without raynas."""
    best = raynas.load(path).best

    from raynas.record.models import export_again  # with torch

    for written in export_again(best.model(), best.folder, to, format.split(",")):
        print(written)
