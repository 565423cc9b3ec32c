"""A search: what was asked for, what came of it, and what to evaluate next.

`Search` joins the searcher and the scheduler to the journal. It is driven from outside: by Ray
Tune through `tune_adapter.py` while a run is on, and by `replay` from the journal when a run is
continued. Both take the same path through the same methods, so a search that was killed, wherever
that was, goes on as if it had not been.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from raynas.errors import InvalidArgument, JournalError
from raynas.record.journal import Event, Journal
from raynas.schedulers import Scheduler
from raynas.searchers import GrowingSearcher, HeldOut, Searcher
from search_spaces import Architecture, SearchSpace
from trials.trial import derived_seed

#: what a search maximizes where its evaluator does not say otherwise
METRIC = "val_accuracy"

_MAX_DUPLICATES = 1000  # in a row, before the space is gone through in order instead
_UNJUDGED = (-1, -math.inf)
_FIRST_FAILURES = 10  # as many failures for one reason, and nothing else, end the search


class Status(str, Enum):
    """How an evaluation stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    #: ended early by the scheduler
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass
class Evaluation:
    """One architecture that was paid for."""

    index: int
    architecture: Architecture
    notation: str
    seed: int
    status: Status = Status.RUNNING
    reason: str | None = None
    #: the metrics of every epoch done
    history: list[dict[str, float]] = field(default_factory=list)
    #: which of them the search maximizes
    metric: str = METRIC

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def value(self) -> float:
        """The metric after the last epoch; minus infinity when it failed or has none."""
        if self.status in (Status.FAILED, Status.DIVERGED) or not self.history:
            return -math.inf
        return self.history[-1][self.metric]

    @property
    def rank(self) -> tuple[int, float]:
        """What evaluations are compared by: the epochs reached first, then the value."""
        return self.epochs, self.value


