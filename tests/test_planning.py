"""What is planned for a time: the rules as such, and the time that is left."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ray.exceptions import WorkerCrashedError

import search_spaces
from raynas import Asha, Fifo, InvalidArgument, RandomSearch, cluster
from raynas.cluster import Resources
from raynas.config.config import Config, validated
from raynas.config.resolve import resolve
from raynas.planning import allotment
from raynas.planning.allotment import search_is_over, training_job
from raynas.planning.defaults import (
    CLOSING,
    KNOWN,
    OPENING,
    RECIPE,
    RETRAIN_EPOCHS,
    SELECT_EPOCHS,
    outline,
    space_for,
)
from raynas.planning.facts import Dataset, Hardware, Speed
from raynas.planning.planning import in_time
from raynas.record.events import (
    Allotted,
    Exhausted,
    Planned,
    Session,
    Status,
    Suggested,
)
from raynas.record.history import History
from raynas.record.journal import Journal
from raynas.record.parsing import from_json
from raynas.search.search import Search
from raynas.searchers import CONSTRAINTS, SEARCHERS
from search_spaces.naming import construct
from trials import EVALUATORS
from trials.pace import Pace, Work

budgets = st.floats(30, 30 * 86400)
works = st.builds(
    Work,
    macs=st.integers(10**4, 10**9),
    activations=st.integers(10**3, 10**7),
    layers=st.integers(1, 200),
)
datasets = st.builds(
    Dataset,
    train=st.integers(20, 10**6),
    validation=st.integers(10, 10**5),
    input_shape=st.tuples(st.integers(1, 4), st.integers(8, 224), st.integers(8, 224)),
)
machines = st.builds(Hardware, slots=st.integers(1, 1000), cpus=st.integers(1, 256))
speeds = st.builds(
    Speed,
    pace=st.builds(
        Pace,
        mac=st.floats(1e-14, 1e-9),
        activation=st.floats(0, 1e-8),
        layer=st.floats(0, 1e-3),
    ),
    precision=st.sampled_from([None, "float32", "bfloat16"]),
    alone=st.floats(1, 64),
    works=st.lists(works, min_size=1, max_size=31).map(
        lambda drawn: sorted(drawn, key=lambda work: (work.macs, work.activations))
    ),
    known=st.just({})
    | st.just({text: Work(10 ** (5 + n), 10**5, 9) for n, text in enumerate(KNOWN)}),
    batch_size=st.integers(1, 512),
)


def planned(seconds, dataset, hardware, speed, **said):
    """What is done in a time, and how long: (outline, seconds of an evaluation, evaluations)."""
    space = space_for(dataset).value
    made = outline(seconds, dataset, hardware, speed, RECIPE, space, **said)
    trained = construct("evaluate", made.arguments["evaluate"], EVALUATORS)
    values = {choice.argument: choice.value for choice in made.choices}
    evaluations = int(values.get("samples", "1").removeprefix("about "))
    return made, trained.epoch_seconds * made.arguments["epochs"], evaluations


class TestOutline:
    @settings(deadline=None)
    @given(budgets, datasets, machines, speeds)
    def test_arguments_are_valid_and_said_with_a_reason(self, seconds, dataset, hardware, speed):
        made, _, evaluations = planned(seconds, dataset, hardware, speed)
        arguments = made.arguments
        config = validated(arguments)
        assert 1 <= config.select <= evaluations <= config.samples
        search_spaces.get(config.space)
        construct("search", config.search, SEARCHERS).check(search_spaces.get(config.space))
        assert Pace.parse(construct("evaluate", config.evaluate, EVALUATORS).pace)
        assert construct("evaluate", config.evaluate, EVALUATORS).precision == speed.precision
        if config.constraint is not None:
            networks = [*speed.works, *speed.known.values()]
            limit = construct("constraint", config.constraint, CONSTRAINTS)
            assert any(limit.least <= work.macs <= limit.most for work in networks)
        assert sum((made.shares.search, made.shares.select, made.shares.retrain)) == (
            pytest.approx(1)
        )
        assert min(made.shares.search, made.shares.select, made.shares.retrain) >= 0
        assert all(choice.value and choice.why for choice in made.choices)
        assert made.alone == speed.alone

    @settings(deadline=None)
    @given(budgets, datasets, machines, speeds)
    def test_it_can_be_done_in_the_time(self, seconds, dataset, hardware, speed):
        """Unless the time is not enough for a few steps of each of a few architectures."""
        made, one, evaluations = planned(seconds, dataset, hardware, speed)
        left = max(seconds - OPENING - CLOSING, seconds / 2)
        assume(evaluations > 1)  # else nothing is compared
        assume(one > 1.01 * speed.typical * speed.batch_size * 30)
        searching = left * made.shares.search
        assert one <= 1.01 * searching
        assert evaluations * one <= 1.01 * searching * hardware.slots
        if made.arguments["select"] > 1:
            rounds = -(-made.arguments["select"] // hardware.slots)
            assert rounds * 2 * one <= 1.02 * left * made.shares.select

    @settings(deadline=None)
    @given(budgets, st.floats(1, 100), datasets, machines, speeds)
    def test_more_time_is_never_less_search(self, seconds, times, dataset, hardware, speed):
        short, one, few = planned(seconds, dataset, hardware, speed)
        long, other, many = planned(seconds * times, dataset, hardware, speed)
        assert other >= 0.98 * one  # lengths of epochs are rounded to three digits
        assert many >= few
        assert long.shares.search >= short.shares.search - 1e-9

    @settings(deadline=None)
    @given(budgets, datasets, machines, speeds, st.integers(1, 50))
    def test_epochs_that_are_said_divide_an_evaluation(
        self, seconds, dataset, hardware, speed, epochs
    ):
        made, _, evaluations = planned(seconds, dataset, hardware, speed, epochs=epochs)
        assume(evaluations > 1)
        assert made.arguments["epochs"] == epochs
        assert validated(made.arguments).epochs == epochs

    def test_two_minutes_of_a_small_data_set_by_hand(self):
        dataset = Dataset(1000, 200, (1, 8, 8))
        speed = Speed(Pace(1e-9, 0, 0), None, 2.0, [Work(10**5, 1, 1)], {}, 32)
        made, one, evaluations = planned(120, dataset, Hardware(2, 2), speed)
        # 90 s are left, in which two cores show 1,200 images 1,500 times, .1 ms each: 8.7 times as
        # often as suits them, and the logarithm of that is .76 of the way from 1.5 to 15
        assert str(made.shares) == "0.34/0.20/0.46"
        assert one == pytest.approx(4.0, rel=0.01)  # 40 passes, which are 1250 steps
        # 2 x 30.6 s, and the judging of 3 x 200 images
        assert evaluations == int(61.3 / (4.0 + 3 * 200 * 0.3 * 1e-4))
        assert made.arguments["samples"] == 23
        assert made.arguments["select"] == 3  # a quarter of 15
        assert made.arguments["constraint"] is None
        assert made.longest == {"select": pytest.approx(40), "retrain": pytest.approx(48)}

    @pytest.mark.parametrize(
        ("images", "window"),
        [
            # 404 s of retraining, 400 passes of the middle size, 189 suit; 10^7 sees the images 40
            # times, 10^5 4,000 times, which is further off
            (1_000, "least=1000000,most=10000000"),
            # 2,699 s, 19 passes suit: 10^6 sees them 27 times, 10^7 2.7 times, 10^5 270 times
            (100_000, "least=1000000,most=10000000"),
            (1_000_000_000, "least=10000,most=100000"),  # all others are too large
            (10, "least=10000000,most=100000000"),  # all others are too small
        ],
    )
    def test_sizes_that_suit_the_retraining_are_searched(self, images, window):
        sizes = [10**4, 10**5, 10**6, 10**7, 10**8]
        speed = Speed(Pace(1e-9, 0, 0), None, 1.0, [Work(size, 1, 1) for size in sizes], {}, 32)
        dataset = Dataset(images, 10, (1, 8, 8))
        made, _, _ = planned(3600, dataset, Hardware(1, 1), speed)
        assert made.arguments["constraint"] == f"limit:of=macs,{window}"

    def test_the_limits_are_sizes_that_there_are_to_the_last_digit(self):
        sizes = [123_456_789, 123_456_788, 123_456_787, 10**12]
        works = [Work(size, 1, 1) for size in sorted(sizes)]
        speed = Speed(Pace(1e-9, 0, 0), None, 1.0, works, {}, 32)
        dataset = Dataset(1000, 10, (1, 8, 8))
        made, _, _ = planned(36_000, dataset, Hardware(1, 1), speed)
        assert made.arguments["constraint"] == "limit:of=macs,least=123456787,most=123456789"

    def test_where_the_time_is_too_short_a_known_architecture_gets_all_of_it(self):
        dataset = Dataset(100_000, 10_000, (3, 32, 32))
        known = {text: Work(10 ** (5 + n), 1, 1) for n, text in enumerate(KNOWN)}
        speed = Speed(Pace(1e-9, 0, 0), None, 1.0, [Work(10**8, 1, 1)], known, 32)
        made, _, evaluations = planned(120, dataset, Hardware(2, 2), speed)
        assert (evaluations, made.arguments["samples"], made.arguments["select"]) == (1, 1, 1)
        assert made.arguments["constraint"] is None
        # 88 s for 110,000 images: the narrowest sees them 8 times, the next 0.8 times
        assert made.arguments["search"].endswith(f",first={KNOWN[0]}")
        assert made.shares.retrain > 0.9

    def test_where_more_than_one_is_asked_for_there_is_a_search(self):
        dataset = Dataset(40_000, 5000, (3, 32, 32))
        works = [Work(10**7, 10**5, 9)] * 5
        speed = Speed(Pace(1e-11, 0.0, 0.0), None, 1.0, works, {KNOWN[0]: works[0]}, 64)
        none, _, _ = planned(60, dataset, Hardware(1, 1), speed)
        some, _, _ = planned(60, dataset, Hardware(1, 1), speed, fewest=6)
        assert none.arguments["samples"] == 1
        assert some.arguments["samples"] >= 6
        assert some.shares.search > none.shares.search


class TestDurations:
    @pytest.mark.parametrize(
        ("given", "text", "seconds"),
        [
            ("20min", "20min", 1200), ("1.5h", "1.5h", 5400), ("90s", "90s", 90), (90, "90s", 90),
            ("90", "90", 90), (90.5, "90.5s", 90.5), ("2d", "2d", 172_800),
            (" 20 min ", "20 min", 1200), (2_000_000, "2000000s", 2e6),
        ],
    )  # fmt: skip
    def test_their_text(self, given, text, seconds):
        config = validated({"time_budget": given})
        assert (config.time_budget, config.seconds) == (text, seconds)
        assert validated(config.model_dump()) == config  # as run.yaml gives it back

    def test_none_is_none(self):
        assert Config().seconds is None

    @pytest.mark.parametrize(
        ("value", "remedy"),
        [
            ("20 minutes", "such as 20min"), ("1m", "such as 20min"), ("", "such as 20min"),
            (-5, "such as 20min"), (float("nan"), "such as 20min"), ("-1h", "such as 20min"),
            (float("inf"), "such as 20min"), ("1h30", "such as 20min"), (0, "at least 30 s"),
            ("10s", "at least 30 s"), ("0h", "at least 30 s"),
        ],
    )  # fmt: skip
    def test_others_are_refused(self, value, remedy):
        refusal = re.escape(f"time_budget={value!r}: ") + f".*{remedy}"
        with pytest.raises(InvalidArgument, match=refusal):
            validated({"time_budget": value})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"evaluate": "proxy"}, "evaluate='train' .* not by 'proxy"),
        ({"evaluate": "supernet", "space": "nasbench201"}, "evaluate='train' .* not by 'supernet"),
        ({"search": "darts", "space": "darts"}, "search='gradients:rule=darts.* use search='auto'"),
        ({"search": "adanet", "space": "dense"}, "search='adanet.* use search='auto'"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_anything_starts(tmp_path, said, message):
    arguments = {
        "data": "digits:fraction=0.3", "time_budget": "20min", "storage_path": tmp_path, **said,
    }  # fmt: skip
    with pytest.raises(InvalidArgument, match=f"time_budget=20min: .*{message}"):
        in_time(resolve(arguments), arguments)
    assert not list(tmp_path.iterdir())


def test_without_a_budget_nothing_is_planned(tmp_path):
    arguments = {"data": "digits:fraction=0.3", "storage_path": tmp_path}
    plan = resolve(arguments)
    assert in_time(plan, arguments) == (plan, None)
    assert (plan.config.samples, plan.config.epochs, plan.config.select) == (32, 4, 1)


PLANNED = Planned(
    seconds=120.0, inner=90.0, shares=[0.4, 0.2, 0.4], closing=15.0, cpus=2, alone=1.5,
    epochs={"select": SELECT_EPOCHS, "retrain": RETRAIN_EPOCHS},
    longest={"select": 1000.0, "retrain": 1000.0}, choices=[],
)  # fmt: skip


class TestTimeSpent:
    def test_it_is_that_of_all_earlier_drivers(self):
        history = History([])
        for event in (
            Session(time=100.0), Suggested(0, "a", time=110.0), Session(time=5000.0),
            Suggested(1, "b", time=5007.0), Session(time=9000.0),
        ):  # fmt: skip
            history.apply(event)
        assert history.earlier_seconds == 17.0
        history.apply(Suggested(2, "c", time=9100.0))
        assert history.earlier_seconds == 17.0  # the last one's own clock counts it
        history.apply(Session(time=10_000.0))
        assert history.earlier_seconds == 117.0

    def test_a_plan_that_comes_before_the_first_driver_counts_nothing(self):
        events = [
            replace(PLANNED, time=1e9),
            Session(time=1e9 + 5),
            Suggested(0, "a", time=1e9 + 9),
        ]
        history = History(events)
        assert (history.planned, history.earlier_seconds) == (PLANNED, 0.0)
        history.apply(Session(time=2e9))
        assert history.earlier_seconds == 4.0

    def test_a_new_run_has_none(self):
        assert History([Session(time=1e9), Suggested(0, "a", time=1e9 + 5)]).earlier_seconds == 0

    def test_events_of_the_plan_are_read_as_they_are_written(self):
        history = History([])
        for event in (PLANNED, Allotted("search", 40.0), Allotted("retrain", 12.5)):
            again = from_json(event.to_json())
            assert again == event
            history.apply(again)
        assert history.planned == PLANNED
        assert history.allotted == {"search": 40.0, "retrain": 12.5}


class Clocked:
    """What `allotment` needs of a session."""

    def __init__(self, spent, evaluations=3, took=1.0, slots=1):
        self.spent, self.history = spent, History([PLANNED])
        self.plan = SimpleNamespace(
            evaluator=self, epochs=3, retrain_epochs=3, retrain_workers=1, space=None
        )
        self.data = None
        self.resources = Resources(1, 0, slots, slots)
        self.epoch_length = 2.0
        done = SimpleNamespace(epochs=3, history=[{"train_seconds": 6.0 * took}])
        self.search = SimpleNamespace(evaluations=[done] * evaluations)

    def lasting(self, seconds):
        return seconds

    def record(self, event):
        self.history.apply(event)

    def job_of(self, epochs, evaluator=None, threads=None):
        return epochs, evaluator, threads


class TestTimeLeft:
    @pytest.fixture(autouse=True)
    def nodes(self, monkeypatch):
        """A cluster of one node; its cores can be changed."""
        node = {"Alive": True, "Resources": {"CPU": 2.0}}
        monkeypatch.setattr(cluster.ray, "nodes", lambda: [node])
        return [node]

    def test_the_retraining_asks_for_no_more_cores_than_a_node_has_now(self, nodes):
        session = Clocked(spent=60.0)
        nodes[0]["Resources"]["CPU"] = 1.0  # two were planned, on another machine perhaps
        assert training_job(session, "retrain")[2] == 1

    def test_a_retraining_of_several_workers_has_the_cores_of_a_trial_for_each(self):
        session = Clocked(spent=60.0)
        assert training_job(session, "retrain")[2] == 2
        session.plan.retrain_workers = 2
        assert training_job(session, "retrain")[2] == 1

    def test_where_the_measuring_fails_the_search_tells_how_slow_it_is(self, monkeypatch):
        def rate(*given):
            raise WorkerCrashedError

        monkeypatch.setattr(allotment, "rate", rate)
        measured, told = Clocked(spent=60.0), Clocked(spent=60.0)
        training_job(measured, "retrain", search_spaces.Architecture("convnet", (0,)))
        training_job(told, "retrain")
        assert measured.history.allotted == told.history.allotted

    def test_the_search_is_over_when_half_an_evaluation_no_longer_fits(self):
        session = Clocked(spent=40.0)
        assert not search_is_over(session)  # it has no end yet
        session.record(Allotted("search", 50.0))
        assert not search_is_over(session)
        session.spent = 46.9
        assert not search_is_over(session)
        session.spent = 47.1
        assert search_is_over(session)

    def test_three_are_evaluated_however_late_it_is(self):
        session = Clocked(spent=1e6, evaluations=2)
        session.record(Allotted("search", 50.0))
        assert not search_is_over(session)

    def test_the_retraining_gets_what_is_left(self, monkeypatch):
        asked = []
        monkeypatch.setattr(allotment, "rate", lambda *given: asked.append(given) or 1.5)
        monkeypatch.setattr(allotment, "largest_node", lambda gpus: 16)
        session, arch = Clocked(spent=60.0), search_spaces.Architecture("convnet", (0,))
        job = training_job(session, "retrain", arch)
        assert [given[1] for given in asked] == [arch]
        assert asked[0][-1].cpus == 2  # measured with all cores of a node
        # 45 s but for the closing, .95 of them, and it is 1.5 times as fast as the pace
        assert session.history.allotted["retrain"] == pytest.approx(45 * 0.95 * 1.5, rel=1e-3)
        assert job == (
            RETRAIN_EPOCHS, session.history.allotted["retrain"] / RETRAIN_EPOCHS, 2,
        )  # fmt: skip
        session.spent = 90.0
        assert training_job(session, "retrain", arch) == job  # also when the run goes on later

    @pytest.mark.parametrize(("trainings", "slots", "rounds"), [(1, 1, 1), (4, 2, 2), (3, 4, 1)])
    def test_the_last_decision_divides_its_share(self, trainings, slots, rounds):
        session = Clocked(spent=60.0, slots=slots)
        epochs, _, threads = training_job(session, "select", trainings=trainings)
        wanted = 45 * 0.95 * (0.2 / 0.6) / rounds
        assert session.history.allotted["select"] == pytest.approx(wanted, rel=1e-3)
        assert (epochs, threads) == (SELECT_EPOCHS, None)

    def test_on_a_machine_that_is_slower_than_it_was_trainings_are_shorter(self):
        fast, slow = Clocked(spent=60.0), Clocked(spent=60.0, took=2.0)
        for session in (fast, slow):
            training_job(session, "retrain")
        ratio = fast.history.allotted["retrain"] / slow.history.allotted["retrain"]
        assert ratio == pytest.approx(2.0, rel=1e-3)

    def test_however_late_it_is_a_share_is_left(self):
        session = Clocked(spent=1e6)
        training_job(session, "retrain")
        assert session.history.allotted["retrain"] > 0.2 * 0.6 * 90

    def test_no_training_is_longer_than_what_it_gains_by(self):
        session = Clocked(spent=0.0)
        session.history.planned.longest["retrain"] = 7.0
        try:
            training_job(session, "retrain")
        finally:
            session.history.planned.longest["retrain"] = 1000.0
        assert session.history.allotted["retrain"] == 7.0

    def test_without_a_budget_there_is_nothing_to_divide(self):
        session = Clocked(spent=60.0)
        session.history = History([])
        assert training_job(session, "retrain") == (3, None, None)
        assert not session.history.allotted


SPACE = search_spaces.get("nasbench201")


def searching(folder, scheduler=None):
    return Search(SPACE, RandomSearch(), scheduler or Fifo(), 12, 2, 0, Journal(folder))


def evaluate(search, evaluation):
    for _ in range(search.epochs - evaluation.epochs):
        if not search.report(evaluation.index, {"val_accuracy": 0.1 + 0.01 * evaluation.index}):
            return search.finish(evaluation.index, Status.STOPPED)
    return search.finish(evaluation.index, Status.COMPLETED)


class TestExpired:
    def test_it_ends_a_search_and_its_replay(self, tmp_path):
        search = searching(tmp_path)
        search.begin()
        for _ in range(4):
            evaluate(search, search.suggest())
        late = search.suggest()
        search.expired = lambda: True
        assert not search.exhausted  # nothing is cut off, and nothing said yet
        assert search.suggest() is None
        assert search.exhausted
        evaluate(search, late)
        assert search.finished == len(search.evaluations) == 5
        search.journal.close()
        again = searching(tmp_path)  # which does not know that the time is over
        again.begin()
        assert again.exhausted
        assert again.suggest() is None
        assert [e.notation for e in again.evaluations] == [e.notation for e in search.evaluations]
        assert sum(isinstance(event, Exhausted) for event in again.journal.events) == 1

    def test_what_was_begun_goes_on_after_a_kill(self, tmp_path):
        search = searching(tmp_path)
        search.begin()
        begun = search.suggest()
        search.report(begun.index, {"val_accuracy": 0.2})
        search.journal.close()
        again = searching(tmp_path)
        again.expired = lambda: True
        again.begin()
        evaluation = again.suggest()
        assert (evaluation.index, evaluation.epochs) == (begun.index, 1)
        evaluate(again, evaluation)
        assert again.suggest() is None
        assert (len(again.evaluations), again.exhausted) == (1, True)

    def test_nothing_is_promoted_any_more(self, tmp_path):
        search = searching(tmp_path, Asha(reduction=2, variant="promotion"))
        search.begin()
        for _ in range(4):
            evaluate(search, search.suggest())
        assert search._promotable() is not None
        search.expired = lambda: True
        assert search.suggest() is None
        assert search.exhausted
        assert search.best is not None
        search.journal.close()

    def test_a_search_that_has_evaluated_all_says_nothing(self, tmp_path):
        search = searching(tmp_path)
        search.begin()
        for _ in range(12):
            evaluate(search, search.suggest())
        search.expired = lambda: True
        assert search.suggest() is None
        search.journal.close()
        assert '"exhausted"' not in search.journal.path.read_text()
