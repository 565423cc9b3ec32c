"""The verbs on a run: `run`, `resume`, `status`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

import raynas
from raynas.cli.flags import config_flags, with_flags
from raynas.cli.output import AsJson, plain
from raynas.config.config import check_names, read_yaml, validated
from raynas.errors import RaynasError
from raynas.record.formatting import shown
from raynas.record.journal import is_locked

if TYPE_CHECKING:  # pandas takes long to import
    from raynas.record.results import Result

_LABELS = {"val_accuracy": "validation accuracy"}


@with_flags(config_flags())
def run(
    config: Annotated[
        Optional[Path], typer.Option(help="YAML file with these arguments")  # noqa: UP045
    ] = None,
    as_json: AsJson = False,
    *,
    arguments: dict[str, Any],
) -> None:
    """Search, retrain the best architecture, export it, report; or continue doing so."""
    asked = {**(read_yaml(config) if config else {}), **arguments}
    validated({key: value for key, value in asked.items() if value is not None})
    check_names(asked)  # and what is wrong without torch is said before it is imported
    print_result(raynas.run(**asked), as_json)


def resume(
    path: Annotated[Path, typer.Argument(help="run folder")],
    samples: Annotated[Optional[int], typer.Option(help="architectures in all")] = None,  # noqa: UP045
    select: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="full training decides among so many of the best"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Continue an interrupted run, or extend a finished one."""
    raynas.load(path)  # complains at once
    asked = {"samples": samples, "select": select}
    changes = {key: value for key, value in asked.items() if value is not None}
    print_result(raynas.resume(path, **changes), as_json)


def status(
    path: Annotated[Path, typer.Argument(help="run folder")], as_json: AsJson = False
) -> None:
    """Show how far a run is; it may be running."""
    result = raynas.load(path)
    state = "running" if is_locked(result.path) else "finished" if result.finished else "stopped"
    counts = result.trials["status"].value_counts().to_dict()
    try:
        best: dict[str, Any] | None = {
            "architecture": result.best.architecture, **result.best.metrics,
        }  # fmt: skip
    except RaynasError:
        best = None
    content = {
        "path": str(result.path),
        "state": state,
        "samples": result.config["samples"],
        "evaluations": counts,
        "selecting": {index: len(curve) for index, curve in result.history.selecting.items()},
        "best": best,
    }
    if as_json:
        print(json.dumps(content, default=plain))
        return
    print(f"{result.path}: {state}")
    trials, samples = result.trials, content["samples"]
    if "search" in trials:
        print(f"{len(trials)} derived, at most {samples} to be evaluated: {counts}")
    else:
        print(f"{len(trials)} of {samples} evaluations started: {counts}")
    if content["selecting"]:
        print(f"epochs of full training before the last decision: {content['selecting']}")
    if best:
        print(f"best: {best['architecture']}, {shown(result.metric, best[result.metric])}")


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
