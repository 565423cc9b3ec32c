"""What a report shows of the cost of a run: trainings, seconds, and where the time went."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from raynas.record.events import (
    Allotted,
    Complete,
    EnsembleMade,
    Event,
    Planned,
    Retrained,
    Retraining,
    RetrainingFailed,
    Selected,
    Selecting,
    SelectingFailed,
    Session,
    Understood,
)
from raynas.record.formatting import duration
from raynas.record.history import History
from raynas.reports.rendering import render

_SEARCH = "search"
_DECISION = "last decision"
_RETRAINING = "retraining"
_STAGES = {
    **dict.fromkeys((Selecting, SelectingFailed, Selected), _DECISION),
    **dict.fromkeys((Retraining, RetrainingFailed, Retrained), _RETRAINING),
}
_OTHER = (Session, Planned, Allotted, EnsembleMade, Understood, Complete)


def section(history: History, events: Sequence[Event], recorded: Mapping[str, Any]) -> Markup:
    """Return the section about the cost of a run, in HTML.

    Args:
        history: of the run.
        events: of the run, all.
        recorded: versions and hardware, as `run.yaml` has them.
    """
    nodes = recorded.get("nodes", ())
    epochs = sum(evaluation.epochs for evaluation in history.evaluations)
    trained = sum(
        evaluation.history[-1].get("train_seconds", 0.0)
        for evaluation in history.evaluations
        if evaluation.history
    )
    return render(
        "cost",
        evaluations=len(history.evaluations),
        epochs=epochs if trained else 0,
        trained=duration(trained),
        times=[(s, duration(t)) for s, t in stage_seconds(events).items() if t],
        nodes=len(nodes),
        cpus=sum(node.get("CPU", 0) for node in nodes),
        gpus=sum(node.get("GPU", 0) for node in nodes),
        machine=recorded.get("machine", ""),
    )


def stage_seconds(events: Iterable[Event]) -> dict[str, float]:
    """Return {stage: seconds}, from the times of a run's events.

    An event belongs to a stage, and what has passed since the event before it counts for that
    stage. What passes between two drivers counts for none.
    """
    seconds = {_SEARCH: 0.0, _DECISION: 0.0, _RETRAINING: 0.0}
    before = None
    for event in events:
        stage = None if isinstance(event, _OTHER) else _STAGES.get(type(event), _SEARCH)
        if stage is not None and before is not None:
            seconds[stage] += event.time - before
        before = event.time
    return seconds
