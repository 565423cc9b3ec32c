"""The driver is killed, again and again; the same command finishes the search."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from journal_lines import read_events

import raynas
import search_spaces
from raynas import Asha, Evolution
from raynas.record.journal import Journal
from raynas.search.search import Search

COMMAND = [
    sys.executable, "-m", "raynas", "run", "--space", "nasbench201:channels=4,cells=1",
    "--data", "digits", "--search", "evolution:population=4,sample=2",
    "--scheduler", "asha:reduction=2", "--samples", "14", "--epochs", "4", "--seed", "3",
]  # fmt: skip
KILLS = 5


def events(folder):
    try:
        return read_events(folder)
    except raynas.StorageError:
        return []


def kill_after_some_events(folder, rng):
    """Start the command and kill -9 its driver a moment after a few new events."""
    before = len(events(folder))
    driver = subprocess.Popen(
        [*COMMAND, "--storage-path", folder.parent, "--name", folder.name],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wanted = before + rng.randint(3, 9)
    deadline = time.monotonic() + 90
    while len(events(folder)) < wanted and driver.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.3))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    return events(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_five_times_nothing_is_lost_or_repeated(tmp_path):
    folder, rng = tmp_path / "killed", random.Random(time.time())
    seen = []
    for _ in range(KILLS):
        now = kill_after_some_events(folder, rng)
        assert now[: len(seen)] == seen  # what was recorded stays, in place
        seen = now
    assert not any(e["event"] == "complete" for e in seen), "killed too late to show anything"
    rungs = rungs_of(folder)
    last = subprocess.run(
        [*COMMAND, "--storage-path", tmp_path, "--name", folder.name],
        capture_output=True, text=True,
    )  # fmt: skip
    assert last.returncode == 0, last.stderr[-3000:]
    after = read_events(folder)
    assert after[: len(seen)] == seen
    result = raynas.load(folder)
    assert len(result.trials) == 14
    assert set(result.trials["status"]) <= {"completed", "stopped"}
    finished = [e["evaluation"] for e in after if e["event"] == "finished"]
    assert sorted(finished) == list(range(14))  # each ended once
    for index, epochs in result.trials["epochs"].items():
        reported = [e for e in after if e["event"] == "reported" and e["evaluation"] == index]
        assert len(reported) == epochs <= 4  # no epoch was recorded twice
    for epochs, values in rungs.items():  # what stood at a rung still stands there
        final = rungs_of(folder)[epochs]
        assert all(final.count(v) >= values.count(v) for v in values)
    assert result.finished
    assert (folder / "best" / "model.pt2").exists()


FINAL = [
    sys.executable, "-m", "raynas", "run", "--space", "nasbench201:channels=4,cells=1",
    "--data", "digits:fraction=0.5", "--search", "random", "--scheduler", "fifo",
    "--samples", "2", "--epochs", "1", "--retrain-epochs", "8", "--max-concurrent", "1",
]  # fmt: skip


def final_command(folder):
    return [*FINAL, "--storage-path", folder.parent, "--name", folder.name]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(final_command(folder), capture_output=True, check=True)
    return folder


def kill_at(folder, command, kind, count):
    """Start a command and kill -9 its driver once the journal has `count` events of a kind."""
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while sum(e["event"] == kind for e in events(folder)) < count:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def interrupt_at(folder, command, kind):
    """Press Ctrl-C once where the journal has an event of a kind; return status and what it said.

    As in a terminal, all processes of the group get the signal.
    """
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 180
    while not any(e["event"] == kind for e in events(folder)):
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(driver.pid, signal.SIGINT)
    try:
        said, _ = driver.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        driver.send_signal(signal.SIGABRT)  # which prints where it hangs
        said, _ = driver.communicate()
    finally:
        driver.kill()
    return driver.returncode, said


@pytest.mark.timeout(600)
def test_one_interruption_ends_a_run_and_says_how_to_go_on(tmp_path):
    """First in the search, then in the retraining, which follows a search in the same process."""
    folder = tmp_path / "interrupted"
    command = [*final_command(folder), "--retrain-epochs", "400"]
    for kind, later in ("suggested", "retraining"), ("retraining", "retrained"):
        status, said = interrupt_at(folder, command, kind)
        assert status == 130, said
        assert said.splitlines()[-1] == (
            "raynas: interrupted. The same command continues the run."
        ), said
        assert "Traceback" not in said
        assert not any(e["event"] == later for e in events(folder))


def truncate(folder, pattern):
    files = list(folder.glob(f"checkpoints/{pattern}"))
    assert files
    for file in files:
        os.truncate(file, file.stat().st_size // 2)


@pytest.mark.slow  # three runs
@pytest.mark.parametrize("damaged", [False, True])
def test_killed_in_the_retraining(tmp_path, uninterrupted, damaged):
    folder = tmp_path / "killed"
    kill_at(folder, final_command(folder), "retraining", 2)
    assert not any(e["event"] == "retrained" for e in events(folder)), "killed too late"
    if damaged:
        time.sleep(2)  # the worker notices and ends
        truncate(folder, "final-*.pt")
    again = subprocess.run(final_command(folder), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    whole, killed = raynas.load(uninterrupted), raynas.load(folder)
    assert killed.best.architecture == whole.best.architecture
    for name in ("test_accuracy", "test_loss", "val_accuracy"):
        assert killed.best.metrics[name] == whole.best.metrics[name]
    epochs = [e["epoch"] for e in events(folder) if e["event"] == "retraining"]
    assert epochs == list(range(1, 9))
    assert not any(e["event"] == "retraining_failed" for e in events(folder))


@pytest.mark.slow
def test_damaged_checkpoints_are_trained_anew(tmp_path):
    folder = tmp_path / "damaged"
    command = [*COMMAND, "--storage-path", tmp_path, "--name", folder.name, "--samples", "4"]
    kill_at(folder, command, "reported", 3)
    time.sleep(2)  # the workers notice and end
    truncate(folder, "*.pt")
    before = events(folder)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    result = raynas.load(folder)
    assert events(folder)[: len(before)] == before
    assert set(result.trials["status"]) <= {"completed", "stopped"}
    assert len(result.trials) == 4


def rungs_of(folder):
    """ASHA's rungs as a driver that continues the run would have them."""
    copy = folder.parent / f"copy-{time.monotonic_ns()}"
    (copy / "journal").mkdir(parents=True)
    content = (folder / "journal" / "events.jsonl").read_bytes()
    (copy / "journal" / "events.jsonl").write_bytes(content)
    asha = Asha(reduction=2)
    with Journal(copy) as journal:
        space = search_spaces.get("nasbench201:channels=4,cells=1")
        Search(space, Evolution(4, 2), asha, 14, 4, 3, journal).begin()
    by_hand: dict[int, list[float]] = {1: [], 2: []}
    epochs: dict[int, int] = {}
    for event in events(folder):
        if event["event"] == "reported":
            epoch = epochs[event["evaluation"]] = epochs.get(event["evaluation"], 0) + 1
            if epoch in by_hand:
                by_hand[epoch].append(event["metrics"]["val_accuracy"])
    assert asha.rungs == {epoch: sorted(values) for epoch, values in by_hand.items()}
    return asha.rungs
