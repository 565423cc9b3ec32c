"""The evaluations of a history as a table, one row each."""

import io
from pathlib import Path
from typing import Any

import pandas as pd

from raynas.record.history import History

_COLUMNS = (
    "evaluation", "architecture", "status", "epochs", "val_accuracy", "val_loss", "train_loss",
    "params", "macs", "train_seconds", "reason", "curve",
)  # fmt: skip


def read_parquet(path: Path) -> pd.DataFrame:
    """Return the table in a Parquet file, wherever that lies."""
    return pd.read_parquet(io.BytesIO(path.read_bytes()))


def trials_table(history: History) -> pd.DataFrame:
    """Return one row per evaluation; see `Result.trials`."""
    rows: list[dict[str, Any]] = []
    for evaluation in history.evaluations:
        row: dict[str, Any] = {
            "evaluation": evaluation.index,
            "architecture": evaluation.notation,
            "status": evaluation.status.value,
            "epochs": evaluation.epochs,
            "curve": [metrics[history.metric] for metrics in evaluation.history],
        }
        if evaluation.origin is not None:
            origin = evaluation.origin
            row |= {"search": origin.search, "search_epoch": origin.epoch}
            row["search_accuracy"] = origin.metrics["architecture_accuracy"]
        for metrics in evaluation.history:
            row.update(metrics)
        if evaluation.reason is not None or evaluation.index in history.finished:
            row["reason"] = evaluation.reason
        row["epochs"] = evaluation.epochs
        rows.append(row)
    table = pd.DataFrame(rows)
    extra = [column for column in table.columns if column not in _COLUMNS]
    return table.reindex(columns=[*_COLUMNS[:-2], *extra, *_COLUMNS[-2:]])
