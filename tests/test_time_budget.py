"""A run in a time: what it plans, that it keeps it, and that it goes on."""

import math
import os
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from journal_lines import read_events
from torch import nn

import raynas
from raynas import cluster
from raynas.config.config import PLANNED
from raynas.config.resolve import _without_planned, resolve
from raynas.planning import planning
from raynas.planning.defaults import KNOWN
from raynas.planning.facts import Speed
from raynas.planning.measuring import _works
from raynas.record.events import (
    Finished,
    Planned,
    Retrained,
    Selected,
    Session,
    Suggested,
)
from raynas.reports.cost import stage_seconds
from search_spaces import UserSpace
from search_spaces.convnet import ConvNet
from search_spaces.naming import construct
from trials import EVALUATORS
from trials.data import load
from trials.pace import Pace, Work

pytestmark = pytest.mark.usefixtures("local_ray")

DATA = "digits:fraction=0.1"
BUDGET = 30.0


@pytest.fixture(scope="module")
def timed(local_ray, tmp_path_factory):
    """A finished run of the shortest time, and how long it took."""
    folder = tmp_path_factory.mktemp("timed")
    start = time.monotonic()
    result = raynas.run(
        data=DATA, time_budget=BUDGET, samples=6, storage_path=folder, name="run",
        max_concurrent=1,
    )  # fmt: skip
    return result, time.monotonic() - start


def recorded(result, kind):
    return [event for event in read_events(result.path) if event["event"] == kind]


def test_it_ends_in_about_its_time(timed):
    """On a machine that does nothing else; the bound is for one on which others work."""
    _, taken = timed
    assert taken < 6 * BUDGET


def test_the_search_ends_in_its_share(timed):
    result, _ = timed
    (share,) = [e for e in recorded(result, "allotted") if e["stage"] == "search"]
    begun = recorded(result, "suggested")
    start = recorded(result, "session")[0]["time"]
    assert 3 <= len(begun) <= result.config["samples"]
    late = [e for e in begun[3:] if e["time"] - start > share["seconds"]]
    assert not late  # nothing was begun after the end of the search's time


def test_all_that_is_planned_stands_in_the_configuration(timed):
    result, _ = timed
    written = yaml.safe_load((result.path / "run.yaml").read_text())
    assert written["time_budget"] == "30s"
    assert all(written[key] is not None for key in PLANNED if key != "constraint")
    assert written["space"] == "convnet:stages=3"
    assert written["search"].startswith("auto:")
    recipe = construct("evaluate", written["evaluate"], EVALUATORS)
    assert Pace.parse(recipe.pace)
    assert recipe.epoch_seconds > 0


def test_the_journal_has_plan_and_shares(timed):
    result, _ = timed
    (plan,) = recorded(result, "planned")
    assert (plan["seconds"], sum(plan["shares"])) == (BUDGET, pytest.approx(1))
    assert {choice["argument"] for choice in plan["choices"]} >= {
        "space", "evaluate", "time", "epochs", "search", "scheduler", "select",
    }  # fmt: skip
    stages = [event["stage"] for event in recorded(result, "allotted")]
    assert stages in (["search", "select", "retrain"], ["search", "retrain"])
    assert len(recorded(result, "retraining")) == plan["epochs"]["retrain"]


def test_the_report_says_what_was_done_and_why(timed):
    result, _ = timed
    report = (result.path / "report.html").read_text()
    assert "What was done in the time, and why" in report
    assert "In a time budget of 30 s" in report
    for choice in recorded(result, "planned")[0]["choices"]:
        assert f"<th>{choice['argument']}</th><td><code>{choice['value']}</code></td>" in report
        assert choice["why"] in report.replace("&#39;", "'")
    assert "The time went to search (" in report


def test_a_run_without_a_budget_reports_no_plan(finished):
    assert "What was done in the time" not in (finished.path / "report.html").read_text()


def test_the_same_call_again_and_resume_do_nothing(timed):
    result, _ = timed
    events = read_events(result.path)
    again = raynas.run(
        data=DATA, time_budget=BUDGET, samples=6, storage_path=result.path.parent, name="run",
        max_concurrent=1,
    )  # fmt: skip
    resumed = raynas.resume(result.path)
    assert read_events(result.path) == events
    assert again.best.metrics == resumed.best.metrics == result.best.metrics


def test_another_budget_is_refused_by_name(timed):
    result, _ = timed
    with pytest.raises(raynas.ConfigurationMismatch, match="time_budget was '30s' and is now '1h'"):
        raynas.run(data=DATA, time_budget="1h", storage_path=result.path.parent, name="run")


def speed_of(space, recipe):
    """What measuring would tell of a space, were the machine always the same."""
    rng = np.random.default_rng(0)
    networks = [space.build(space.sample(rng), (1, 8, 8), 10) for _ in range(12)]
    works = sorted((Work.of(n, (1, 8, 8)) for n in networks), key=lambda work: work.macs)
    precision = recipe.precision or "float32"
    return Speed(Pace(1e-11, 5e-9, 2e-5), precision, 1.0, works, {}, recipe.batch_size)


