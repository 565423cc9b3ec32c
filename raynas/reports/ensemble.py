"""What a report shows of an ensemble: the curves of every rule, the diversity of the members."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raynas.errors import StorageError
from raynas.record.folder import RunFolder, read_json
from raynas.record.history import History
from raynas.reports.rendering import render

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
    curves = pd.read_parquet(folder / "curves.parquet")
    alone = curves[(curves["rule"] == "greedy") & (curves["members"] == 1)]
    rows = [
        ("ensemble", ensemble["metrics"]),
        ("all candidates", ensemble["unpruned"]),
        ("best candidate alone (by validation loss)", alone.iloc[0].to_dict()),
    ]
    return render(
        "ensemble",
        ensemble=ensemble,
        rows=[(name, _whole(values)) for name, values in rows],
        growth=history.growth,
        notations=[e.notation for e in history.evaluations],
        resolution=200 * float(np.sqrt(accuracy * (1 - accuracy) / test_images)),
        members=pd.read_parquet(folder / "members.parquet").to_dict("records"),
        curves=(folder / "curves.png").read_bytes(),
        diversity=(folder / "diversity.png").read_bytes(),
    )


def _whole(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with whole numbers where they count something."""
    counts = ("members", "params", "macs")
    return {key: int(value) if key in counts else value for key, value in values.items()}
