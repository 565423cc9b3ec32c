"""Weights & Biases: every evaluation that has ended as a run, all of a search as a group.

Where it writes, and whether at once, is its own matter: `WANDB_MODE=offline` writes to `wandb/` in
the working folder or `WANDB_DIR`, and `wandb sync` sends it later. What ended before a search went
on is not shown again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raynas.record.events import Complete, Event, Finished, Retrained
from raynas.trackers.tracker import TrackedRun, Tracker, missing, outcome, outline


@dataclass
class WandB(Tracker):
    """Shows a run in Weights & Biases.

    Args:
        project: under which its runs stand.
    """

    project: str = "raynas"

    def check(self) -> None:
        """Refuse where the package is missing."""
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise missing("wandb", error) from error

    def track(self, event: Event, run: TrackedRun) -> None:
        """Show what an event adds."""
        history = run.history
        match event:
            case Finished():
                evaluation = history.evaluations[event.evaluation]
                name = f"{run.name}-{evaluation.index:05d}"
                self._write(run, "evaluation", name, outcome(evaluation), evaluation.history)
            case Retrained():
                evaluation = history.evaluations[event.evaluation]
                curve = [*history.retraining.get(event.evaluation, []), _numbers(event.metrics)]
                self._write(run, "retraining", f"{run.name}-best", outcome(evaluation), curve)
            case Complete():
                best = history.best
                if best is not None:
                    metrics = {f"best_{history.metric}": best.value}
                    self._write(run, "search", run.name, {}, [metrics])

    def _write(
        self, run: TrackedRun, kind: str, name: str, told: Mapping[str, str],
        curve: Sequence[Mapping[str, Any]],
    ) -> None:  # fmt: skip
        """Write a run: a step for each of the metrics."""
        import wandb

        quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        shown = wandb.init(
            project=self.project, group=run.name, job_type=kind, name=name,
            config={**outline(run), **told}, reinit="create_new", settings=quiet,
        )  # fmt: skip
        for step, metrics in enumerate(curve, 1):
            shown.log(dict(metrics), step=step)
        shown.finish()


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what can be drawn of the metrics."""
    return {
        key: float(value)
        for key, value in metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
