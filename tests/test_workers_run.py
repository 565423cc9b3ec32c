"""Searches whose trials have several processes, and what happens when one of those dies."""

import functools
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import ray
from journal_lines import read_events
from ray.cluster_utils import Cluster
from worker_processes import CPU, Normalized

import raynas
from raynas import Train
from raynas.cluster import ENVIRONMENT
from raynas.drivers.peers import WorkerDied, _cause
from raynas.testing import TrialSuite
from search_spaces import UserSpace
from trials.data import load
from trials.trial import derived_seed
from trials.workers import Workers

EPOCHS = 4


class Slow(Normalized):
    """So that there is time to kill somebody."""

    def forward(self, images):
        if self.training:
            time.sleep(0.05)
        return super().forward(images)


def build(notes, arch, input_shape, num_classes):
    """Build a network, and note who does."""
    if notes is not None:
        notes.mkdir(exist_ok=True)
        (notes / f"{Workers.present().rank}-{os.getpid()}").touch()
    return Slow(arch["channels"], num_classes)


def space(notes=None):
    return UserSpace("slow", {"channels": (2, 3, 4)}, functools.partial(build, notes))


def run(folder, name, **arguments):
    return raynas.run(
        space=space(folder / f"notes-{name}"), data="digits:fraction=0.3", search="random",
        scheduler="fifo", evaluate="train:sync_norm=true,batch_size=64,learning_rate=0.02",
        samples=2, epochs=EPOCHS, retrain_epochs=1, workers_per_trial=2, storage_path=folder,
        name=name, **arguments,
    )  # fmt: skip


def processes(folder, name, rank):
    """The workers that were of this rank; this process has counted parameters, alone."""
    notes = (folder / f"notes-{name}").glob(f"{rank}-*")
    return {int(note.name.partition("-")[2]) for note in notes} - {os.getpid()}


def curve(folder, index):
    """What was recorded of the epochs of an evaluation, without what a clock measured."""
    return [
        TrialSuite.comparable(event["metrics"]) for event in read_events(folder)
        if event["event"] == "reported" and event["evaluation"] == index
    ]  # fmt: skip


@pytest.fixture(scope="module")
def quiet(local_ray, tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    return run(folder, "quiet")


@pytest.mark.timeout(600)
def test_two_workers_search_like_one(quiet):
    """Against the same trials in this process, where there is one worker."""
    recipe = Train(sync_norm=True, batch_size=64, learning_rate=0.02)
    data = load("digits:fraction=0.3")
    for row in quiet.trials.itertuples():
        arch = space().from_string(row.architecture)
        seed = derived_seed(0, row.evaluation)
        alone = recipe.trial(space(), arch, data, EPOCHS, seed, CPU)
        metrics = [alone.step() for _ in range(EPOCHS)]
        assert row.status == "completed"
        assert row.curve == pytest.approx([epoch["val_accuracy"] for epoch in metrics], abs=0.01)
        assert row.val_loss == pytest.approx(metrics[-1]["val_loss"], rel=1e-3)
    assert 0 < quiet.best.metrics["test_accuracy"] <= 1


def test_the_workers_of_one_trial_serve_the_next(quiet):
    """But for the retraining, which is no Tune trial."""
    for rank in (0, 1):
        assert len(processes(quiet.path.parent, "quiet", rank)) == 2


def kill_one(folder, name, rank, killed):
    """Kill a worker of the first evaluation, once its second epoch is recorded."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            events = read_events(folder / name)
        except raynas.StorageError:
            events = []
        if sum(event["event"] == "reported" for event in events) >= 2:
            (process,) = processes(folder, name, rank)
            os.kill(process, signal.SIGKILL)
            killed.append((process, any(event["event"] == "finished" for event in events)))
            return
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_trial_goes_on_when_one_of_its_workers_is_killed(quiet, tmp_path, rank):
    killed = []
    killer = threading.Thread(target=kill_one, args=(tmp_path, "killed", rank, killed))
    killer.start()
    result = run(tmp_path, "killed")
    killer.join()
    ((process, too_late),) = killed
    assert not too_late
    assert process in processes(tmp_path, "killed", rank)
    assert len(processes(tmp_path, "killed", rank)) == 3  # another one, and the retraining's
    events = read_events(result.path)
    for index in range(2):
        assert curve(result.path, index) == curve(quiet.path, index)  # each epoch once
    assert [e["evaluation"] for e in events if e["event"] == "finished"] == [0, 1]
    assert set(result.trials["status"]) == {"completed"}


def failing(error):
    raise error


class Dying:
    def die(self):
        os._exit(1)


LOST = RuntimeError("[gloo/transport/tcp/pair.cc:545] Connection closed by peer")


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (ValueError("mine"), [], ValueError),
        (LOST, [MemoryError("theirs"), LOST], MemoryError),
        (LOST, [LOST], WorkerDied),
        (LOST, [None, LOST], WorkerDied),
    ],
    ids=["an error of its own", "an error of a peer", "nobody's error", "a peer that died"],
)
def test_why_a_team_failed(local_ray, own, others, expected):
    started = [
        ray.remote(Dying).remote().die.remote() if error is None
        else ray.remote(failing).options(max_retries=0).remote(error)
        for error in others
    ]  # fmt: skip
    if started:  # new processes take long on a busy machine, those of a team are there
        ray.wait(started, num_returns=len(started))
    assert type(_cause(own, started)) is expected


def on_two_nodes(folder):
    """Search on two nodes, each of which holds one worker of a trial."""
    os.environ.update(ENVIRONMENT)
    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    result = raynas.run(
        space=UserSpace("placed", {"channels": (2, 3)}, functools.partial(placed, folder)),
        data="digits:fraction=0.3", search="random", scheduler="fifo", samples=1, epochs=1,
        workers_per_trial=2, storage_path=folder, name="two",
    )  # fmt: skip
    assert list(result.trials["status"]) == ["completed"]
    ray.shutdown()
    cluster.shutdown()


def placed(folder, arch, input_shape, num_classes):
    """Build a network, and note on which node."""
    if Workers.present().count == 2:
        node = ray.get_runtime_context().get_node_id()
        (folder / f"{Workers.present().rank}-{node}").touch()
    return Normalized(arch["channels"], num_classes)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_spans_nodes_that_are_too_small_for_it(tmp_path):
    code = f"import pathlib, {__name__} as t; t.on_two_nodes(pathlib.Path({str(tmp_path)!r}))"
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as own:  # short, for sockets
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=800,
            env=environment
            | {
                "RAY_TMPDIR": own, "PYTHONPATH": os.pathsep.join(paths),
                "RAY_raylet_start_wait_time_s": "120",
            },
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    of_ranks = [{note.name[2:] for note in tmp_path.glob(f"{rank}-*")} for rank in (0, 1)]
    assert all(of_ranks)
    assert len(set.union(*of_ranks)) == 2
