"""Trackers: what shows a run in other tools while it is on, one tool a file."""

from collections.abc import Callable

from raynas.trackers.tracker import TrackedRun, Tracker
from search_spaces.naming import Table

__all__ = ["TRACKERS", "TrackedRun", "Tracker"]

TRACKERS: "Table[Callable[..., Tracker]]" = Table(
    {
        "mlflow": "raynas.trackers.mlflow:MLflow",
        "wandb": "raynas.trackers.wandb:WandB",
    }
)
