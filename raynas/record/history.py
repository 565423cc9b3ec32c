"""The history of a run: what its events come to. The only reader of events.

Pure: no files, no Ray. A search, a result, a report, TensorBoard and the monitor are views of a
history, whether it grows while a run is on or is made from a journal.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raynas.errors import JournalError
from raynas.record.costs import Costs
from raynas.record.events import (
    METRIC,
    Allotted,
    Audited,
    Complete,
    Discarded,
    EnsembleMade,
    Event,
    Finished,
    Grown,
    Leading,
    Metrics,
    Placed,
    Planned,
    Promoted,
    Reported,
    Retrained,
    Retraining,
    RetrainingFailed,
    Retried,
    Scored,
    Searched,
    SearchEnded,
    Selected,
    Selecting,
    SelectingFailed,
    Session,
    Status,
    Suggested,
    SupernetTrained,
    Understood,
)

_UNJUDGED = (-1, -math.inf)


@dataclass
class Evaluation:
    """One architecture that was paid for."""

    index: int
    #: the architecture, in the notation of its space
    notation: str
    #: which of the metrics the search maximizes
    metric: str = METRIC
    status: Status = Status.RUNNING
    reason: str | None = None
    #: the metrics of every epoch done
    history: list[Metrics] = field(default_factory=list)
    #: the epoch of a differentiable search that derived it, where one did
    origin: Searched | None = None

    @property
    def epochs(self) -> int:
        """Return the number of epochs done."""
        return len(self.history)

    @property
    def value(self) -> float:
        """Return the metric after the last epoch; minus infinity when it failed or has none."""
        if self.status in (Status.FAILED, Status.DIVERGED) or not self.history:
            return -math.inf
        return self.history[-1][self.metric]

    @property
    def rank(self) -> tuple[int, float]:
        """Return what evaluations are compared by: the epochs reached first, then the value."""
        return self.epochs, self.value


class History:
    """What the events of a run come to, so far."""

    def __init__(self, events: Iterable[Event] = ()):
        #: what the search maximizes
        self.metric = METRIC
        self.evaluations: list[Evaluation] = []
        #: what is done in the time, of a run with a time budget
        self.planned: Planned | None = None
        #: {stage: seconds of a training}, of such a run
        self.allotted: dict[str, float] = {}
        #: seconds that drivers were at work, without the last one
        self.earlier_seconds = 0.0
        #: {index: evaluation} of those that have ended, in the order in which they did
        self.finished: dict[int, Evaluation] = {}
        #: the evaluations whose checkpoints were needed no more, and have not gone on since
        self.discarded: set[int] = set()
        #: what of the cluster has been used
        self.costs = Costs()
        #: the evaluation last recorded as the best by how the searcher judges
        self.leading: int | None = None
        #: {evaluation: its epochs then} of those that went on to see what stopping has cost
        self.audited: dict[int, int] = {}
        #: {architecture: proxy score} of what was scored before the first evaluation
        self.scores: dict[str, float] = {}
        #: {(group, epoch): metrics} of the shared weights
        self.supernet: dict[tuple[int, int], Metrics] = {}
        #: {number: every epoch} of differentiable searches
        self.searches: dict[int, list[Searched]] = {}
        self.searches_ended: dict[int, SearchEnded] = {}
        #: {evaluation: metrics of every epoch} of full trainings before the last decision
        self.selecting: dict[int, list[Metrics]] = {}
        #: {evaluation: reason} of those that failed
        self.selecting_failures: dict[int, str] = {}
        #: the last decision
        self.selected: Selected | None = None
        #: {evaluation: metrics of every epoch} of retrainings
        self.retraining: dict[int, list[Metrics]] = {}
        self.retrained: dict[int, Mapping[str, Any]] = {}
        #: {evaluation: reason} of retrainings that failed
        self.retraining_failed: dict[int, str] = {}
        #: the steps of an ensemble that grows
        self.growth: list[Grown] = []
        #: the last ensemble that was made
        self.ensemble: EnsembleMade | None = None
        #: what was last told of the run
        self.understood: Understood | None = None
        #: whether nothing has happened since everything was done
        self.complete = False
        self._best_by_value: Evaluation | None = None
        #: {index: evaluation} of those that have not ended
        self._running: dict[int, Evaluation] = {}
        #: times of the first and the last event of the last driver
        self._first_time = self._last_time = 0.0
        #: what was derived last, before it is an evaluation
        self._derived: Searched | None = None
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            Session: self._session,
            Planned: self._plan,
            Allotted: self._allot,
            Scored: self._scored,
            Suggested: self._suggested,
            Promoted: self._promoted,
            Audited: self._audited,
            Placed: self.costs.place,
            Reported: self._reported,
            Finished: self._finished,
            Retried: self._retried,
            Discarded: self._discarded,
            Leading: self._led,
            Grown: self.growth.append,
            SupernetTrained: self._supernet,
            Searched: self._searched,
            SearchEnded: self._search_ended,
            Selecting: self._selecting,
            SelectingFailed: self._selecting_fails,
            Selected: self._selected,
            Retraining: self._retraining,
            RetrainingFailed: self._failed,
            Retrained: self._retrained,
            EnsembleMade: self._pruned,
            Understood: self._understood,
        }
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Take in the next event.

        Raises:
            JournalError: when it does not go with those before it.
        """
        self.complete = isinstance(event, Complete)
        if isinstance(event, Session):
            if self._first_time:  # a plan comes before the first driver says that it is there
                self.earlier_seconds += self._last_time - self._first_time
            self.driver_ended()
            self._first_time = event.time
        self._last_time = event.time
        handler = self._handlers.get(type(event))
        if handler is None:
            return
        try:
            handler(event)
        except (LookupError, TypeError) as error:
            raise JournalError(
                f"The journal is damaged: an event {event.kind!r} does not go with those before it"
                f" ({error!r}). Restore it from a copy, or start a new run under another name."
            ) from error

    def seconds(self, now: float | None = None) -> float:
        """Return the seconds that drivers were at work, until now or until the last event."""
        return self.earlier_seconds + max(0.0, (now or self._last_time) - self._first_time)

    def driver_ended(self) -> None:
        """Take notice that whoever wrote the last event is not at work any more."""
        self.costs.interrupt(self._last_time)

    @property
    def running(self) -> list[Evaluation]:
        """Return the evaluations that have not ended, in the order in which they began."""
        return [self._running[index] for index in sorted(self._running)]

    @property
    def best(self) -> Evaluation | None:
        """Return the best evaluation that has ended.

        The one that was recorded as leading, where the searcher judges by more than the value;
        else the one with the most epochs, among them the one with the highest value.
        """
        if self.leading is not None:
            leading = self.finished.get(self.leading)
            if leading is not None and math.isfinite(leading.value):
                return leading
        return self._best_by_value

    @property
    def common_failure(self) -> str | None:
        """Return the reason for which all that has ended failed, if it is one and the same.

        Numbers in it (of bytes, of places in memory) may differ.
        """
        ended = list(self.finished.values())
        reasons = {re.sub(r"\d+", "0", e.reason or "") for e in ended}
        failed = all(e.status in (Status.FAILED, Status.DIVERGED) for e in ended)
        return ended[0].reason if failed and len(reasons) == 1 else None

    def ranked(self, merits: Mapping[int, tuple[int, float]] | None = None) -> list[Evaluation]:
        """Return all evaluations that have ended with a value, the best first.

        Args:
            merits: {evaluation: (epochs, merit)}, where the searcher judges by more than the
                value; those without come last.
        """
        valued = [e for e in self.finished.values() if math.isfinite(e.value)]
        ranked = sorted(valued, key=lambda e: (*e.rank, -e.index), reverse=True)
        judged = merits or {}
        return sorted(ranked, key=lambda e: judged.get(e.index, _UNJUDGED), reverse=True)

    @property
    def chosen(self) -> Evaluation | None:
        """Return what the last decision chose, if it has been made."""
        chosen = self.selected.chosen if self.selected else ()
        return self.evaluations[chosen[0]] if chosen else None

    def selected_of(self, candidates: Sequence[Evaluation]) -> list[Evaluation] | None:
        """Return those that the last decision chose, the best first; None: it was of others."""
        indices = [candidate.index for candidate in candidates]
        if self.selected is None or list(self.selected.evaluations) != indices:
            return None
        return [self.evaluations[i] for i in self.selected.chosen]

    def _session(self, event: Session) -> None:
        self.metric = event.metric

    def _plan(self, event: Planned) -> None:
        self.planned = event

    def _allot(self, event: Allotted) -> None:
        self.allotted[event.stage] = event.seconds

    def _scored(self, event: Scored) -> None:
        self.scores[event.architecture] = event.score

    def _suggested(self, event: Suggested) -> None:
        evaluation = Evaluation(event.evaluation, event.architecture, self.metric)
        evaluation.origin, self._derived = self._derived, None
        self.evaluations.append(evaluation)
        self._running[evaluation.index] = evaluation

    def _promoted(self, event: Promoted | Audited) -> None:
        evaluation = self.evaluations[event.evaluation]
        evaluation.status = Status.RUNNING
        self.finished.pop(event.evaluation, None)
        self.discarded.discard(event.evaluation)
        self._running[evaluation.index] = evaluation

    def _audited(self, event: Audited) -> None:
        self._promoted(event)
        self.audited[event.evaluation] = self.evaluations[event.evaluation].epochs

    def _reported(self, event: Reported) -> None:
        self.evaluations[event.evaluation].history.append(event.metrics)

    def _finished(self, event: Finished) -> None:
        evaluation = self.evaluations[event.evaluation]
        evaluation.status, evaluation.reason = event.status, event.reason
        self.finished[event.evaluation] = evaluation
        self._running.pop(event.evaluation, None)
        self.costs.leave("evaluation", event.evaluation, event.time)
        best = self._best_by_value
        if math.isfinite(evaluation.value) and (best is None or evaluation.rank > best.rank):
            self._best_by_value = evaluation
        elif best is evaluation:  # it was promoted, and failed
            self._best_by_value = next(iter(self.ranked()), None)

    def _retried(self, event: Retried) -> None:
        evaluation = self.evaluations[event.evaluation]
        evaluation.status, evaluation.reason = Status.RUNNING, None
        self.finished.pop(event.evaluation)
        self.discarded.discard(event.evaluation)
        self._running[evaluation.index] = evaluation

    def _discarded(self, event: Discarded) -> None:
        self.discarded.update(event.evaluations)

    def _led(self, event: Leading) -> None:
        self.leading = event.evaluation

    def _supernet(self, event: SupernetTrained) -> None:
        self.supernet[event.group, event.epoch] = event.metrics

    def _searched(self, event: Searched) -> None:
        self.searches.setdefault(event.search, []).append(event)
        self._derived = event

    def _search_ended(self, event: SearchEnded) -> None:
        self.searches_ended[event.search] = event
        self.costs.leave("search", event.search, event.time)

    def _selecting(self, event: Selecting) -> None:
        self.selecting.setdefault(event.evaluation, []).append(event.metrics)
        self.selecting_failures.pop(event.evaluation, None)
        self.costs.count("select", event.evaluation, event.time)

    def _selecting_fails(self, event: SelectingFailed) -> None:
        self.selecting_failures[event.evaluation] = event.reason
        self.costs.leave("select", event.evaluation, event.time)

    def _selected(self, event: Selected) -> None:
        self.selected = event
        self.costs.drop("select")

    def _retraining(self, event: Retraining) -> None:
        self.retraining.setdefault(event.evaluation, []).append(event.metrics)

    def _failed(self, event: RetrainingFailed) -> None:
        self.retraining_failed[event.evaluation] = event.reason
        self.costs.leave("retrain", event.evaluation, event.time)

    def _retrained(self, event: Retrained) -> None:
        self.retrained[event.evaluation] = event.metrics
        self.costs.leave("retrain", event.evaluation, event.time)

    def _pruned(self, event: EnsembleMade) -> None:
        self.ensemble = event

    def _understood(self, event: Understood) -> None:
        self.understood = event
