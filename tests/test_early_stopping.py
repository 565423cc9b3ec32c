"""Early stopping that can be trusted: peers, chance, extrapolation, and what stopping has cost."""

import numpy as np
import pytest
from journal_lines import read_events

import raynas
import search_spaces
from raynas import Asha, Fifo, InvalidArgument, JournalError, RandomSearch
from raynas.config.resolve import resolve
from raynas.record.events import Status
from raynas.record.history import History
from raynas.record.journal import Journal
from raynas.reports import audit
from raynas.schedulers.extrapolation import PowerLaws
from raynas.search.search import Search

SPACE = search_spaces.get("nasbench201")
WORST_FIRST = [0.1 * i for i in range(1, 9)]


def started(epochs=9, **options):
    asha = Asha(**{"reduction": 3, **options})
    asha.start(epochs)
    return asha


def at_rung(asha, values, epochs=1, first=0):
    """Whether each goes on that reaches a rung in turn."""
    return [asha.report(first + i, epochs, value) for i, value in enumerate(values)]


def promoted(asha):
    return list(iter(asha.promote, None))


class TestPeers:
    def test_the_first_arrival_has_no_privilege_in_promotion(self):
        """Worst first: each that is the best so far goes on, with peers only from the sixth on."""
        for peers, expected in ((None, [[], [], [2], [3], [4], [5]]), (6, [[]] * 5 + [[5, 4]])):
            asha = started(variant="promotion", peers=peers)
            offered = []
            for i, value in enumerate(WORST_FIRST[:6]):
                assert not asha.report(i, 1, value)
                offered.append(promoted(asha))
            assert offered == expected

    def test_stopping_lets_all_go_on_until_there_are_enough_and_then_judges_them_again(self):
        asha = started(peers=6)
        assert at_rung(asha, WORST_FIRST[:6]) == [True] * 6  # the sixth is among the best 2
        assert not asha.report(0, 2, 0.99)  # at its next epoch: by what it was at the rung
        assert asha.report(5, 2, 0.0)
        assert [asha.report(i, 2, 0.99) for i in (1, 2, 3, 4)] == [False, False, False, True]
        assert asha.report(4, 5, 0.0)  # once judged, not again
        # the best of the two at the next rung, which needs 6 / 3 of them
        assert [asha.report(4, 3, 0.7), asha.report(5, 3, 0.6)] == [True, False]

    def test_later_rungs_need_as_many_fewer_as_reach_them(self):
        asha = started(epochs=30, peers=9, variant="promotion")
        assert asha._needed == pytest.approx({1: 9, 3: 3, 9: 1, 27: 1 / 3})

    def test_one_peer_is_no_peer(self):
        values = list(np.random.default_rng(0).random(50))
        for variant in ("stopping", "promotion"):
            one, none = started(peers=1, variant=variant), started(variant=variant)
            assert at_rung(one, values) == at_rung(none, values)
            assert promoted(one) == promoted(none)

    def test_fewer_samples_than_peers_are_refused_where_nothing_would_go_on(self):
        with pytest.raises(InvalidArgument, match=r"samples=5.*before 8 have reached"):
            resolve({"name": "x", "scheduler": "asha:variant=promotion,peers=8", "samples": 5})
        resolve({"name": "x", "scheduler": "asha:peers=8", "samples": 5})


class TestChance:
    def test_a_rung_decides_nothing_while_most_are_at_chance(self):
        asha = started(chance=0.12)
        # (the first two by rank: a rung is not called at chance by fewer than eta)
        assert at_rung(asha, [0.10, 0.09, 0.11, 0.3, 0.09]) == [True, False, True, True, True]
        # with five of nine above chance it decides again, and catches up with what it let pass
        assert at_rung(asha, [0.5, 0.4, 0.6, 0.2], first=5) == [True, True, True, False]
        assert not asha.report(2, 2, 0.9)
        assert asha.report(5, 2, 0.0)

    def test_in_promotion_all_that_wait_there_go_on(self):
        asha = started(variant="promotion", peers=4, chance=0.12)
        assert at_rung(asha, [0.1, 0.1, 0.3]) == [False] * 3
        assert promoted(asha) == []  # too few peers
        at_rung(asha, [0.1], first=3)
        assert sorted(promoted(asha)) == [0, 1, 2, 3]
        assert promoted(asha) == []
        at_rung(asha, [0.5], first=4)  # three of five are at chance
        assert promoted(asha) == [4]
        at_rung(asha, [0.6, 0.7, 0.2, 0.8], first=5)
        assert promoted(asha) == [8, 6, 5]

    def test_a_slow_starter_gets_its_time_only_where_it_is_given(self):
        """All learn nothing in the first epoch, and the last to start is the best in the end."""
        curves = [[0.1 + 0.001 * (9 - i), *[0.3 + 0.02 * i] * 8] for i in range(9)]
        best = {}
        for chance in (None, 0.15):
            asha = started(chance=chance, variant="promotion")
            reached = dict.fromkeys(range(9), 0)
            for index in range(9):
                reached[index] = 1
                asha.report(index, 1, curves[index][0])
            for index in iter(asha.promote, None):
                while asha.report(index, reached[index] + 1, curves[index][reached[index]]):
                    reached[index] += 1
                    if reached[index] == 8:
                        break
            furthest = max(reached.values())
            best[chance] = max(i for i in reached if reached[i] == furthest)
        assert best[None] < 8
        assert best[0.15] == 8


