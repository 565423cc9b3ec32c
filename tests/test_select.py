"""The last decision: full training, on the training part, chooses among the best of the search."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import torch
from conftest import SMALL
from journal_lines import read_events
from test_run import Troubled

import raynas
import search_spaces
import trials
from raynas import Fifo, Penalty, RandomSearch
from raynas.config.resolve import resolve
from raynas.drivers.trainable import Job
from raynas.record.checkpoints import Checkpoint
from raynas.record.events import Finished, Reported, Selected, Selecting, Status, Suggested
from raynas.record.history import History
from raynas.search.search import Search
from raynas.stages.full_training import FullTraining
from trials.data import load as load_data
from trials.training import Train, evaluate

CPU = torch.device("cpu")
RANDOM = {"search": "random", "scheduler": "fifo"}


@pytest.fixture(scope="module")
def runs(local_ray, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def run(name, **changes):
        options = {**SMALL, **RANDOM, "storage_path": folder, "name": name, **changes}
        return raynas.run(**options)

    return run


@pytest.fixture(scope="module")
def selected(runs):
    """A finished run that tests may read and must not change."""
    return runs("selected", select=3, retrain_epochs=3, ensemble="saep:size=2")


def of(result, kind):
    return [event for event in read_events(result.path) if event["event"] == kind]


def trained(result):
    """{evaluation: validation accuracy at the end of its full training}."""
    return {e["evaluation"]: e["metrics"]["val_accuracy"] for e in of(result, "selecting")}


class TestRun:
    def test_the_best_by_full_training_is_retrained_alone(self, selected):
        best = selected.trials.sort_values(
            ["epochs", "val_accuracy"], ascending=False, kind="stable"
        )["evaluation"][:3]
        (decision,) = of(selected, "selected")
        assert decision["evaluations"] == list(best)
        accuracies = trained(selected)
        assert set(accuracies) == set(best)
        ranked = sorted(best, key=lambda index: -accuracies[index])
        assert decision["chosen"] == ranked
        (retrained,) = of(selected, "retrained")
        assert retrained["evaluation"] == ranked[0]
        notation = selected.trials["architecture"][ranked[0]]
        assert selected.best.architecture == notation
        assert "test_accuracy" in selected.best.metrics
        assert selected.finished

    def test_every_epoch_is_recorded_and_none_is_of_the_test_part(self, selected):
        for index in of(selected, "selected")[0]["evaluations"]:
            own = [e for e in of(selected, "selecting") if e["evaluation"] == index]
            assert [e["epoch"] for e in own] == [1, 2, 3]
            for event in own:
                assert {"val_accuracy", "val_loss", "train_loss"} <= set(event["metrics"])
                assert not any(key.startswith("test") for key in event["metrics"])

    def test_what_is_recorded_is_of_the_validation_part(self, selected):
        space, data = resolve(selected.config).space, load_data(SMALL["data"])
        for index, accuracy in trained(selected).items():
            state = Checkpoint.load(selected.folder.selection(index))
            arch = space.from_string(selected.trials["architecture"][index])
            network = space.build(arch, data.input_shape, data.num_classes)
            network.load_state_dict(state.weights)
            assert evaluate(network, data.validation, CPU)[1] == pytest.approx(accuracy)

    def test_report_tensorboard_and_status_tell_of_it(self, selected):
        report = (selected.path / "report.html").read_text()
        assert "The last decision" in report
        for accuracy in trained(selected).values():
            assert f"{accuracy:.2%}" in report
        folders = sorted((selected.path / "tensorboard" / "selecting").iterdir())
        assert [int(folder.name) for folder in folders] == sorted(trained(selected))
        status = subprocess.run(
            [sys.executable, "-m", "raynas", "status", selected.path, "--json"],
            capture_output=True, check=True,
        )  # fmt: skip
        content = json.loads(status.stdout)
        assert content["selecting"] == {str(index): 3 for index in trained(selected)}

    def test_the_ensemble_is_there(self, selected):
        assert selected.ensemble.metrics["members"] == 2

    def test_a_second_call_does_nothing(self, selected, runs):
        before = read_events(selected.path)
        runs("selected", select=3, retrain_epochs=3, ensemble="saep:size=2")
        assert read_events(selected.path) == before

    def test_by_default_the_search_decides(self, finished):
        assert not of(finished, "selecting")
        assert not of(finished, "selected")
        assert "The last decision" not in (finished.path / "report.html").read_text()


def test_a_finished_run_is_extended_and_only_what_is_new_is_trained(runs):
    first = runs("extended", retrain_epochs=1)
    assert not of(first, "selecting")
    names = runs("extended", retrain_epochs=1, select=2).config["select"]
    assert names == 2
    earlier = of(first, "selecting")
    assert len(earlier) == 2
    chosen = of(first, "selected")[-1]["chosen"][0]
    assert first.best.architecture == first.trials["architecture"][chosen]
    more = runs("extended", retrain_epochs=1, select=3)
    assert of(more, "selecting")[:2] == earlier
    assert len(of(more, "selecting")) == 3
    longer = runs("extended", retrain_epochs=1, select=3, samples=12)
    candidates = of(longer, "selected")[-1]["evaluations"]
    epochs = [e["evaluation"] for e in of(longer, "selecting")]
    assert len(epochs) == len(set(epochs))  # each once, those of before too
    assert set(candidates) <= set(epochs)
    chosen = of(longer, "selected")[-1]["chosen"][0]
    assert longer.best.architecture == longer.trials["architecture"][chosen]
    back = runs("extended", retrain_epochs=1, samples=12)
    assert raynas.load(back.path).best.architecture == (
        back.trials.sort_values(["epochs", "val_accuracy"], ascending=False, kind="stable")
        ["architecture"].iloc[0]
    )  # fmt: skip
    assert back.finished
    assert of(back, "selected")[-1]["evaluations"] == []  # who decides is in the journal
    assert "The last decision" not in (back.path / "report.html").read_text()


@pytest.mark.parametrize("evaluator", ["proxy:naswot", "table"])
def test_where_nothing_is_trained_in_the_search(runs, evaluator):
    if evaluator == "table":
        evaluator = f"table:{Path(trials.__file__).parent / 'tables' / 'digits-nb201.parquet'}"
    result = runs(f"cheap-{evaluator[:5]}", evaluate=evaluator, select=2, epochs=1)
    (decision,) = of(result, "selected")
    accuracies = trained(result)
    assert set(accuracies) == set(decision["evaluations"])
    assert accuracies[decision["chosen"][0]] == max(accuracies.values())
    assert result.best.architecture == result.trials["architecture"][decision["chosen"][0]]


@pytest.mark.slow
def test_in_parallel_as_one_after_another(runs):
    both = [
        runs(f"workers-{n}", select=3, max_concurrent=n, evaluate="proxy:macs", retrain_epochs=2)
        for n in (1, 2)
    ]
    assert trained(both[0]) == trained(both[1])
    assert of(both[0], "selected")[0]["chosen"] == of(both[1], "selected")[0]["chosen"]


@dataclass(frozen=True)
class Diverging(Train):
    """Some diverge in the full training before the last decision, not in the retraining."""

    bad: tuple[int, ...] = (0,)

    def retraining(self, space, arch, data, epochs, seed, device):
        trial = super().retraining(space, arch, data, epochs, seed, device)
        if arch.choices[0] in self.bad and len(data.validation) == 0:
            trial.network[-1].weight.data.fill_(float("nan"))
        return trial


def test_a_candidate_that_diverges_is_out(runs):
    space = Troubled(("fine", "fine2", "fine3"))
    result = runs("out", space=space, evaluate=Diverging(), samples=3, epochs=1, select=3)
    (failed,) = of(result, "selecting_failed")
    assert result.trials["architecture"][failed["evaluation"]] == "0"
    assert failed["reason"].startswith("Diverged: ")
    (decision,) = of(result, "selected")
    assert len(decision["evaluations"]) == 3
    assert len(decision["chosen"]) == 2
    assert failed["evaluation"] not in decision["chosen"]
    assert f"failed: {failed['reason']}" in (result.path / "report.html").read_text()
    assert result.best.architecture != "0"


@pytest.mark.slow
def test_when_all_fail_the_order_of_the_search_stands(runs, capfd):
    space = Troubled(("fine", "fine2"))
    options = {"space": space, "evaluate": Diverging(bad=(0, 1)), "samples": 2, "epochs": 1}
    result = runs("none", **options, select=2)
    assert len(of(result, "selecting_failed")) == 2
    (decision,) = of(result, "selected")
    assert decision["chosen"] == []
    (retrained,) = of(result, "retrained")
    assert retrained["evaluation"] == decision["evaluations"][0]
    assert "the order of the search stands" in capfd.readouterr().err
    before = read_events(result.path)
    runs("none", **options, select=2)
    assert read_events(result.path) == before


@pytest.mark.slow
def test_a_penalty_counts_in_the_last_decision_too(runs):
    """So much that it alone decides."""

    def first(space, arch):
        return 1 + arch.choices[0]

    space = Troubled(("fine", "fine2", "fine3"))
    result = runs(
        "penalized", space=space, samples=3, epochs=1, select=3,
        constraint=Penalty(first, above=1, weight=10),
    )  # fmt: skip
    (decision,) = of(result, "selected")
    order = [result.trials["architecture"][index] for index in decision["chosen"]]
    assert order == ["0", "1", "2"]
    assert result.best.architecture == "0"


@pytest.mark.parametrize("final", [True, False])
def test_what_is_trained_on(local_ray, tmp_path, final):
    data = load_data("digits:fraction=0.1")
    space = Troubled(("fine",))
    job = Job(space, Train(), ray.put(data), 2, tmp_path, 1)
    training = FullTraining(job, space.architecture([0]), 0, tmp_path / "x.pt", final)
    trial = training.trial(data, CPU)
    seen, judged = set(trial.train.indices), list(trial.validation.indices)
    if final:
        assert seen == {*data.train.indices, *data.validation.indices}
        assert judged == list(data.test.indices)
    else:
        assert seen == set(data.train.indices)
        assert judged == list(data.validation.indices)
        assert not seen & {*data.validation.indices, *data.test.indices}


def test_history_of_a_decision_about_others():
    history = History([Suggested(i, str(i)) for i in range(3)])
    for index in range(3):
        history.apply(Reported(index, {"val_accuracy": 0.1 * index}))
        history.apply(Finished(index, Status.COMPLETED))
    evaluations = history.evaluations
    assert history.chosen is None
    assert history.selected_of(evaluations[:2]) is None
    history.apply(Selecting(1, 1, {"val_accuracy": 0.5}))
    history.apply(Selected([0, 1], [1, 0]))
    assert history.chosen is evaluations[1]
    assert history.selected_of(evaluations[:2]) == [evaluations[1], evaluations[0]]
    assert history.selected_of(evaluations[1:]) is None
    assert history.selected_of([evaluations[1], evaluations[0]]) is None


COMMAND = [
    sys.executable, "-m", "raynas", "run", "--space", "nasbench201:channels=4,cells=1",
    "--data", "digits:fraction=0.5", "--search", "random", "--scheduler", "fifo",
    "--samples", "3", "--epochs", "1", "--retrain-epochs", "6", "--select", "3",
    "--max-concurrent", "2",
]  # fmt: skip


def journal(folder):
    try:
        return read_events(folder)
    except raynas.StorageError:
        return []


def command(folder):
    return [*COMMAND, "--storage-path", folder.parent, "--name", folder.name]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(folder), capture_output=True, check=True)
    return raynas.load(folder)


def kill_in_the_middle(folder):
    """Start the command and kill -9 its driver once the journal has five epochs of candidates."""
    log = folder.with_suffix(".log")
    with log.open("w") as said:
        driver = subprocess.Popen(command(folder), stdout=said, stderr=said)
    try:
        while sum(e["event"] == "selecting" for e in journal(folder)) < 5:
            assert driver.poll() is None, log.read_text()[-3000:]
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.wait()
    before = journal(folder)
    assert not any(e["event"] == "selected" for e in before), "killed too late to show anything"
    return before


@pytest.mark.slow  # three runs in processes of their own
@pytest.mark.timeout(900)
@pytest.mark.parametrize("damaged", [False, True])
def test_killed_in_the_middle_no_epoch_is_lost(tmp_path, uninterrupted, damaged):
    folder = tmp_path / "killed"
    before = kill_in_the_middle(folder)
    if damaged:
        time.sleep(2)  # the workers notice and end
        for file in folder.glob("checkpoints/select-*.pt"):
            os.truncate(file, file.stat().st_size // 2)
    again = subprocess.run(command(folder), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert read_events(folder)[: len(before)] == before
    killed = raynas.load(folder)
    for index in range(3):
        epochs = [e["epoch"] for e in of(killed, "selecting") if e["evaluation"] == index]
        assert epochs == [1, 2, 3, 4, 5, 6]
    assert trained(killed) == trained(uninterrupted)
    assert killed.best.metrics["test_accuracy"] == uninterrupted.best.metrics["test_accuracy"]


def test_of_fewer_than_two_there_is_nothing_to_decide():
    search = Search(search_spaces.get("nasbench201"), RandomSearch(), Fifo(), 3, 1, 0, select=2)
    assert search.candidates == []
    for accuracy, candidates in ((0.5, []), (0.7, [1, 0]), (0.6, [1, 2])):
        index = search.suggest().index
        search.report(index, {"val_accuracy": accuracy})
        search.finish(index, Status.COMPLETED)
        assert [e.index for e in search.candidates] == candidates
    search.history.apply(Selected([1, 2], [2]))
    assert [e.index for e in search.finalists] == [2, 1, 0]
    search.select = 1
    assert [e.index for e in search.finalists] == [1, 2, 0]
