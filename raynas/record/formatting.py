"""Values and evaluations in words, for people."""

from raynas.record.history import Evaluation


def describe(evaluation: Evaluation | None) -> str:
    """Return an evaluation in half a line."""
    if evaluation is None:
        return "none yet"
    value = shown(evaluation.metric, evaluation.value)
    epochs = "1 epoch" if evaluation.epochs == 1 else f"{evaluation.epochs} epochs"
    return f"{value} {evaluation.metric} after {epochs}, {evaluation.notation}"


def shown(metric: str, value: float) -> str:
    """Return a value of a metric: accuracies in percent, scores as they are."""
    return f"{value:.2%}" if metric.endswith("accuracy") else f"{value:.6g}"


def duration(seconds: float) -> str:
    """Return a duration: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
