"""What a report shows of a time budget: what was done in the time, and why."""

from raynas.record.formatting import duration
from raynas.record.history import History
from raynas.reports.rendering import render


def section(history: History) -> str:
    """Return the section about the plan of a run with a time budget, in HTML; else nothing.

    Args:
        history: of the run.
    """
    planned = history.planned
    if planned is None:
        return ""
    return render("time_budget", choices=planned.choices, budget=duration(planned.seconds))
