"""A search: searcher, scheduler and history joined; what to evaluate next.

A search is driven from outside: by a driver while a run is on, and by the journal when a run is
continued. Every step is an event that `commit` records and applies; a replay applies the same
events by the same method, so a search that was killed, wherever that was, goes on as if it had
not been. (The file is long: every step stands beside what a replay does with it.)
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from raynas.errors import InvalidArgument, JournalError
from raynas.record.events import (
    METRIC,
    Audited,
    Discarded,
    Event,
    Exhausted,
    Finished,
    Grown,
    Leading,
    Promoted,
    Reported,
    Retried,
    Scored,
    Searched,
    Status,
    Suggested,
    Waited,
)
from raynas.record.history import Evaluation, History
from raynas.record.journal import Journal, collecting_paused
from raynas.schedulers import Fifo, Scheduler
from raynas.search.admission import Admission
from raynas.search.deduplication import Deduplication
from raynas.search.faults import CUT_SHORT, of_the_machine, was_cut_short
from raynas.search.judgment import Judgment, judgments
from raynas.search.proposals import Proposals
from raynas.search.retention import Retention
from raynas.searchers import HeldOut, Searcher
from search_spaces import Architecture, SearchSpace
from trials.trial import derived_seed

_FIRST_FAILURES = 10  # as many failures for one reason, and nothing else, end the search
_FINALISTS = 3  # retrained in turn when one diverges
_NOT_CHOSEN = "not chosen: the best of each size are evaluated, at most as many as samples"


class Search:
    """The state of a search.

    Args:
        space: where to search.
        searcher: not started yet.
        scheduler: not started yet; of a searcher with a driver of its own it decides over that
            driver's searches, and every evaluation runs to its end.
        samples: number of architectures to evaluate.
        epochs: epochs of a full evaluation.
        seed: of the run; evaluation i has the seed derived from (seed, i).
        journal: open; its events, if any, are replayed. None: nothing is recorded.
        metric: what is maximized.
        unique: whether architectures that compute the same function are evaluated only once,
            unless the searcher wants them all.
        held_out: predictions of evaluations, for a searcher that needs them.
        admission: what may be evaluated; None: everything.
        select: how many of the best the last decision is among (`stages/select.py`).
        keep: how many of the best keep their checkpoints, beside those that something still needs;
            None: all do.

    Raises:
        InvalidArgument: when such a searcher has no predictions to go by.
        JournalError: when the searcher or the scheduler does otherwise than the journal says.
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
        admission: Admission | None = None,
        select: int = 1,
        keep: int | None = None,
    ):
        if searcher.needs_predictions and held_out is None:
            raise InvalidArgument(
                f"search: {type(searcher).__name__} grows an ensemble of trained networks, and here"
                " nothing is trained: use it in run() with evaluate='train'."
            )
        self.space, self.searcher = space, searcher
        self.scheduler = Fifo() if searcher.driver else scheduler
        self._over_searches = scheduler
        self.samples, self.epochs, self.seed, self.journal = samples, epochs, seed, journal
        self.metric, self.held_out = metric, held_out
        self.admission, self.select = admission or Admission(), select
        self.history = History()
        self.history.metric = metric
        self.deduplication = Deduplication(space, unique and not searcher.repeats)
        self._proposals = Proposals(self)
        #: an ensemble that grows may come back to any member
        self._retention = Retention(None if searcher.needs_predictions else keep)
        #: what each evaluation is of
        self.architectures: list[Architecture] = []
        #: set when the search as a whole has failed: the reason common to all
        self.failure: str | None = None
        self._scores: dict[Architecture, float] = {}
        #: what the searcher asked for, until it is an evaluation
        self._asked: Architecture | None = None
        #: evaluations that the scheduler has stopped, and that still run
        self._stopping: set[int] = set()
        #: the numbers of differentiable searches that the scheduler has stopped
        self.searches_stopping: set[int] = set()
        #: whether the time for new evaluations is over
        self.expired: Callable[[], bool] = lambda: False
        #: why all of it ends now, also what runs; None: it does not
        self.over: Callable[[], str | None] = lambda: None
        self._running = 0
        self._interrupted: list[int] = []
        if self.admission.constraint is not None:
            searcher.admits = self.admission.admits
        searcher.start(space, derived_seed(seed))
        scheduler.start(searcher.epochs_of_search or epochs)
        #: what the searcher wants to have scored before the first evaluation
        self.unscored = list(searcher.scoring.architectures) if searcher.scoring else []
        if journal is not None:
            with collecting_paused():
                self._replay(journal.events)
            self.history.driver_ended()
            journal.listeners.insert(0, self.history.apply)

    def begin(self) -> None:
        """Go on: end what only lacked the word of it when the driver died, note the rest."""
        self._evaluate_derived()
        for index in self._retryable():
            self.commit(Retried(index))
        self.cut_short()
        for evaluation in self.history.running:
            if evaluation.index in self._stopping:
                self.finish(evaluation.index, Status.STOPPED)
            elif evaluation.epochs >= self.epochs:
                self.finish(evaluation.index, Status.COMPLETED)
            else:
                self._interrupted.append(evaluation.index)
        self._note_leading()
        self._grow()
        self._discard()

    def cut_short(self) -> str | None:
        """End what runs where the search is over; return why it is."""
        why = self.over()
        if why is not None:
            for evaluation in self.history.running:
                self.finish(evaluation.index, Status.STOPPED, CUT_SHORT + why)
        return why

    @property
    def evaluations(self) -> list[Evaluation]:
        """Return all evaluations, in the order in which they began."""
        return self.history.evaluations

    @property
    def finished(self) -> int:
        """Return the number of evaluations that have ended, in whatever way."""
        return len(self.history.finished)

    @property
    def best(self) -> Evaluation | None:
        """Return the best evaluation that has ended; see `History.best`."""
        return self.history.best

    @property
    def ranked(self) -> list[Evaluation]:
        """Return all evaluations that have a value, the best first."""
        return self.history.ranked(self._judgments())

    @property
    def finalists(self) -> list[Evaluation]:
        """Return the evaluations that are retrained, each if those before it fail.

        First come those that the full training of the best has put in order, if it has.
        """
        selected = self.history.selected_of(self.candidates) or []
        return [*selected, *(e for e in self.ranked[:_FINALISTS] if e not in selected)]

    @property
    def candidates(self) -> list[Evaluation]:
        """Return the evaluations that the last decision is among; empty: it is the search's own."""
        best = self.ranked[: self.select]
        return best if len(best) > 1 else []

    @property
    def winner(self) -> Evaluation | None:
        """Return the first of the finalists that has been retrained, if any."""
        return next((e for e in self.finalists if e.index in self.history.retrained), None)

    @property
    def merits(self) -> dict[int, float]:
        """Return {evaluation: merit}, where the searcher judges by more than the value."""
        return {index: judgment.merit for index, judgment in self._judgments().items()}

    @property
    def exhausted(self) -> bool:
        """Return whether no further evaluation will be started."""
        if self.failure is not None or self.over() is not None:
            return True
        if len(self.evaluations) < self.samples or self._interrupted:
            return False
        if self.expired():
            return True
        if self._running:
            return not (self.scheduler.promotes or self.scheduler.audits)
        return self._promotable() is None and self.scheduler.auditable() is None

    def seed_of(self, index: int) -> int:
        """Return the seed of an evaluation."""
        return derived_seed(self.seed, index)

    def worth(self, evaluation: Evaluation) -> float:
        """Return the value of an evaluation, less what its architecture is penalized for."""
        return evaluation.value - self.admission.penalty(self.architectures[evaluation.index])

    # What happens

    def score(self, arch: Architecture, score: float, reason: str | None = None) -> None:
        """Take the proxy score of the first of `unscored`, which must be `arch`."""
        self.commit(Scored(self.space.to_string(arch), score, reason))

    def suggest(self) -> Evaluation | None:
        """Return the next evaluation to start; None when there is none, now or ever (`exhausted`).

        First come evaluations that an earlier driver left unfinished, then those that the
        scheduler had stopped and promotes now, then what the searcher asks for, and when all that
        is done one that the scheduler had stopped and would see go on.
        """
        if self.exhausted:
            return None
        if self._interrupted:
            return self.evaluations[self._interrupted.pop(0)]
        suggested = None
        for event in self._proposed():
            self.commit(event)
            if isinstance(event, Suggested | Promoted | Audited):
                suggested = self.evaluations[event.evaluation]
        return suggested

    def report(self, index: int, metrics: dict[str, float]) -> bool:
        """Take the metrics of an evaluation's next epoch and return whether it goes on."""
        self.commit(Reported(index, metrics))
        return index not in self._stopping and self.failure is None

    def finish(self, index: int, status: Status, reason: str | None = None) -> None:
        """Take the end of an evaluation."""
        self.commit(Finished(index, status, reason))
        self._note_leading()
        self._grow()
        self._discard()

    def tell_known(self, index: int, asked: Architecture) -> None:
        """Tell the result that stands for what was asked for, at once or when it comes."""
        evaluation = self.evaluations[index]
        if evaluation.status is Status.RUNNING:
            self.deduplication.follow(index, asked)
        else:
            self.searcher.tell(asked, self.worth(evaluation), evaluation.epochs)

    def derive(self, event: Searched) -> bool:
        """Take an epoch of a differentiable search and return whether that search goes on.

        What it has derived becomes an evaluation, where it is new; see `choose`.
        """
        self.commit(event)
        self._evaluate_derived()
        return event.search not in self.searches_stopping

    def choose(self, architectures: Sequence[str], most: int | None = None) -> None:
        """Have some of the evaluations that were derived trained, in this order; end the others.

        Args:
            architectures: as they were derived, in the notation of the space; of those that
                compute the same function, the evaluation is one.
            most: how many evaluations; None: all of these.
        """
        of = self.deduplication.evaluation
        indices = dict.fromkeys(of(self.space.from_string(text)) for text in architectures)
        chosen = list(indices)[:most]
        if len(self.evaluations) < self.samples:
            self.commit(Exhausted())
        self.samples = len(self.evaluations)
        for evaluation in self.history.running:
            if evaluation.index not in chosen:
                self.finish(evaluation.index, Status.STOPPED, _NOT_CHOSEN)
        running = {evaluation.index for evaluation in self.history.running}
        self._interrupted = [i for i in chosen if i is not None and i in running]

    def commit(self, event: Event) -> None:
        """Record an event, then act on it."""
        if self.journal is not None:
            self.journal.append(event)
        else:
            self.history.apply(event)
        self._act(event)

    def _replay(self, events: Iterable[Event]) -> None:
        """Take the path that a journal describes."""
        for event in events:
            self._check(event)
            self.history.apply(event)
            self._act(event)

    def _check(self, event: Event) -> None:
        """Have searcher and scheduler do what they did then, and compare."""
        if isinstance(event, Suggested | Waited):
            if self._asked is None:
                self._asked = self._proposals.next()
            notation = None if self._asked is None else self.space.to_string(self._asked)
            if isinstance(event, Suggested) and notation != event.architecture:
                raise JournalError(
                    f"On replay the searcher asked for {notation or 'nothing'} where the journal"
                    f" has {event.architecture}: it, or the space, is not the same as then."
                )
        elif isinstance(event, Promoted) and self._promotable() != event.evaluation:
            raise JournalError(
                f"On replay the scheduler promoted {self._promotable()} where the journal has"
                f" {event.evaluation}: it is not the same as then."
            )
        elif isinstance(event, Audited) and self.scheduler.auditable() != event.evaluation:
            raise JournalError(
                f"On replay the scheduler audits {self.scheduler.auditable()} where the journal has"
                f" {event.evaluation}: it is not the same as then."
            )

    def _act(self, event: Event) -> None:
        """Let searcher and scheduler learn of an event that is in the history."""
        match event:
            case Suggested():
                self._begin(event.evaluation)
            case Promoted() | Audited():
                if isinstance(event, Promoted):
                    self.scheduler.promote()
                else:
                    self.scheduler.start_audit()
                self._stopping.discard(event.evaluation)
                self._retention.begin(event.evaluation)
                self._running += 1
            case Reported():
                evaluation = self.evaluations[event.evaluation]
                worth = self.worth(evaluation)
                arch = self.architectures[evaluation.index]
                self.searcher.hear(arch, worth, evaluation.epochs)
                if not self.scheduler.report(evaluation.index, evaluation.epochs, worth):
                    self._stopping.add(evaluation.index)
            case Finished():
                self._end(self.evaluations[event.evaluation])
            case Retried():
                self.failure = None
                self._stopping.discard(event.evaluation)
                self._retention.begin(event.evaluation)
                self._running += 1
            case Discarded():
                self._retention.discard(event.evaluations)
                self.scheduler.forget(event.evaluations)
            case Scored():
                arch = self.unscored.pop(0)
                unusable = math.isnan(event.score) or self.admission.forbids(arch)
                self._scores[arch] = -math.inf if unusable else event.score
                if not self.unscored:
                    self.searcher.tell_scores(self._scores)
            case Searched():
                self.searcher.learn(self.space.from_string(event.architecture))
                self._asked = self._proposals.next()
                accuracy = event.metrics["architecture_accuracy"]
                if not self._over_searches.report(event.search, event.epoch, accuracy):
                    self.searches_stopping.add(event.search)
            case Grown():
                self.searcher.grow(event.to_json())
            case Exhausted():
                self.samples = len(self.evaluations)  # nothing new is to be had

    # What comes next

    def _retryable(self) -> list[int]:
        """Return the evaluations that go on although they ended.

        Those that a fault of the machine ended, where it ended the search too, and those that ran
        when the search was over, where it is not any more. None where a searcher has decided by
        the failures, or a driver of its own leads.
        """
        came_to_nothing = self.failure is not None or (self.exhausted and self.best is None)
        if self.searcher.driver or self.searcher.needs_predictions or self.over() is not None:
            return []
        ended = [(i, e.reason) for i, e in sorted(self.history.finished.items())]
        return [
            index
            for index, reason in ended
            if was_cut_short(reason) or (came_to_nothing and of_the_machine(reason))
        ]

    def _promotable(self) -> int | None:
        """Return the evaluation that the scheduler would have go on, if any."""
        return self.scheduler.promotable() if self.scheduler.promotes else None

    def _proposed(self) -> Iterator[Event]:
        """Yield the events of the next step, as scheduler and searcher want it."""
        if self.expired():
            yield Exhausted()
            return
        index = self._promotable()
        if index is not None:
            yield Promoted(index)
            return
        if len(self.evaluations) >= self.samples:
            yield from self._audit()
            return
        unpaid = self._proposals.unpaid
        self._asked = self._proposals.next()
        if self._asked is not None:
            yield Suggested(len(self.evaluations), self.space.to_string(self._asked))
            return
        if self._proposals.unpaid > unpaid:
            yield Waited()
        if not self._running:
            yield Exhausted()
            yield from self._audit()

    def _audit(self) -> Iterator[Event]:
        """Yield the event of an evaluation that goes on when all else is done, if any."""
        index = None if self._running else self.scheduler.auditable()
        if index is not None:
            yield Audited(index)

    def _begin(self, index: int) -> None:
        assert self._asked is not None
        self.scheduler.begin(index, self.space, self._asked)
        self.architectures.append(self._asked)
        self.deduplication.add(self._asked, index)
        self.admission.begin(self._asked)
        self._asked = None
        self._running += 1

    def _evaluate_derived(self) -> None:
        """Begin the evaluation of what was derived last, where that is new and not begun yet."""
        if self._asked is not None:
            self.commit(Suggested(len(self.evaluations), self.space.to_string(self._asked)))

    def _end(self, evaluation: Evaluation) -> None:
        self._running -= 1
        self._retention.end(evaluation.index)
        arch = self.architectures[evaluation.index]
        for equal in self.deduplication.end(arch, evaluation.index):
            self.searcher.tell(equal, self.worth(evaluation), evaluation.epochs)
        if self.finished == _FIRST_FAILURES:
            self.failure = self.history.common_failure

    def _discard(self) -> None:
        """Record whose checkpoints are needed no more; whoever listens removes them."""
        if self._retention.most is None:
            return
        over = self.exhausted and not self._running
        unneeded = self._retention.unneeded(self.history, self.scheduler, self.samples, over)
        if unneeded:
            self.commit(Discarded(unneeded))

    # How the searcher judges

    def _grow(self) -> None:
        """Have the searcher decide on its ensemble, where it grows one and has what it needs."""
        if self.held_out is not None and self.searcher.undecided:
            self.commit(Grown(**self.searcher.decide(self.held_out)))

    def _note_leading(self) -> None:
        """Record which evaluation is the best, where its value alone does not tell."""
        judged = self._judgments()
        if not judged:
            return
        best = max(judged, key=lambda i: (judged[i], self.evaluations[i].rank, -i))
        if best != self.history.leading:
            self.commit(Leading(best))

    def _judgments(self) -> dict[int, Judgment]:
        """Return {evaluation: judgment}, where more than the value counts."""
        finished, of = self.history.finished, self.deduplication.evaluation
        penalized = finished.items() if self.admission.penalizes else ()
        worths = {index: self.worth(evaluation) for index, evaluation in penalized}
        return judgments(self.searcher.merits(), of, finished, worths)