class TestExtrapolation:
    @pytest.mark.parametrize(("exponent", "error"), [(0.3, 0.03), (1.0, 0.02), (2.0, 0.003)])
    def test_finds_the_end_of_a_power_law(self, exponent, error):
        curve = [0.9 - 0.5 * t**-exponent for t in range(1, 101)]
        predicted = PowerLaws(100).predict(0, curve[:16])
        assert predicted == pytest.approx(curve[-1], abs=error)

    def test_little_is_left_as_it_is(self):
        laws = PowerLaws(100)
        assert laws.predict(0, [0.4]) == 0.4
        assert laws.predict(1, [0.4] * 5) == pytest.approx(0.4)
        assert laws.predict(2, [0.4, -np.inf]) == -np.inf
        assert PowerLaws(3).predict(0, [0.1, 0.2, 0.7]) == 0.7

    def test_falling_curves_are_not_extrapolated_upwards_nor_down(self):
        curve = [0.9, 0.8, 0.7, 0.6]
        assert 0.6 <= PowerLaws(100).predict(0, curve) <= 0.9

    def test_learns_from_the_other_curves_of_the_run(self):
        """Two values fit every law; how the run's other curves went says which one."""
        after = {}
        for exponent in (0.2, 2.0):
            laws = PowerLaws(100)
            for number in range(5):
                laws.predict(number, [0.9 - 0.5 * t**-exponent for t in range(1, 31)])
            after[exponent] = laws.predict(9, [0.4, 0.5])
        assert after[0.2] > after[2.0] + 0.05

    def test_a_steep_curve_passes_a_higher_one_that_is_flat(self):
        steep, flat = [0.3, 0.4, 0.48, 0.54], [0.55, 0.555, 0.558, 0.56]
        for extrapolate, winner in ((None, 1), (True, 0)):
            asha = started(epochs=16, grace=4, variant="promotion", extrapolate=extrapolate)
            for index, curve in enumerate([steep, flat, flat]):
                for epoch, value in enumerate(curve):
                    asha.report(index, epoch + 1, value)
            assert asha.promotable() == winner


def searching(folder, scheduler, samples=6, epochs=4):
    search = Search(SPACE, RandomSearch(), scheduler, samples, epochs, 0, Journal(folder))
    search.begin()
    return search


def drive(search, curves, stop_after=10**9):
    """Train one after the other until `stop_after` reports; return the number of reports."""
    reports = 0
    while (evaluation := search.suggest()) is not None:
        while True:
            if reports == stop_after:
                return reports
            value = curves[evaluation.index][evaluation.epochs]
            goes_on = search.report(evaluation.index, {"val_accuracy": value})
            reports += 1
            if evaluation.epochs == search.epochs or not goes_on:
                done = evaluation.epochs == search.epochs
                search.finish(evaluation.index, Status.COMPLETED if done else Status.STOPPED)
                break
    assert search.exhausted
    return reports


#: best first; #1 is the best of those that are stopped after one epoch
CURVES = [[0.6, 0.62, 0.64, 0.66]] + [[0.5 - 0.01 * i, 0.51, 0.52, 0.53] for i in range(1, 8)]
LATE = [CURVES[0], [0.49, 0.7, 0.75, 0.8], *CURVES[2:]]


