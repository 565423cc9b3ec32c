"""What a report shows of a time budget: what was done in the time, why, and where the time went."""

from collections.abc import Iterable

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
from raynas.record.folder import RunFolder
from raynas.record.formatting import duration
from raynas.record.history import History
from raynas.record.journal import read_events
from raynas.reports.rendering import render

_SEARCH = "search"
_DECISION = "last decision"
_RETRAINING = "retraining"
_STAGES = {
    **dict.fromkeys((Selecting, SelectingFailed, Selected), _DECISION),
    **dict.fromkeys((Retraining, RetrainingFailed, Retrained), _RETRAINING),
}
_OTHER = (Session, Planned, Allotted, EnsembleMade, Understood, Complete)


def section(folder: RunFolder, history: History) -> str:
    """Return the section about the plan of a run with a time budget, in HTML; else nothing.

    Args:
        folder: of the run.
        history: of the run.
    """
    planned = history.planned
    if planned is None:
        return ""
    times = stage_seconds(read_events(folder.path))
    return render(
        "time_budget",
        choices=planned.choices,
        budget=duration(planned.seconds),
        times=[(stage, duration(seconds)) for stage, seconds in times.items()],
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
