"""The verb `report`."""

from pathlib import Path
from typing import Annotated

import typer

import raynas


def report(path: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Write report.html anew, of a finished run or of one that is going on."""
    raynas.load(path)  # complains at once
    print(raynas.report(path))
