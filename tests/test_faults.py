"""The driver is killed, again and again; the same command finishes the search."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

import raynas
import search_spaces
from raynas import Asha, Evolution
from raynas.journal import Journal, read_events
from raynas.search import Search

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


@pytest.mark.timeout(420)
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


def rungs_of(folder):
    """ASHA's rungs as a driver that continues the run would have them."""
    copy = folder.parent / f"copy-{time.monotonic_ns()}"
    (copy / "journal").mkdir(parents=True)
    content = (folder / "journal" / "events.jsonl").read_bytes()
    (copy / "journal" / "events.jsonl").write_bytes(content)
    asha = Asha(reduction=2)
    with Journal(copy) as journal:
        space = search_spaces.get("nasbench201:channels=4,cells=1")
        Search(space, Evolution(4, 2), asha, 14, 4, 3, journal)
    by_hand: dict[int, list[float]] = {1: [], 2: []}
    epochs: dict[int, int] = {}
    for event in events(folder):
        if event["event"] == "reported":
            epoch = epochs[event["evaluation"]] = epochs.get(event["evaluation"], 0) + 1
            if epoch in by_hand:
                by_hand[epoch].append(event["metrics"]["val_accuracy"])
    assert asha.rungs == {epoch: sorted(values) for epoch, values in by_hand.items()}
    return asha.rungs