class TestWhatIsSaid:
    @pytest.fixture
    def plan(self, tmp_path, monkeypatch):
        """What is planned for some arguments, without measuring: (plan, event, what was asked)."""

        def planned(**said):
            asked = {}

            def measured(space, data, recipe, *others):
                asked.update(space=space, recipe=recipe, known=others[-1])
                return speed_of(space, recipe)

            monkeypatch.setattr(planning, "measured", measured)
            said = {"data": DATA, "time_budget": "2min", "storage_path": tmp_path, **said}
            return *planning.in_time(resolve(said), said), asked

        return planned

    def test_nothing(self, plan):
        made, event, asked = plan()
        assert isinstance(event, Planned)
        assert asked["space"] == ConvNet()
        assert made.config.scheduler == "fifo"
        assert made.evaluator.epoch_length > 0

    @pytest.mark.parametrize(
        "said",
        [
            {"samples": 5, "select": 1},
            {"epochs": 7},
            {"select": 2},
            {"scheduler": "asha:grace=1,reduction=3,variant=stopping"},
            {"constraint": "limit:of=params,most=200000"},
            {"search": "random"},
            {"space": "nasbench201:channels=4,cells=1,dead_edges=False"},
        ],
    )
    def test_it_stays_as_it_is_said(self, plan, said):
        made, event, asked = plan(**said)
        for key, value in said.items():
            assert str(getattr(made.config, key)).startswith(str(value))
            assert not any(choice["argument"] == key for choice in event.choices)
        assert asked["space"] == made.space
        assert made.evaluator.epoch_length > 0  # the rest is planned all the same

    def test_options_of_the_training(self, plan):
        made, _, asked = plan(evaluate="train:batch_size=16,learning_rate=0.05")
        assert (made.evaluator.batch_size, made.evaluator.learning_rate) == (16, 0.05)
        assert (asked["recipe"].batch_size, asked["recipe"].learning_rate) == (16, 0.05)
        assert made.evaluator.warmup is None

    def test_given_architectures_are_evaluated_and_no_others(self, plan):
        given = ["c8-w1d0-w1d0-w1d0", "c16-w2d0-w1d0-w1d1"]
        made, _, _ = plan(architectures=given, space="convnet")
        assert (made.config.architectures, made.config.constraint) == (given, None)
        assert made.config.samples == 2

    @pytest.mark.parametrize(
        "said",
        [
            {"samples": 1},
            {"samples": 3},
            {"architectures": ["c8-w1d0-w1d0-w1d0"], "space": "convnet"},
        ],
    )
    def test_the_last_decision_is_among_no_more_than_are_evaluated(self, plan, said):
        made, _, _ = plan(**said, time_budget="2h")
        assert made.config.select <= made.config.samples

    @pytest.mark.parametrize(
        ("said", "fewest"),
        [
            ({"ensemble": "saep"}, 2),
            ({"ensemble": "saep:size=30"}, 30),
            ({"select": 32}, 32),
            ({"scheduler": "asha:variant=promotion,peers=30"}, 30),
        ],
    )
    def test_what_is_said_gets_the_evaluations_that_it_needs(self, plan, said, fewest):
        made, _, _ = plan(**said, time_budget="30s")
        assert made.config.samples >= fewest

    def test_the_epochs_of_full_trainings_are_as_said(self, plan):
        _, event, _ = plan(retrain_epochs=20)
        assert event.epochs == {"select": 20, "retrain": 20}

    def test_known_architectures_keep_to_a_constraint(self, plan):
        _, _, asked = plan(constraint="limit:of=params,most=100000")
        counts = [ConvNet().params(ConvNet().from_string(a), (1, 8, 8), 10) for a in KNOWN]
        few = [a for a, params in zip(KNOWN, counts, strict=True) if params <= 100000]
        assert list(asked["known"]) == few
        assert len(few) < len(KNOWN)

    def test_the_arguments_of_a_planned_run_plan_no_constraint(self, plan):
        """A run.yaml without one, of a run in which all sizes suited the time, say."""
        pace = "epoch_seconds=0.5,pace=1e-11/5e-09/2e-05"
        made, _, _ = plan(evaluate=f"train:{pace}", samples=5, select=1, space="convnet")
        assert made.config.constraint is None
        assert made.evaluator.epoch_length == 0.5


@pytest.mark.parametrize("said", ["train", "train:mixup=0.2", "train:precision=float32"])
def test_a_recipe_is_recognized_by_what_is_said_of_it(said):
    written = said + (":" if ":" not in said else ",")
    written += "epoch_seconds=0.5,pace=1e-11/5e-09/2e-05"
    if "precision" not in said:
        written += ",precision=bfloat16"
    assert _without_planned(written, said) == said
    assert _without_planned(written, "train:batch_size=7") != "train:batch_size=7"


