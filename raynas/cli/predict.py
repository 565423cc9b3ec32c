"""The verb `predict`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import raynas
from raynas.cli.output import AsJson


def predict(
    path: Annotated[Path, typer.Argument(help="run folder")],
    images: Annotated[list[Path], typer.Argument(help="image files, or folders of them")],
    as_json: AsJson = False,
) -> None:
    """Say what images show: label and probability by the trained best architecture."""
    found = raynas.load(path).best.predict(images)
    if as_json:
        print(json.dumps({"predictions": [asdict(prediction) for prediction in found]}))
        return
    width = max(len(prediction.label) for prediction in found)
    for prediction in found:
        print(f"{prediction.label:{width}}  {prediction.probability:7.2%}  {prediction.image}")
