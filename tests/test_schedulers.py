"""Schedulers: which trials go on."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import search_spaces
from raynas import Asha, AshaStratified, Fifo, InvalidArgument
from raynas.config.resolve import resolve
from raynas.schedulers import SCHEDULERS
from raynas.testing import SchedulerSuite
from search_spaces.naming import construct


class TestSchedulers(SchedulerSuite):
    @pytest.fixture(
        params=[
            *SCHEDULERS,
            "asha:reduction=2",
            "asha:reduction=3,variant=promotion,grace=2",
            "asha:peers=8,chance=0,audit=true,reduction=2",
            "asha:variant=promotion,peers=5,chance=0,extrapolate=true,audit=true,reduction=3",
            "asha-stratified:variant=promotion,peers=6,chance=0,audit=true",
            "asha-stratified:peers=6,chance=0,reduction=3",
            "asha-stratified:reduction=3,variant=promotion,by=params,strata=3",
            "asha-stratified:reduction=2,by=width,at=all",
        ]
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


SPACE = search_spaces.get("nasbench201")


def first_choice(space, arch):
    """A property that a test chooses freely."""
    return arch.choices[0]


def of_stratum(stratum):
    return SPACE.architecture([stratum, 0, 0, 0, 0, 0])


def stratified(strata, epochs=9, **options):
    """Started, with one evaluation for each of these strata (0 to 4), all begun."""
    scheduler = AshaStratified(by=first_choice, strata=5, **options)
    scheduler.start(epochs)
    for evaluation, stratum in enumerate(strata):
        scheduler.begin(evaluation, SPACE, of_stratum(stratum))
    return scheduler


def passed(scheduler, values, epochs=1):
    """The evaluations that pass a rung that they reach in turn."""
    goes_on = [i for i, value in enumerate(values) if scheduler.report(i, epochs, value)]
    return list(iter(scheduler.promote, None)) if scheduler.promotes else goes_on


@pytest.mark.parametrize("variant", ["stopping", "promotion"])
def test_no_family_is_cut_because_it_converges_slowly(variant):
    """One in three is slow, and then below all others; ASHA passes none of them."""
    rng = random.Random(0)
    strata = [rng.choice([0, 1, 1]) for _ in range(3000)]
    values = [stratum + rng.random() for stratum in strata]
    asha = passed(started(epochs=9, variant=variant), values)
    ours = passed(stratified(strata, variant=variant), values)
    slow = [i for i in ours if not strata[i]]
    assert len([i for i in asha if not strata[i]]) <= 3  # among the first
    assert len(slow) / strata.count(0) == pytest.approx(1 / 4, abs=0.03)
    assert len(ours) == pytest.approx(len(asha), rel=0.1)
    # the best of them, not just any
    assert sum(values[i] for i in slow) / len(slow) > 0.8


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=80), st.integers(2, 4))
def test_every_stratum_has_its_share_of_the_places(arrivals, reduction):
    """As many places as ASHA has; no stratum is two below its share."""
    strata = [stratum for stratum, _ in arrivals]
    scheduler = stratified(strata, reduction=reduction)
    for i, (_, value) in enumerate(arrivals):
        scheduler.report(i, 1, float(value))
    rung = scheduler._rungs[1]
    places = {stratum: best.size for stratum, best in rung._strata.items()}
    assert sum(places.values()) == len(arrivals) // reduction
    for stratum, size in places.items():
        assert strata.count(stratum) / reduction - size < 2


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.sampled_from(["early", "all"]))
@pytest.mark.parametrize("variant", ["stopping", "promotion"])
def test_with_one_stratum_it_is_asha(variant, values, at):
    options = {"reduction": 3, "variant": variant}
    scheduler, asha = stratified([0] * len(values), at=at, **options), started(9, **options)
    for epochs in (1, 3):
        reports = [(i, epochs, float(value)) for i, value in enumerate(values)]
        assert [scheduler.report(*r) for r in reports] == [asha.report(*r) for r in reports]
    assert scheduler.rungs == asha.rungs
    promoted = [list(iter(one.promote, None)) for one in (scheduler, asha) if one.promotes]
    assert not promoted or promoted[0] == promoted[1]


def test_a_rare_stratum_costs_nothing():
    """The first of each of four strata arrives after the best; only ASHA's own first one passes."""
    scheduler = stratified([0, 1, 2, 3], reduction=8)
    assert passed(scheduler, [0.9, 0.1, 0.2, 0.3]) == [0]


def test_strata_hold_at_the_early_rungs_unless_asked_otherwise():
    """Of 100 epochs up to 10. In the later rungs the slow half of them is cut."""
    for at, grace, epochs, kept in [
        ("early", 1, 4, True), ("early", 1, 16, False), ("all", 1, 16, True),
        ("early", 3, 12, False), ("early", 20, 20, True),
    ]:  # fmt: skip
        scheduler = stratified([0, 1] * 400, epochs=100, at=at, grace=grace)
        slow = [i for i in passed(scheduler, [i % 2 + i / 800 for i in range(800)], epochs)
                if i % 2 == 0]  # fmt: skip
        assert (len(slow) > 50) == kept
    assert list(stratified([], epochs=100).rungs) == [1, 4, 16, 64]


def test_the_strata_of_few_values_are_the_values_and_of_many_are_of_equal_population():
    space = search_spaces.get("darts:channels=4,cells=2")
    rng = np.random.default_rng(1)
    archs = [space.sample(rng) for _ in range(400)]

    def strata(**options):
        scheduler = AshaStratified(**options)
        scheduler.start(9)
        for evaluation, arch in enumerate(archs):
            scheduler.begin(evaluation, space, arch)
        return scheduler._stratum.values()

    by_depth = set(zip(strata(strata=9), map(space.depth, archs), strict=True))
    assert len(by_depth) == len({depth for _, depth in by_depth})
    counts = np.bincount(list(strata(by="macs", strata=5)))
    assert len(counts) == 5
    assert (abs(counts / 400 - 0.2) < 0.12).all()  # 5 standard errors of bounds and counts
    assert len(set(strata(by="width", strata=3))) <= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "natsbench_size"}, "by='depth': .* no cells as graphs, so no depth. Use params"),
        ({"scheduler": "asha-stratified:by=deph"}, "by='deph': .*Did you mean 'depth'"),
        ({"scheduler": "asha-stratified:by=reduction_depth"}, "only normal cells"),
        ({"scheduler": "asha-stratified:strata=1"}, "asha-stratified:strata='1'"),
        ({"scheduler": "asha-stratified:at=late"}, "asha-stratified:at='late'"),
        ({"scheduler": AshaStratified(by=lambda *_: float("nan"))}, "it is nan for some"),
        ({"search": "darts", "space": "micro64"}, "use scheduler='asha' or 'fifo'"),
    ],
)
def test_what_cannot_be_stratified_is_refused_at_once(arguments, message):
    with pytest.raises(InvalidArgument, match=message):
        resolve({"name": "x", "scheduler": "asha-stratified", **arguments})


def test_a_property_of_the_users_own_is_part_of_the_configuration():
    plan = resolve({"name": "x", "scheduler": AshaStratified(by=first_choice, strata=3)})
    assert plan.config.scheduler.startswith(
        "asha-stratified:grace=1,reduction=4,variant=stopping,by=function-first_choice-"
    )
