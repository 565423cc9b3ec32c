"""What ends a search before all samples: hours of GPUs, a target; and how the run goes on."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from journal_lines import read_events

import raynas
import search_spaces
from raynas import Evaluator, Evolution, Fifo, Trial
from raynas.planning.limits import limit_reached
from raynas.record.events import Finished, Placed, Retrained, Status, Suggested
from raynas.record.history import History
from raynas.record.journal import Journal
from raynas.search.search import Search

SPACE = search_spaces.get("nasbench201:channels=4,cells=1")


def begun(folder, over=lambda: None, samples=6):
    search = Search(SPACE, Evolution(3, 2), Fifo(), samples, 3, 0, Journal(folder))
    search.over = over
    search.begin()
    return search


def test_what_runs_when_a_search_is_over_is_stopped_and_counted(tmp_path):
    why = []
    search = begun(tmp_path, lambda: why[0] if why else None)
    first, second = search.suggest(), search.suggest()
    search.report(first.index, {"val_accuracy": 0.5})
    why.append("enough")
    assert search.exhausted
    assert search.suggest() is None
    assert search.cut_short() == "enough"
    assert [e.status for e in (first, second)] == [Status.STOPPED] * 2
    assert first.reason == "the search had ended: enough"
    assert search.best is first
    search.journal.close()


def test_with_more_it_goes_on_with_what_was_stopped(tmp_path):
    why = ["enough"]
    search = begun(tmp_path, lambda: None)
    stopped = search.suggest()
    search.report(stopped.index, {"val_accuracy": 0.5})
    search.over = lambda: why[0]
    search.cut_short()
    search.journal.close()
    same = begun(tmp_path, lambda: why[0])
    assert same.exhausted
    assert not same.history.running
    same.journal.close()
    more = begun(tmp_path)
    again = more.suggest()
    assert (again.index, again.epochs, again.status) == (0, 1, Status.RUNNING)
    more.journal.close()
    assert [e["event"] for e in read_events(tmp_path)] == [
        "suggested", "reported", "finished", "retried",
    ]  # fmt: skip
    begun(tmp_path).journal.close()  # and a replay takes the same path


def test_hours_do_not_run_while_no_driver_does(tmp_path):
    search = begun(tmp_path)
    search.journal.append(Placed("evaluation", search.suggest().index, "here", 1, 1))
    search.journal.close()
    again = begun(tmp_path)
    assert again.history.costs.gpu_seconds(time.time() + 3600) < 60
    again.journal.close()


def test_the_retraining_does_not_use_up_the_hours_of_trials(tmp_path):
    history = History([
        Suggested(0, "a", time=1.0), Placed("evaluation", 0, "here", 1, 2, time=1.0),
        Finished(0, Status.COMPLETED, time=1801.0),
        Placed("retrain", 0, "here", 1, 1, time=1801.0), Retrained(0, {}, time=9001.0),
    ])  # fmt: skip
    assert history.costs.gpu_seconds(9001.0) == 3600 + 7200
    plan = SimpleNamespace(config=SimpleNamespace(gpu_hours=1.5, target=None))
    session = SimpleNamespace(plan=plan, history=history, search=SimpleNamespace(best=None))
    assert limit_reached(session) is None
    plan.config.gpu_hours = 1.0
    assert limit_reached(session) == "gpu_hours=1 are used"


class Rising(Trial):
    """Takes a while; its accuracy is that of its seed, less in early epochs."""

    def __init__(self, value, epochs):
        self.value, self.epochs = value, epochs

    def step(self):
        time.sleep(0.3)
        self.epoch += 1
        return {"val_accuracy": self.value * self.epoch / self.epochs}

    def state_dict(self):
        return {"epoch": self.epoch}

    def load_state_dict(self, state):
        self.epoch = state["epoch"]


class RisingEvaluator(Evaluator):
    def trial(self, space, arch, data, epochs, seed, device):
        return Rising(0.2 + 0.7 * (seed % 1000) / 1000, epochs)

    def retraining(self, space, arch, data, epochs, seed, device):
        return None


ARGUMENTS = {
    "space": "nasbench201:channels=4,cells=1", "data": "digits:fraction=0.1", "search": "random",
    "scheduler": "fifo", "samples": 500, "epochs": 2, "name": "run",
}  # fmt: skip


def test_a_target_ends_the_search_and_the_best_is_retrained(local_ray, tmp_path):
    def run(**target):
        return raynas.run(**ARGUMENTS, evaluate=RisingEvaluator(), storage_path=tmp_path, **target)

    result = run(target={"val_accuracy": 0.5})
    assert result.finished
    assert "test_accuracy" in result.best.metrics
    ended = result.history.finished.values()
    assert max(e.value for e in ended if e.status is Status.COMPLETED) >= 0.5
    cut = [e for e in ended if e.status is Status.STOPPED]
    assert all("target=val_accuracy=0.5 is reached by #" in e.reason for e in cut)
    assert not result.history.running
    before = read_events(result.path)
    assert read_events(run(target="val_accuracy=0.5").path) == before
    with pytest.raises(raynas.InvalidArgument, match="fraction"):
        run(target={"val_accuracy": 95})
    with pytest.raises(raynas.InvalidArgument, match="maximizes val_accuracy"):
        run(target={"accuracy": 0.95})


def test_hours_of_gpus_where_there_are_none(local_ray, tmp_path):
    with pytest.raises(raynas.InvalidArgument, match="no trial uses a GPU here"):
        raynas.run(**ARGUMENTS, gpu_hours=2, storage_path=tmp_path)


def test_networks_that_are_trained_to_the_end_are_not_stopped(tmp_path):
    with pytest.raises(raynas.InvalidArgument, match=r"gpu_hours=2\.0: search='adanet"):
        raynas.run(space="dense", search="adanet", gpu_hours=2, storage_path=tmp_path)


#: Ray believes in a GPU, which no trial asks for anything
WITH_A_GPU = """
import json, logging, os, sys
import ray
from raynas.cluster import ENVIRONMENT
os.environ.update(ENVIRONMENT)
ray.init(num_cpus=2, num_gpus=1, log_to_driver=False, logging_level=logging.ERROR,
         include_dashboard=False)
