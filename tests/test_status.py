"""`raynas status`: how far a run is, from its folder alone."""

import json
import subprocess
import sys
import time

import pytest
import yaml
from typer.testing import CliRunner

from raynas.cli import app
from raynas.config.config import Config
from raynas.record.events import (
    Complete,
    Finished,
    Placed,
    Reported,
    Retrained,
    Retraining,
    Session,
    Status,
    Suggested,
)
from raynas.record.history import History
from raynas.record.journal import Journal, is_locked
from raynas.reports.progress import Progress

CONFIG = {"samples": 10, "epochs": 4, "retrain_epochs": 6}
#: two trials of one core and half a GPU: one ended after 10 s, one in its second epoch
EVENTS = [
    Session(time=100.0),
    Suggested(0, "a", time=101.0), Placed("evaluation", 0, "one", 1, 0.5, time=102.0),
    Suggested(1, "b", time=103.0), Placed("evaluation", 1, "two", 1, 0.5, time=104.0),
    Reported(0, {"val_accuracy": 0.5}, time=106.0),
    Reported(1, {"val_accuracy": 0.6}, time=109.0),
    Finished(0, Status.STOPPED, time=112.0),
]  # fmt: skip


def look(events=EVENTS, running=True, now=124.0):
    return Progress(events, CONFIG, running, now)


def test_what_runs_and_where():
    (row,) = look().at_work
    assert row == {
        "work": "evaluation", "number": 1, "node": "two", "seconds": 20.0, "epochs": 1, "of": 4,
        "architecture": "b",
    }  # fmt: skip
    assert look(running=False).at_work == []


def test_evaluations_without_a_place_run_too():
    rows = look([*EVENTS, Suggested(2, "c", time=113.0)]).at_work
    assert [(row["number"], row["node"]) for row in rows] == [(1, "two"), (2, "")]


def test_hours_are_those_of_places():
    progress = look()
    assert progress.cpu_hours == pytest.approx((10 + 20) / 3600)
    assert progress.gpu_hours == pytest.approx((10 + 20) / 2 / 3600)
    stopped = look(running=False)  # what ran when the driver ended counts to its last event
    assert stopped.cpu_hours == pytest.approx((10 + 8) / 3600)


def test_a_trial_that_moves_or_goes_on_is_counted_where_it_is():
    events = [
        *EVENTS,
        Placed("evaluation", 1, "three", 2, 0.5, time=120.0),  # its worker died
        Session(time=1000.0),  # the driver was killed, and nothing ran for a while
        Placed("evaluation", 1, "one", 1, 0.5, time=1010.0),
        Finished(1, Status.COMPLETED, time=1015.0),
    ]
    costs = History(events).costs
    assert costs.cpu_seconds(2000.0) == 10 + 16 + 0 + 5
    assert not costs.places


@pytest.mark.parametrize(
    ("more", "stage"),
    [
        ([], "search"),
        ([Placed("select", 0, "", 1, 0)], "select"),
        ([Placed("retrain", 0, "", 1, 0)], "retrain"),
        ([Retraining(0, 1, {})], "retrain"),
        ([Retrained(0, {})], "export"),
        ([Retrained(0, {}), Complete(2)], "done"),
        ([Retrained(0, {}), Complete(2), Session()], "done"),
        ([Retrained(0, {}), Complete(2), Session(), Suggested(2, "c")], "search"),
    ],
)
def test_the_stage_is_that_of_the_last_event(more, stage):
    assert look([*EVENTS, *more]).stage == stage


def test_the_time_left_follows_from_the_pace():
    """One evaluation in 23 s of this driver; nine are left."""
    assert look().seconds_left == pytest.approx(9 * 23)
    assert look(running=False).seconds_left is None
    training = [
        *EVENTS, Placed("retrain", 0, "", 1, 0, time=200.0),
        *(Retraining(0, epoch, {}, time=200.0 + 10 * epoch) for epoch in (1, 2)),
    ]  # fmt: skip
    assert look(training, now=223.0).seconds_left == pytest.approx(4 * 10 - 3)


def test_failures_are_grouped_by_their_reason():
    events = list(EVENTS[:1])
    for index in range(8):
        reason = f"out of memory: {index} bytes" if index else "ValueError: x"
        events += [Suggested(index, "a"), Finished(index, Status.FAILED, reason)]
    first, second = look(events).failures
    assert (first["count"], first["evaluations"]) == (7, [1, 2, 3, 4, 5])
    assert (second["reason"], second["count"]) == ("ValueError: x", 1)


@pytest.fixture
def folder(tmp_path):
    """The folder of a run with a journal, not finished."""
    with Journal(tmp_path) as journal:
        for event in EVENTS:
            journal.append(event)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(Config(samples=10).model_dump()))
    return tmp_path


def status_of(folder, *arguments):
    answer = CliRunner().invoke(app, ["status", str(folder), *arguments])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_states_are_told_apart(folder):
    def state():
        return json.loads(status_of(folder, "--json"))["state"]

    assert state() == "stopped"
    with Journal(folder) as journal:
        assert state() == "running"
        journal.append(Complete(2))
    assert state() == "finished"


def test_it_names_what_a_user_asks_for(folder):
    with Journal(folder):
        text = status_of(folder)
    assert "running, search" in text
    assert "1 of 10 ended (1 running, 1 stopped)" in text
    assert "#1, epoch 1/4, on two" in text
    assert "#0, 50.00% val_accuracy" in text
    assert "GPU hours" in text
    assert "raynas resume" in status_of(folder)


def test_a_look_writes_nothing_and_disturbs_no_start(folder):
    """Also where the folder cannot be written, and while another process looks all the time."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    status_of(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    code = (
        "import sys; from pathlib import Path; from raynas.record.journal import is_locked\n"
        "print(flush=True)\nwhile True: is_locked(Path(sys.argv[1]))"
    )
    looking = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert looking.stdout is not None
    try:
        looking.stdout.readline()
        start = time.monotonic()
        for _ in range(20):
            Journal(folder).close()
        assert time.monotonic() - start < 60
    finally:
        looking.kill()
        looking.wait()
    assert not is_locked(folder)


def test_it_needs_neither_ray_nor_torch(folder):
    code = (
        "import sys; from raynas.cli import main\n"
        "try: main()\nexcept SystemExit as exit_: assert not exit_.code\n"
        "print([m for m in ('ray', 'torch', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "status", str(folder)], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