class TestAudit:
    @pytest.mark.parametrize("variant", ["stopping", "promotion"])
    def test_the_best_of_those_stopped_earliest_goes_on_once(self, tmp_path, variant):
        search = searching(tmp_path, Asha(reduction=2, audit=True, variant=variant))
        drive(search, LATE)
        audited = [e["evaluation"] for e in read_events(tmp_path) if e["event"] == "audited"]
        stopped = {"stopping": 1, "promotion": 3}[variant]  # there two of the rest go on by rank
        assert audited == [stopped]
        assert search.history.audited == {stopped: 1}
        kinds = [e["event"] for e in read_events(tmp_path)]
        assert "suggested" not in kinds[kinds.index("audited") :]

    def test_what_was_stopped_wrongly_may_win(self, tmp_path):
        search = searching(tmp_path, Asha(reduction=2, audit=True))
        drive(search, LATE)
        assert (search.best.index, search.best.epochs) == (1, 4)

    @pytest.mark.parametrize("cut", range(14))
    def test_a_run_that_was_killed_audits_the_same(self, tmp_path, cut):
        whole, cut_short = tmp_path / "whole", tmp_path / "cut"
        drive(searching(whole, Asha(reduction=2, audit=True)), LATE)
        killed = searching(cut_short, Asha(reduction=2, audit=True))
        drive(killed, LATE, cut)
        killed.journal.close()
        drive(searching(cut_short, Asha(reduction=2, audit=True)), LATE)
        stories = [[{**e, "time": 0} for e in read_events(f)] for f in (whole, cut_short)]
        assert stories[0] == stories[1]

    def test_a_run_that_was_audited_can_be_extended(self, tmp_path):
        first = searching(tmp_path, Asha(reduction=2, audit=True))
        drive(first, CURVES)
        first.journal.close()
        search = searching(tmp_path, Asha(reduction=2, audit=True), samples=8)
        assert not search.exhausted
        drive(search, CURVES)
        assert len(search.evaluations) == 8
        assert len(search.history.audited) == 1

    def test_another_scheduler_than_then_is_refused(self, tmp_path):
        search = searching(tmp_path, Asha(reduction=2, audit=True))
        drive(search, CURVES)
        search.journal.close()
        with pytest.raises(JournalError, match="audits None where the journal has 1"):
            searching(tmp_path, Asha(reduction=2))

    def test_nothing_is_audited_where_nothing_was_stopped(self, tmp_path):
        search = searching(tmp_path, Asha(reduction=2, audit=True), samples=1)
        drive(search, CURVES)
        assert search.history.audited == {}
        assert Fifo().auditable() is None

    @pytest.mark.parametrize(
        ("curve", "place", "said"),
        [
            ([0.49, 0.7], 1, "would have cost the best"),
            ([0.49, 0.55], 2, "All that were let go on are ahead"),
        ],
    )
    def test_the_report_says_what_it_showed(self, tmp_path, curve, place, said):
        search = searching(tmp_path, Asha(reduction=2, audit=True))
        drive(search, [CURVES[0], [*curve, 0.71, 0.72], *CURVES[2:]])
        (found,) = audit.audits(search.history)
        assert (found.evaluation.index, found.stopped, found.before) == (1, 1, 0.49)
        assert found.place == place
        text = " ".join(audit.section(search.history).split())
        assert "#1, the best of those stopped earliest (after 1 epoch, at 49.00%)" in text
        assert said in text
        others = ("would have cost the best", "All that were let go on", "ahead of some")
        assert sum(other in text for other in others) == 1

    def test_the_report_says_where_it_failed_and_nothing_without_one(self, tmp_path):
        assert audit.section(History()) == ""
        search = searching(tmp_path, Asha(reduction=2, audit=True))
        while (evaluation := search.suggest()).index not in search.history.audited:
            value = CURVES[evaluation.index][evaluation.epochs]
            while search.report(evaluation.index, {"val_accuracy": value}):
                if evaluation.epochs == search.epochs:
                    break
            search.finish(evaluation.index, Status.STOPPED)
        search.finish(evaluation.index, Status.FAILED, "no memory <left>")
        text = audit.section(search.history)
        assert "came to nothing (no memory &lt;left&gt;)" in " ".join(text.split())


@pytest.mark.slow
def test_an_audited_trial_goes_on_from_where_it_was_stopped(local_ray, tmp_path):
    result = raynas.run(
        space="nasbench201:channels=2,cells=1", data="digits:fraction=0.2", search="random",
        scheduler="asha:reduction=2,audit=true", samples=5, epochs=4, gpus_per_trial=0,
        max_concurrent=1, storage_path=tmp_path, name="audited",
    )  # fmt: skip
    (audited,) = [e["evaluation"] for e in read_events(result.path) if e["event"] == "audited"]
    trial = result.trials.set_index("evaluation").loc[audited]
    assert trial["epochs"] in (2, 4)
    assert len(trial["curve"]) == trial["epochs"]
    report = " ".join((result.path / "report.html").read_text().split())
    assert f"To check early stopping, #{audited}, the best of those stopped earliest" in report
    assert "of the" in report.split("Early stopping, checked")[1].split("</p>")[0]


class TestConfiguration:
    def test_what_is_not_asked_for_is_not_spelled_out(self):
        """Otherwise runs of older versions could not be continued."""
        plain = resolve({"name": "x", "scheduler": "asha"}).config.scheduler
        assert plain == "asha:grace=1,reduction=4,variant=stopping"
        off = "asha:audit=false,extrapolate=false"
        assert resolve({"name": "x", "scheduler": off}).config.scheduler == plain
        asked = resolve({"name": "x", "scheduler": "asha:peers=8,chance=0.1,audit=true"})
        assert asked.config.scheduler == f"{plain},peers=8,chance=0.1,audit=True"

    @pytest.mark.parametrize("option", ["peers=0", "peers=x", "chance=high", "audit=perhaps"])
    def test_nonsense_is_refused(self, option):
        with pytest.raises(InvalidArgument, match=f"asha:{option.split('=')[0]}"):
            resolve({"name": "x", "scheduler": f"asha:{option}"})

    def test_places_of_older_options_are_as_before(self):
        plan = resolve({"name": "x", "scheduler": "asha-stratified:2,3,promotion,width"})
        assert plan.config.scheduler.startswith("asha-stratified:grace=2,reduction=3,variant=pro")
        assert "by=width" in plan.config.scheduler

    def test_searches_by_gradients_are_not_audited(self):
        arguments = {"search": "darts", "space": "micro64", "scheduler": "asha:audit=true"}
        with pytest.raises(InvalidArgument, match="not promoted or audited"):
            resolve({"name": "x", **arguments})
