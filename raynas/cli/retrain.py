"""The verb `retrain`. Its flags are the parameters of `raynas.retrain`."""

from pathlib import Path
from typing import Annotated, Any

import typer

import raynas
from raynas.cli.flags import read_flags, with_flags
from raynas.cli.output import AsJson
from raynas.cli.run import print_result


@with_flags(read_flags("raynas.retraining:retrain"))
def retrain(
    path: Annotated[Path, typer.Argument(help="run folder")],
    as_json: AsJson = False,
    *,
    arguments: dict[str, Any],
) -> None:
    """Train the best architecture of a finished run longer, or as a paper does, in a new run."""
    raynas.load(path)  # complains at once
    print_result(raynas.retrain(path, **arguments), as_json)
