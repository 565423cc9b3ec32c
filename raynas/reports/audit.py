"""What a report shows of the check of early stopping: how one that was stopped did later on."""

import functools
from dataclasses import dataclass

from raynas.record.formatting import shown
from raynas.record.history import Evaluation, History
from raynas.reports.rendering import render


@dataclass(frozen=True)
class Audit:
    """How an evaluation did that had been stopped and then went on.

    Attributes:
        evaluation: as it is now.
        stopped: its epochs when it was stopped.
        before: its value then.
        others: the values of all others that got as far as it did, after as many epochs.
    """

    evaluation: Evaluation
    stopped: int
    before: float
    others: tuple[float, ...]

    @property
    def place(self) -> int:
        """Return its place among those that got as far, 1 for the best."""
        return 1 + sum(value > self.evaluation.value for value in self.others)


def audits(history: History) -> list[Audit]:
    """Return how those did that went on to see what stopping them has cost; failed ones too."""
    found = []
    for index, stopped in history.audited.items():
        audited = history.evaluations[index]
        reached, metric = audited.epochs, history.metric
        others = tuple(
            other.history[reached - 1][metric]
            for other in history.evaluations
            if other is not audited and other.epochs >= reached
        )
        found.append(Audit(audited, stopped, audited.history[stopped - 1][metric], others))
    return found


def section(history: History) -> str:
    """Return the section about the check, in HTML; empty where there was none.

    Args:
        history: of the run, its search finished.
    """
    found = audits(history)
    if not found:
        return ""
    return render("audit", audits=found, shown=functools.partial(shown, history.metric))