class Search:
    """The state of a search.

    Args:
        space: where to search.
        searcher: not started yet.
        scheduler: not started yet.
        samples: number of architectures to evaluate.
        epochs: epochs of a full evaluation.
        seed: of the run; evaluation i has the seed derived from (seed, i).
        journal: open; its events, if any, are replayed. None: nothing is recorded.
        metric: what is maximized.
        unique: whether architectures that compute the same function are evaluated only once;
            else every one that the searcher asks for is paid for, as for one that grows an
            ensemble.
        held_out: predictions of evaluations, for a searcher that grows an ensemble.

    Raises:
        InvalidArgument: when such a searcher has no predictions to go by.
    """

    def __init__(
        self,
        space: SearchSpace,
        searcher: Searcher,
        scheduler: Scheduler,
        samples: int,
        epochs: int,
        seed: int,
        journal: Journal | None = None,
        metric: str = METRIC,
        unique: bool = True,
        held_out: HeldOut | None = None,
    ):
        self.space, self.searcher, self.scheduler = space, searcher, scheduler
        self.samples, self.epochs, self.seed, self.journal = samples, epochs, seed, journal
        #: the searcher, where it grows an ensemble
        self.growing = searcher if isinstance(searcher, GrowingSearcher) else None
        self.metric, self.unique = metric, unique and self.growing is None
        self.held_out = held_out
        if self.growing and held_out is None:
            raise InvalidArgument(
                f"search: {type(searcher).__name__} grows an ensemble of trained networks, and here"
                " nothing is trained: use it in run() with evaluate='train'."
            )
        self.evaluations: list[Evaluation] = []
        #: the best evaluation that has ended: by epochs reached, then by the metric, or by how
        #: the searcher judges
        self.best: Evaluation | None = None
        self._best_by_value: Evaluation | None = None
        #: the last that was recorded as the best by how the searcher judges
        self._leading: int | None = None
        #: set when the search as a whole has failed: the reason common to all
        self.failure: str | None = None
        #: what the searcher wants to have scored before the first evaluation
        self.unscored: list[Architecture] = []
        self._scores: dict[Architecture, float] = {}
        self._by_form: dict[Architecture, Evaluation] = {}
        self._forms: dict[Architecture, Architecture] = {}
        #: asked for again while running: {evaluation: architectures to tell its result for}
        self._followers: dict[int, list[Architecture]] = {}
        self._running = 0
        #: {index: evaluation}, in the order in which they ended
        self._finished: dict[int, Evaluation] = {}
        self._stopping: set[int] = set()
        self._duplicates = 0
        self._all_seen = False
        searcher.start(space, derived_seed(seed))
        scheduler.start(epochs)
        if searcher.scoring is not None:
            self.unscored = list(searcher.scoring.architectures)
        self.replay(journal.events if journal else [])
        self._interrupted = self._close_decided()
        self._note_leading()  # the driver may have died before it could
        self._grow()

    @property
    def finished(self) -> int:
        """Number of evaluations that have ended, in whatever way."""
        return len(self._finished)

    @property
    def ranked(self) -> list[Evaluation]:
        """All evaluations that have a value, the best first."""
        valued = [e for e in self._finished.values() if math.isfinite(e.value)]
        ranked = sorted(valued, key=lambda e: (*e.rank, -e.index), reverse=True)
        judged = self._judged()
        return sorted(ranked, key=lambda e: judged.get(e.index, _UNJUDGED), reverse=True)

    @property
    def merits(self) -> dict[int, float]:
        """{evaluation: merit}, where the searcher judges by more than the value."""
        return {index: merit for index, (_, merit) in self._judged().items()}

    @property
    def exhausted(self) -> bool:
        """Whether no further evaluation will be started."""
        if self.failure is not None:
            return True
        waiting = self._interrupted or (self.scheduler.promotes and self._running)
        return len(self.evaluations) >= self.samples and not (
            waiting or self._promotable() is not None
        )

    def score(self, arch: Architecture, score: float, reason: str | None = None) -> None:
        """Record the proxy score of the first of `unscored`, which must be `arch`."""
        self._record("scored", architecture=self.space.to_string(arch), score=score, reason=reason)
        self._score(score)

    def suggest(self) -> Evaluation | None:
        """The next evaluation to start; None when there is none, now or ever (`exhausted`).

        First come evaluations that an earlier driver left unfinished, then those that the
        scheduler had stopped and promotes now, then what the searcher asks for.
        """
        if self.exhausted:
            return None
        if self._interrupted:
            return self.evaluations[self._interrupted.pop(0)]
        index = self._promotable()
        if index is not None:
            self._record("promoted", evaluation=index)
            return self._promote(index)
        if len(self.evaluations) >= self.samples:
            return None
        return self._suggest_new()

    def _suggest_new(self) -> Evaluation | None:
        duplicates = self._duplicates
        evaluation = self._new_evaluation()
        if evaluation is not None:
            self._record("suggested", evaluation=evaluation.index, architecture=evaluation.notation)
        elif self._duplicates > duplicates:
            self._record("waited")
        if evaluation is None and not self._running:
            self._record("exhausted")
            self.samples = len(self.evaluations)  # nothing new is to be had: this is the end
        return evaluation

    def report(self, index: int, metrics: dict[str, float]) -> bool:
        """Record the metrics of an evaluation's next epoch; whether it goes on."""
        self._record("reported", evaluation=index, metrics=metrics)
        return self._report(index, metrics)

    def finish(self, index: int, status: Status, reason: str | None = None) -> None:
        """Record that an evaluation has ended."""
        self._record("finished", evaluation=index, status=status.value, reason=reason)
        self._finish(index, status, reason)
        self._note_leading()
        self._grow()

    def _grow(self) -> None:
        """Have the searcher decide on its ensemble, where it grows one and has what it needs."""
        if self.growing and self.held_out and self.growing.undecided:
            decision = self.growing.decide(self.held_out)
            self._record("grown", **decision)
            self.growing.grow(decision)

    def _note_leading(self) -> None:
        """Record which evaluation is the best, where its value alone does not tell."""
        if self.best is not None and self.best.index != self._leading and self.merits:
            self._leading = self.best.index
            self._record("leading", evaluation=self._leading)

    def replay(self, events: Iterable[Event]) -> None:
        """Take the path that the journal describes.

        Raises:
            JournalError: when the searcher does not ask for what it asked for then.
        """
        for event in events:
            if event["event"] == "suggested":
                evaluation = self._new_evaluation()
                if evaluation is None or evaluation.notation != event["architecture"]:
                    raise JournalError(
                        f"On replay the searcher asked for"
                        f" {evaluation.notation if evaluation else 'nothing'} where the journal"
                        f" has {event['architecture']}: it, or the space, is not the same as then."
                    )
            elif event["event"] == "promoted":
                if self._promotable() != event["evaluation"]:
                    raise JournalError(
                        f"On replay the scheduler promoted {self._promotable()} where the journal"
                        f" has {event['evaluation']}: it is not the same as then."
                    )
                self._promote(event["evaluation"])
            elif event["event"] == "leading":
                self._leading = event["evaluation"]
            elif event["event"] == "grown" and self.growing:
                self.growing.grow(event)
            elif event["event"] == "scored":
                self._score(event["score"])
            elif event["event"] == "exhausted":
                self.samples = len(self.evaluations)
            elif event["event"] == "waited":
                self._new_evaluation()
            elif event["event"] == "reported":
                self._report(event["evaluation"], event["metrics"])
            elif event["event"] == "finished":
                self._finish(event["evaluation"], Status(event["status"]), event["reason"])

    def _record(self, event: str, **fields: Any) -> None:
        if self.journal is not None:
            self.journal.append(event, **fields)

    def _score(self, score: float) -> None:
        self._scores[self.unscored.pop(0)] = -math.inf if math.isnan(score) else score
        if not self.unscored:
            self.searcher.tell_scores(self._scores)

    def _promotable(self) -> int | None:
        """The evaluation that the scheduler would have go on, if any."""
        return self.scheduler.promotable() if self.scheduler.promotes else None

    def _promote(self, index: int) -> Evaluation:
        self.scheduler.promote()
        evaluation = self.evaluations[index]
        evaluation.status = Status.RUNNING
        self._stopping.discard(evaluation.index)
        self._finished.pop(evaluation.index, None)
        self._running += 1
        return evaluation

    def _close_decided(self) -> list[int]:
        """Finish what only lacked the word of it when the driver died; the rest is interrupted."""
        interrupted = []
        for evaluation in self.evaluations:
            if evaluation.status is not Status.RUNNING:
                continue
            if evaluation.index in self._stopping:
                self.finish(evaluation.index, Status.STOPPED)
            elif evaluation.epochs >= self.epochs:
                self.finish(evaluation.index, Status.COMPLETED)
            else:
                interrupted.append(evaluation.index)
        return interrupted

    def _new_evaluation(self) -> Evaluation | None:
        """Ask until something new comes; what is known already is told at once, unpaid."""
        arch: Architecture | None = None
        if self._all_seen:
            return None
        for _ in range(_MAX_DUPLICATES):
            asked = self.searcher.ask()
            if asked is None:
                return None
            known = self._by_form.get(self.space.canonical(asked)) if self.unique else None
            if known is None:
                arch = asked
                break
            self._duplicates += 1
            if known.status is Status.RUNNING:
                self._followers.setdefault(known.index, []).append(asked)
            else:
                self.searcher.tell(asked, known.value, known.epochs)
        else:
            unseen = (a for a in self.space if self.space.canonical(a) not in self._by_form)
            arch = next(unseen, None)
            self._all_seen = arch is None
        return None if arch is None else self._add(arch)

    def _add(self, arch: Architecture) -> Evaluation:
        index = len(self.evaluations)
        evaluation = Evaluation(
            index, arch, self.space.to_string(arch), derived_seed(self.seed, index),
            metric=self.metric,
        )  # fmt: skip
        self.evaluations.append(evaluation)
        self._running += 1
        form = self.space.canonical(arch)
        if form not in self._by_form:  # else it is a repetition; it counts when it has ended
            self._by_form[form] = evaluation
        return evaluation

    def _report(self, index: int, metrics: dict[str, float]) -> bool:
        evaluation = self.evaluations[index]
        evaluation.history.append(metrics)
        if not self.scheduler.report(index, evaluation.epochs, evaluation.value):
            self._stopping.add(index)
        return index not in self._stopping and self.failure is None

    def _finish(self, index: int, status: Status, reason: str | None) -> None:
        evaluation = self.evaluations[index]
        evaluation.status, evaluation.reason = status, reason
        self._finished[index] = evaluation
        self._running -= 1
        if not self.unique:
            self._by_form[self.space.canonical(evaluation.architecture)] = evaluation
        self._note_best(evaluation)
        for arch in (evaluation.architecture, *self._followers.pop(index, [])):
            self.searcher.tell(arch, evaluation.value, evaluation.epochs)
        judged = self._judged()
        best = max(judged, key=lambda i: (judged[i], self.evaluations[i].rank, -i), default=None)
        self.best = self._best_by_value if best is None else self.evaluations[best]
        if len(self._finished) == _FIRST_FAILURES:
            self._notice_failure()

    def _note_best(self, ended: Evaluation) -> None:
        """Keep the best by value; one that was promoted and failed is it no longer."""
        best = self._best_by_value
        if math.isfinite(ended.value) and (best is None or ended.rank > best.rank):
            self._best_by_value = ended
        elif best is ended:
            valued = [e for e in self._finished.values() if math.isfinite(e.value)]
            self._best_by_value = max(valued, key=lambda e: (*e.rank, -e.index), default=None)

    def _judged(self) -> dict[int, tuple[int, float]]:
        """{evaluation: (epochs, merit)}, where the searcher judges by more than the value."""
        judged: dict[int, tuple[int, float]] = {}
        for arch, merit in self.searcher.merits().items():
            form = self._forms.get(arch)
            if form is None:
                form = self._forms[arch] = self.space.canonical(arch)
            evaluation = self._by_form.get(form)
            if evaluation is not None and evaluation.index in self._finished:
                rank = (evaluation.epochs, merit)
                judged[evaluation.index] = max(rank, judged.get(evaluation.index, rank))
        return judged

    def _notice_failure(self) -> None:
        """The search fails when its first ten evaluations all failed for the same reason.

        Numbers in it (of bytes, of places in memory) may differ.
        """
        first = list(self._finished.values())
        reasons = {re.sub(r"\d+", "0", e.reason or "") for e in first}
        failed = all(e.status in (Status.FAILED, Status.DIVERGED) for e in first)
        if failed and len(reasons) == 1:
            self.failure = first[0].reason