import raynas
from test_limits import ARGUMENTS, RisingEvaluator
class Own(RisingEvaluator):
    def retraining(self, space, arch, data, epochs, seed, device):
        import torch
        from trials.training import Train
        return Train().retraining(space, arch, data, epochs, seed, torch.device("cpu"))
rows = []
for hours in (2 / 3600, 20 / 3600):  # ending takes seconds, which count
    result = raynas.run(**ARGUMENTS, evaluate=Own(), storage_path=sys.argv[1],
                        gpus_per_trial=0.5, gpu_hours=hours)
    ended = result.history.finished.values()
    rows.append({
        "complete": result.finished, "running": len(result.history.running),
        "ended": len(ended), "cut": sum(bool(e.reason) for e in ended),
        "seconds": sum(e.epochs * 0.3 * 0.5 for e in ended),
    })
print(json.dumps(rows))
ray.shutdown()
"""


@pytest.mark.slow  # a Ray of its own
@pytest.mark.timeout(600)
def test_hours_of_gpus_end_the_search_and_more_of_them_go_on(tmp_path):
    tests = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as own:
        environment |= {"RAY_TMPDIR": own, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
        done = subprocess.run(
            [sys.executable, "-c", WITH_A_GPU, str(tmp_path)],
            capture_output=True, text=True, timeout=500, env=environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = json.loads(done.stdout.splitlines()[-1])
    assert first["complete"]
    assert second["complete"]
    assert first["running"] == second["running"] == 0
    assert 0 < first["ended"] <= second["ended"] < ARGUMENTS["samples"]
    assert second["cut"] <= 2  # what had been stopped went on first
    assert first["seconds"] < 2 + 1  # of one GPU, less what starting took
    assert first["seconds"] < second["seconds"] < 20 + 1