def test_cores_are_those_of_a_node_that_has_the_gpus(monkeypatch):
    nodes = [
        {"Alive": True, "Resources": {"CPU": 64.0}},
        {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 128.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    assert (cluster.largest_node(), cluster.largest_node(1)) == (64, 16)


class TestNetworksThatFail:
    """A run records them as failed; measuring leaves them out."""

    @staticmethod
    def space(channels):
        def build(config, input_shape, num_classes):
            if config["channels"] > 8:
                raise ValueError("too wide")
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))

        return UserSpace("mine", {"channels": channels}, build)

    def test_some(self):
        archs = list(self.space((8, 16)))
        works = _works(self.space((8, 16)), archs, load(DATA))
        assert list(works) == archs[:1]

    def test_all(self):
        with pytest.raises(raynas.InvalidArgument, match="ValueError: too wide"):
            _works(self.space((16, 32)), list(self.space((16, 32))), load(DATA))


def test_the_work_of_a_network_is_never_nothing():
    work = Work.of(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (3, 8, 8))
    assert Pace(0.0, 0.0, 1e-5).seconds(work, 8) > 0


def test_stages_take_the_time_between_their_events():
    events = [
        Session(time=10.0), Suggested(0, "a", time=11.0), Finished(0, "completed", time=15.0),
        Session(time=100.0), Selected([0], [0], time=102.0), Retrained(0, {}, time=109.0),
    ]  # fmt: skip
    assert stage_seconds(events) == {"search": 5.0, "last decision": 2.0, "retraining": 7.0}


COMMAND = [
    sys.executable, "-m", "raynas", "run", "--data", DATA, "--time-budget", "90s",
    "--max-concurrent", "1", "--samples", "6",
]  # fmt: skip


def kill_at(folder, kind, count):
    """Start the command and kill -9 its driver once the journal has `count` events of a kind."""
    driver = subprocess.Popen(
        [*COMMAND, "--storage-path", folder.parent, "--name", folder.name],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while sum(e["event"] == kind for e in events_of(folder)) < count:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def events_of(folder):
    try:
        return read_events(folder)
    except raynas.StorageError:
        return []


@pytest.mark.slow  # three starts of the driver
@pytest.mark.timeout(900)
def test_killed_in_search_and_retraining_it_goes_on_with_what_is_left(tmp_path):
    folder = tmp_path / "killed"
    kill_at(folder, "finished", 2)
    first = events_of(folder)
    assert not any(e["event"] == "exhausted" for e in first), "killed too late"
    kill_at(folder, "retraining", 2)
    second = events_of(folder)
    assert second[: len(first)] == first
    assert not any(e["event"] == "retrained" for e in second), "killed too late"
    last = subprocess.run(
        [*COMMAND, "--storage-path", tmp_path, "--name", folder.name],
        capture_output=True, text=True,
    )  # fmt: skip
    assert last.returncode == 0, last.stderr[-3000:]
    events = read_events(folder)
    assert events[: len(second)] == second
    assert raynas.load(folder).finished
    kinds = [e["event"] for e in events]
    assert kinds.count("session") == 3
    assert kinds.count("planned") == 1  # measured and planned once, whatever the machine does then
    stages = [e["stage"] for e in events if e["event"] == "allotted"]
    assert len(set(stages)) == len(stages)  # and each share given once
    epochs = [e["epoch"] for e in events if e["event"] == "retraining"]
    assert epochs == list(range(1, 7))
    # how fast the winner trains is measured anew: only roughly what the speed of the search makes
    assert allotted(events, "retrain") <= 3 * share_of_retraining(folder, events)


def allotted(events, stage):
    (event,) = [e for e in events if e["event"] == "allotted" and e["stage"] == stage]
    return event["seconds"]


def share_of_retraining(folder, events):
    """What the retraining may get, from the times of the journal: what all drivers spent counts."""
    decided = next(i for i, e in enumerate(events) if e.get("stage") == "retrain")
    spent, start, before = 0.0, events[0]["time"], events[0]["time"]
    for event in events[: decided + 1]:
        if event["event"] == "session":
            spent, start = spent + before - start, event["time"]
        before = event["time"]
    spent += before - start
    (plan,) = [e for e in events if e["event"] == "planned"]
    least = 0.25 * sum(plan["shares"][1:]) * plan["inner"]
    left = max(plan["seconds"] - plan["closing"] - spent, least)
    result = raynas.load(folder)
    recipe = construct("evaluate", result.config["evaluate"], EVALUATORS)
    slowness = statistics.median(
        e.history[-1]["train_seconds"] / (e.epochs * recipe.epoch_seconds)
        for e in result.history.evaluations
    )
    return 0.95 * left * plan["alone"] / max(0.5, slowness)
