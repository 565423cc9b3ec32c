"""The verbs that search: `run`, `resume`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

import raynas
from raynas.cli.flags import config_flags, with_flags
from raynas.cli.output import AsJson, plain
from raynas.config.config import check_names, read_yaml, validated
from raynas.record.formatting import shown

if TYPE_CHECKING:  # pandas takes long to import
    from raynas.record.results import Result

_LABELS = {"val_accuracy": "validation accuracy"}


Address = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="of the Ray cluster; default: RAY_ADDRESS, or what runs here, or a new one"),
]


@with_flags(config_flags())
def run(
    config: Annotated[
        Optional[Path], typer.Option(help="YAML file with these arguments")  # noqa: UP045
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
    *,
    arguments: dict[str, Any],
) -> None:
    """Search, retrain the best architecture, export it, report; or continue doing so."""
    asked = {**(read_yaml(config) if config else {}), **arguments}
    validated({key: value for key, value in asked.items() if value is not None})
    check_names(asked)  # and what is wrong without torch is said before it is imported
    _use(address)
    print_result(raynas.run(**asked), as_json)


def resume(
    path: Annotated[Path, typer.Argument(help="run folder")],
    samples: Annotated[Optional[int], typer.Option(help="architectures in all")] = None,  # noqa: UP045
    select: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="full training decides among so many of the best"),
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Continue an interrupted run, or extend a finished one."""
    raynas.load(path)  # complains at once
    asked = {"samples": samples, "select": select}
    changes = {key: value for key, value in asked.items() if value is not None}
    _use(address)
    print_result(raynas.resume(path, **changes), as_json)


def _use(address: str | None) -> None:
    """Have Ray look for its cluster there."""
    if address is not None:
        os.environ["RAY_ADDRESS"] = address


def print_result(result: "Result", as_json: bool) -> None:
    """Print what a finished run has found."""
    best, metric = result.best, result.metric
    if as_json:
        content = {"path": str(result.path), "architecture": best.architecture, **best.metrics}
        print(json.dumps(content, default=plain))
        return
    lines = {
        "best architecture": best.architecture,
        _LABELS.get(metric, metric): f"{shown(metric, best.metrics[metric])} (in the search)",
        "test accuracy": f"{best.metrics['test_accuracy']:.2%} (after retraining)",
        "model": best.folder / "model.pt2",
        "report": result.path / "report.html",
        "TensorBoard": f"tensorboard --logdir {result.path / 'tensorboard'}",
    }
    for label, value in lines.items():
        print(f"{label + ':':21}{value}")
