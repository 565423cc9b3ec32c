"""What a report shows of the search: the best so far, and what accuracy costs in size."""

from collections.abc import Iterable

from markupsafe import Markup

from raynas.record.events import Event, Status
from raynas.record.history import Evaluation, History
from raynas.reports.rendering import render, svg
from raynas.reports.search_figures import progress_figures, size_figures


def section(history: History, events: Iterable[Event], best: Evaluation) -> Markup:
    """Return the section about the course of the search, in HTML.

    Args:
        history: of the run.
        events: of the run, all.
        best: the evaluation that was chosen.
    """
    by_status = {s: [e for e in history.evaluations if e.status is s] for s in Status}
    several = len(history.finished) > 1
    return render(
        "course",
        counts=[(len(mine), status.value) for status, mine in by_status.items() if mine],
        progress=[svg(f, title) for title, f in progress_figures(history, events)]
        if several
        else [],
        sizes=[svg(f, title) for title, f in size_figures(history, best)],
    )
