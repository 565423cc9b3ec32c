"""Schedulers: which trials go on."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raynas import Asha, Fifo
from raynas.schedulers import SCHEDULERS
from raynas.testing import SchedulerSuite
from search_spaces.naming import construct


class TestSchedulers(SchedulerSuite):
    @pytest.fixture(
        params=[*SCHEDULERS, "asha:reduction=2", "asha:reduction=3,variant=promotion,grace=2"]
    )
    def scheduler(self, request):
        return lambda: construct("scheduler", request.param, SCHEDULERS)


def started(epochs, **options):
    asha = Asha(**options)
    asha.start(epochs)
    return asha


def test_rungs_are_powers_of_the_reduction():
    assert list(started(epochs=30, grace=1, reduction=3).rungs) == [1, 3, 9, 27]
    assert list(started(epochs=27, grace=1, reduction=3).rungs) == [1, 3, 9]
    assert list(started(epochs=9, grace=2, reduction=2).rungs) == [2, 4, 8]
    assert list(started(epochs=1).rungs) == []


def test_first_arrivals_go_on_and_then_the_best_share():
    asha = started(epochs=9, grace=1, reduction=3)
    goes_on = [asha.report(i, 1, v) for i, v in enumerate([0.5, 0.4, 0.6, 0.3, 0.55, 0.7])]
    # of 1: best; of 2: not the best; of 3: best; ...; of 6 the best two go on
    assert goes_on == [True, False, True, False, False, True]
    assert asha.rungs == {1: [0.3, 0.4, 0.5, 0.55, 0.6, 0.7], 3: []}


def test_best_first_leaves_the_textbook_rungs():
    """papers, section 11: nine configurations, best first; eta = 3, R = 9.

    The stopping variant decides at once, so only the first can pass: those after it are worse.
    """
    asha = started(epochs=9, grace=1, reduction=3)
    for i in range(9):
        for epoch in (1, 3):
            if not asha.report(i, epoch, -float(i)):
                break
    assert [len(rung) for rung in asha.rungs.values()] == [9, 1]


def test_worst_first_is_the_price_of_asynchrony():
    asha = started(epochs=9, grace=1, reduction=3)
    for i in range(9):
        for epoch in (1, 3):
            if not asha.report(i, epoch, float(i)):
                break
    assert [len(rung) for rung in asha.rungs.values()] == [9, 9]


def serial_jobs(scheduler, values):
    """The jobs of one worker, (configuration, epochs reached), as section 11 of the papers has."""
    jobs, reached, new = [], {}, iter(range(len(values)))
    while True:
        index = scheduler.promotable()
        if index is not None:
            assert scheduler.promote() == index
        else:
            index = next(new, None)
        if index is None:
            return jobs
        going = True
        while going and reached.get(index, 0) < scheduler.epochs:
            reached[index] = reached.get(index, 0) + 1
            going = scheduler.report(index, reached[index], values[index])
        jobs.append((index, reached[index]))


def test_promotion_best_first_has_the_papers_job_order():
    """papers, section 11: r = 1, eta = 3, R = 9, one worker, metric falls with the number."""
    asha = started(epochs=9, reduction=3, variant="promotion")
    assert serial_jobs(asha, [-float(i) for i in range(9)]) == [
        (0, 1), (1, 1), (2, 1), (0, 3), (3, 1), (4, 1), (5, 1), (1, 3),
        (6, 1), (7, 1), (8, 1), (2, 3), (0, 9),
    ]  # fmt: skip
    assert [len(rung) for rung in asha.rungs.values()] == [9, 3]


def test_promotion_worst_first_promotes_nearly_every_newcomer():
    asha = started(epochs=9, reduction=3, variant="promotion")
    jobs = serial_jobs(asha, [float(i) for i in range(9)])
    at = {epochs: {i for i, e in jobs if e == epochs} for epochs in (1, 3, 9)}
    assert at == {1: set(range(9)), 3: set(range(2, 9)), 9: set(range(4, 9))}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(2, 4))
def test_promotion_is_by_rank_and_never_twice(values, reduction):
    asha = started(epochs=9, reduction=reduction, variant="promotion")
    jobs = serial_jobs(asha, [float(v) for v in values])
    assert len(set(jobs)) == len(jobs)
    milestones = [*asha.rungs, 9]
    assert {epochs for _, epochs in jobs} <= set(milestones)
    for epochs, above in itertools.pairwise(milestones):
        reached = sum(e == epochs for _, e in jobs)
        best = sorted((values[i] for i, e in jobs if e == epochs), reverse=True)
        promoted = sum(e == above for _, e in jobs)
        assert promoted >= reached // reduction
        # at the end the best 1/eta are all through (ties may have gone to any of the equal)
        through = {i for i, e in jobs if e == above}
        for i, e in jobs:
            if e == epochs and reached // reduction and values[i] > best[reached // reduction - 1]:
                assert i in through


def test_between_rungs_everything_goes_on():
    asha = started(epochs=9, grace=1, reduction=3)
    assert asha.report(0, 2, -1e9)
    assert asha.report(0, 5, float("-inf"))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(2, 5))
def test_the_best_so_far_always_goes_on_and_replay_restores(values, reduction):
    first, second = (started(epochs=9, reduction=reduction) for _ in range(2))
    decisions = [first.report(i, 1, v) for i, v in enumerate(values)]
    assert all(
        d
        for d, v, i in zip(decisions, values, range(99), strict=False)
        if v >= max(values[: i + 1])
    )
    assert [second.report(i, 1, v) for i, v in enumerate(values)] == decisions
    assert first.rungs == second.rungs


def test_about_one_in_eta_passes_in_the_long_run():
    rng = random.Random(0)
    asha = started(epochs=9, reduction=4)
    passed = sum(asha.report(i, 1, rng.random()) for i in range(4000))
    assert passed == pytest.approx(1000, rel=0.1)


def test_fifo_never_stops():
    fifo = Fifo()
    fifo.start(3)
    assert all(fifo.report(i, 1, float("-inf")) for i in range(5))
