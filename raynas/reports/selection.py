"""What a report shows of the last decision: what full training made of the best of the search."""

import functools

from raynas.record.events import METRIC
from raynas.record.formatting import shown
from raynas.record.history import History
from raynas.reports.rendering import render


def section(history: History, select: int, best: int) -> str:
    """Return the section about the last decision, in HTML; empty where the search made it.

    Args:
        history: of the run.
        select: how many candidates were asked for.
        best: the evaluation whose architecture has been retrained.
    """
    if select == 1 or history.selected is None or not history.selected.evaluations:
        return ""
    rows = [
        {
            "evaluation": history.evaluations[index],
            "epochs": len(history.selecting.get(index, [])),
            "accuracy": history.selecting[index][-1][METRIC]
            if index in history.selected.chosen
            else None,
            "reason": history.selecting_failures.get(index, ""),
        }
        for index in history.selected.evaluations
    ]
    return render("selection", rows=rows, best=best, shown=functools.partial(shown, history.metric))
