"""What a report shows of everything that was tried: a table that can be sorted, with failures."""

import functools
from collections.abc import Mapping

from markupsafe import Markup

from raynas.record.events import Status
from raynas.record.formatting import shown
from raynas.record.history import Evaluation, History
from raynas.reports.rendering import render

_BEST = 300  # rows of those that have a value
_FAILED = 100
#: what the table shows of the last metrics beside the value, where any evaluation has it
_COLUMNS = {
    "params": "parameters",
    "macs": "MACs",
    "latency_ms": "latency in ms",
    "train_seconds": "seconds of training",
}


def section(history: History, best: Evaluation, merits: Mapping[int, float]) -> Markup:
    """Return the table of evaluations, in HTML, those of the most epochs and the best first.

    Args:
        history: of the run.
        best: the evaluation that was chosen; it is marked.
        merits: {evaluation: merit}, where the searcher judges by more than the value.
    """
    ranked = history.ranked()
    failed = [e for e in history.evaluations if e.status in (Status.FAILED, Status.DIVERGED)]
    rows = [*ranked[:_BEST], *failed[:_FAILED]]
    columns = {
        name: label
        for name, label in _COLUMNS.items()
        if any(e.history and name in e.history[-1] for e in rows)
    }
    return render(
        "tried",
        metric=history.metric.replace("val_", "validation ").replace("_", " "),
        shown=functools.partial(shown, history.metric),
        columns=columns,
        rows=rows,
        best=best,
        merits=merits,
        failed=len(failed),
        left_out=len(ranked) + len(failed) - len(rows),
    )
