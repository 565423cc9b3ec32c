"""What a report shows of an ensemble: the curves of every rule, the diversity of the members."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raynas.errors import StorageError
from raynas.record.folder import RunFolder, read_json
from raynas.record.history import History
from raynas.record.table import read_parquet
from raynas.reports.figures import curves_figure, diversity_figure
from raynas.reports.rendering import render, svg

_FILES = (
    "model.pt2", "members.parquet", "curves.parquet", "diversity.parquet", "curves.png",
    "diversity.png",
)  # fmt: skip


def recorded(folder: Path) -> dict[str, Any] | None:
    """Return `ensemble.json` of a folder; None when it is damaged, or a file is missing."""
    if not all((folder / name).exists() for name in _FILES):
        return None
    try:
        return read_json(folder / "ensemble.json")
    except StorageError:
        return None


def section(run: Path, history: History, test_images: int) -> str:
    """Return the section about the ensemble of a run, in HTML; empty where it has none.

    Args:
        run: the run folder.
        history: of the run.
        test_images: number of images behind a test accuracy.
    """
    folder = RunFolder(run).ensemble
    ensemble = recorded(folder)
    if ensemble is None:
        return ""
    accuracy = ensemble["metrics"]["test_accuracy"]
    members, curves, diversity = (
        read_parquet(folder / f"{name}.parquet") for name in ("members", "curves", "diversity")
    )
    return render(
        "ensemble",
        ensemble=ensemble,
        rows=[(name, _whole(values)) for name, values in table(folder, ensemble).items()],
        warning=ensemble.get("warning"),
        growth=history.growth,
        notations=[e.notation for e in history.evaluations],
        resolution=200 * float(np.sqrt(accuracy * (1 - accuracy) / test_images)),
        members=members.to_dict("records"),
        curves=svg(curves_figure(curves, ensemble), "ensembles of every rule, by their size"),
        diversity=svg(diversity_figure(diversity, members["evaluation"]), "diversity of pairs"),
    )


def table(folder: Path, ensemble: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return {name: values} of the ensemble and of what it must be compared with.

    Args:
        folder: of the ensemble.
        ensemble: as `ensemble.json`.
    """
    alone = ensemble.get("alone")
    if alone is None:  # of an older one
        curves = read_parquet(folder / "curves.parquet")
        greedy = curves[(curves["rule"] == "greedy") & (curves["members"] == 1)]
        alone = greedy.iloc[0].to_dict()
    rows = {
        "ensemble": ensemble["metrics"],
        "all candidates": ensemble["unpruned"],
        "best candidate alone": alone,
    }
    delivered = ensemble.get("delivered")
    if delivered is not None:
        rows[f"delivered network (#{delivered['evaluation']})"] = delivered
    return rows


def warning(ensemble: Mapping[str, Any], delivered: Mapping[str, Any]) -> str | None:
    """Return the sentence about an ensemble that brings nothing; None where it brings something.

    Args:
        ensemble: its metrics.
        delivered: those of the delivered network, its validation accuracy before the retraining.
    """
    ours, other = ensemble["val_accuracy"], delivered["val_accuracy"]
    if ours <= other:
        return (
            f"This ensemble is NO BETTER than the one network that is delivered: {ours:.2%} against"
            f" {other:.2%} on the validation part. Use the one network."
        )
    ours, other = ensemble["test_accuracy"], delivered.get("test_accuracy", 0.0)
    if ours < other:
        return (
            "The delivered network, which has learned from the validation part too, is BETTER than"
            f" this ensemble on the test part: {other:.2%} against {ours:.2%}."
        )
    return None


def _whole(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with whole numbers where they count something."""
    counts = ("members", "params", "macs")
    return {key: int(value) if key in counts else value for key, value in values.items()}
