"""What every scheduler must do."""

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import pytest

from raynas.schedulers import Scheduler
from raynas.testing.suite import Suite
from search_spaces import SearchSpace
from search_spaces.nasbench201 import NASBench201


class Call(NamedTuple):
    """A call of a scheduler and its answer; only reports have epochs and a value.

    What neither reports, begins nor audits is a promotion.

    Attributes:
        evaluation: its index.
        epochs: that it has reached.
        value: its metric then.
        goes_on: what the scheduler said.
        begins: whether the scheduler is told of the evaluation.
        audits: whether the evaluation goes on because all else is done.
    """

    evaluation: int
    epochs: int = 0
    value: float = 0.0
    goes_on: bool = True
    begins: bool = False
    audits: bool = False


class SchedulerSuite(Suite):
    """Tests of a scheduler; `part` is the class, or another function that makes one.

    Attributes:
        epochs: of a full evaluation.
        space: of the architectures.
    """

    epochs: ClassVar[int] = 9
    space: ClassVar[SearchSpace] = NASBench201()

    @pytest.fixture
    def scheduler(self) -> Callable[[], Scheduler]:
        """What makes one that is not started."""
        return self.factory()

    def drive(
        self, scheduler: Scheduler, evaluations: int = 40, workers: int = 4, seed: int = 0
    ) -> Iterator[Call]:
        """Yield the calls of a search whose workers finish their epochs in a random order."""
        rng = np.random.default_rng(seed)
        skills = rng.normal(size=evaluations)
        reached = dict.fromkeys(range(evaluations), 0)
        new, running = iter(range(evaluations)), list[int]()
        while True:
            while len(running) < workers:
                promoted = scheduler.promotable() if scheduler.promotes else None
                if promoted is not None:
                    assert scheduler.promote() == promoted
                    yield Call(promoted)
                index = next(new, None) if promoted is None else promoted
                if index is None:
                    break
                if promoted is None:
                    self.begin(scheduler, index)
                    yield Call(index, begins=True)
                running.append(index)
            if not running:
                audited = scheduler.auditable()
                if audited is None:
                    return
                assert scheduler.start_audit() == audited
                yield Call(audited, audits=True)
                running.append(audited)
            index = running[int(rng.integers(len(running)))]
            reached[index] += 1
            value = float(skills[index] + rng.normal() / reached[index])
            goes_on = scheduler.report(index, reached[index], value)
            yield Call(index, reached[index], value, goes_on)
            if not goes_on or reached[index] == self.epochs:
                running.remove(index)

    def replayed(self, scheduler: Scheduler, calls: list[Call]) -> list[Call]:
        """Make the same calls of another one; return them with its answers."""
        answers = []
        for call in calls:
            if call.begins:
                self.begin(scheduler, call.evaluation)
                answers.append(call)
            elif call.epochs:
                goes_on = scheduler.report(call.evaluation, call.epochs, call.value)
                answers.append(call._replace(goes_on=goes_on))
            else:
                step = scheduler.start_audit if call.audits else scheduler.promote
                answers.append(call if step() == call.evaluation else Call(-1))
        return answers

    def begin(self, scheduler: Scheduler, evaluation: int) -> None:
        """Tell it of an evaluation, which is of the same architecture in every search."""
        arch = self.space.sample(np.random.default_rng(evaluation))
        scheduler.begin(evaluation, self.space, arch)

    def started(self, scheduler: Callable[[], Scheduler]) -> Scheduler:
        """Return one that is started."""
        one = scheduler()
        one.start(self.epochs)
        return one

    def test_answers_are_yes_or_no(self, scheduler: Callable[[], Scheduler]) -> None:
        calls = list(self.drive(self.started(scheduler)))
        assert {type(call.goes_on) for call in calls} == {bool}
        assert {call.evaluation for call in calls} == set(range(40))

    @pytest.mark.parametrize("workers", [1, 4])
    def test_a_replay_in_a_new_one_gives_the_same_answers(
        self, scheduler: Callable[[], Scheduler], workers: int
    ) -> None:
        calls = list(self.drive(self.started(scheduler), workers=workers))
        assert self.replayed(self.started(scheduler), calls) == calls

    def test_start_begins_anew(self, scheduler: Callable[[], Scheduler]) -> None:
        one = self.started(scheduler)
        calls = list(self.drive(one))
        one.start(self.epochs)
        assert list(self.drive(one)) == calls

    def test_two_do_not_know_of_each_other(self, scheduler: Callable[[], Scheduler]) -> None:
        alone = [list(self.drive(self.started(scheduler), seed=seed)) for seed in (1, 2)]
        beside: list[list[Call]] = [[], []]
        searches = [self.drive(self.started(scheduler), seed=seed) for seed in (1, 2)]
        for _ in range(max(map(len, alone))):
            for calls, search in zip(beside, searches, strict=True):
                calls.extend(call for call in [next(search, None)] if call)
        assert beside == alone

    def test_asking_who_is_to_go_on_changes_nothing(
        self, scheduler: Callable[[], Scheduler]
    ) -> None:
        plain, asked = self.started(scheduler), self.started(scheduler)
        calls = list(self.drive(plain))
        for call in calls:
            assert asked.promotable() == asked.promotable()
            assert asked.auditable() == asked.auditable()
            assert self.replayed(asked, [call]) == [call]

    def test_lets_go_on_what_it_has_stopped_and_nothing_twice(
        self, scheduler: Callable[[], Scheduler]
    ) -> None:
        one = self.started(scheduler)
        stopped: set[int] = set()
        trained: set[tuple[int, int]] = set()
        for call in self.drive(one):
            if call.begins:
                continue
            if not call.epochs:
                assert call.evaluation in stopped
                stopped.remove(call.evaluation)
                continue
            assert (call.evaluation, call.epochs) not in trained
            trained.add((call.evaluation, call.epochs))
            if not call.goes_on:
                stopped.add(call.evaluation)
        if one.promotes:
            assert one.promotable() is None
            assert one.promote() is None
        assert one.auditable() is None
        assert one.start_audit() is None
        assert one.stops or not stopped

    @pytest.mark.parametrize("workers", [1, 4])
    def test_lets_nothing_go_on_that_it_said_may_not(
        self, scheduler: Callable[[], Scheduler], workers: int
    ) -> None:
        """The checkpoints of what may not go on are removed; forgetting it changes no decision."""
        calls = list(self.drive(self.started(scheduler), workers=workers))
        one = self.started(scheduler)
        stopped: set[int] = set()
        for call in calls:
            assert self.replayed(one, [call]) == [call]
            stopped.discard(call.evaluation)
            if call.epochs and not call.goes_on:
                stopped.add(call.evaluation)
            may_go_on = one.may_go_on(40)
            if may_go_on is not None:
                one.forget(stopped - set(may_go_on))

    @pytest.mark.parametrize("seed", range(3))
    def test_somebody_gets_all_epochs(self, scheduler: Callable[[], Scheduler], seed: int) -> None:
        calls = list(self.drive(self.started(scheduler), seed=seed))
        assert max(call.epochs for call in calls) == self.epochs

    def test_survives_failures_only(self, scheduler: Callable[[], Scheduler]) -> None:
        one = self.started(scheduler)
        for index in range(20):
            self.begin(one, index)
            assert isinstance(one.report(index, 1, -math.inf), bool)

    @pytest.mark.parametrize("epochs", [1, 2])
    def test_few_epochs(self, scheduler: Callable[[], Scheduler], epochs: int) -> None:
        one = scheduler()
        one.start(epochs)
        assert one.epochs == epochs
        self.begin(one, 0)
        assert all(isinstance(one.report(0, epoch + 1, 0.5), bool) for epoch in range(epochs))

    def test_pickles(self, scheduler: Callable[[], Scheduler]) -> None:
        """Copies that are taken in the middle of a search go on alike."""
        calls = list(self.drive(self.started(scheduler)))
        middle = len(calls) // 2
        one = self.started(scheduler)
        self.replayed(one, calls[:middle])
        for twin in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
            assert self.replayed(twin, calls[middle:]) == calls[middle:]
