"""`run()` from end to end, on one local Ray."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import SMALL
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import raynas
import search_spaces
from raynas.journal import read_events
from trials.data import load as load_data
from trials.trial import derived_seed

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A small run with changes."""

    # ONNX takes seconds; test_onnx looks at the one that the fixture `finished` has.
    monkeypatch.setattr(sys.modules["raynas.run"], "has_onnx", lambda: False)

    def start(name="run", **changes):
        return raynas.run(**{**SMALL, "storage_path": tmp_path, "name": name, **changes})

    return start


class Fail(nn.Module):
    """A network that fails."""

    def __init__(self, error):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.error = error

    def forward(self, x):
        raise self.error


@dataclass(frozen=True)
class Troubled(search_spaces.SearchSpace):
    """Some networks raise, some run out of memory, some give NaN, the rest are linear."""

    troubles: tuple = ("raise", "memory", "nan", "fine", "fine2", "fine3")

    name = "troubled"

    @property
    def decisions(self):
        return (search_spaces.Decision("kind", self.troubles),)

    def build(self, arch, input_shape=(3, 32, 32), num_classes=10):
        kind = self.troubles[arch.choices[0]]
        if kind == "unbuildable":
            raise ValueError("cannot be built")
        if kind == "raise":
            return OnlyWithBatches(RuntimeError("mat1 and mat2 do not match"))
        if kind == "memory":
            return OnlyWithBatches(MemoryError("no more"))
        layers = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), num_classes))
        if kind == "nan":
            layers[1].weight.data.fill_(float("nan"))
        return layers


class OnlyWithBatches(Fail):
    """Fails in training only, so that counting its operations still works."""

    def forward(self, x):
        if self.training:
            raise self.error
        return self.weight * x.flatten(1)[:, :10]


def test_result(finished):
    trials = finished.trials
    assert len(trials) == 4
    assert list(trials["evaluation"]) == [0, 1, 2, 3]
    assert set(trials["status"]) <= {"completed", "stopped"}
    assert trials["epochs"].between(1, 2).all()
    assert trials["val_accuracy"].between(0, 1).all()
    assert list(trials["curve"].map(len)) == list(trials["epochs"])
    best = finished.best
    space = search_spaces.get("nasbench201")
    assert space.to_string(space.from_string(best.architecture)) == best.architecture
    row = trials[trials["architecture"] == best.architecture].iloc[0]
    assert best.metrics["val_accuracy"] == row["val_accuracy"]
    assert row["epochs"] == trials["epochs"].max()
    assert finished.finished


def test_best_model_has_the_recorded_test_accuracy(finished):
    data = load_data(SMALL["data"])
    model = finished.best.model()
    correct = sum(
        int((model(images).argmax(1) == labels).sum())
        for images, labels in data.test.raw(64, torch.device("cpu"))
    )
    assert correct / len(data.test) == pytest.approx(finished.best.metrics["test_accuracy"])


def test_run_folder(finished):
    present = {p.name for p in finished.path.iterdir()}
    assert present >= {
        "run.yaml", "journal", "trials.parquet", "best", "report.html", "tensorboard", "tune",
    }  # fmt: skip
    assert {p.name for p in (finished.path / "best").iterdir()} >= {
        "architecture.json", "metrics.json", "weights.safetensors", "model.pt2",
    }  # fmt: skip
    table = pd.read_parquet(finished.path / "trials.parquet")
    pd.testing.assert_frame_equal(
        table.drop(columns="curve"), finished.trials.drop(columns="curve"), check_dtype=False
    )
    recorded = yaml.safe_load((finished.path / "run.yaml").read_text())
    assert recorded["search"] == "evolution:population=10,sample=3"
    assert recorded["space"] == "nasbench201:channels=4,cells=1,dead_edges=False"
    assert "torch" in recorded["recorded"]["versions"]
    with safe_open(finished.path / "best" / "weights.safetensors", "pt") as weights:
        assert "mean" in weights.keys()  # noqa: SIM118  it is no mapping
    report = (finished.path / "report.html").read_text()
    assert finished.best.architecture in report.replace("&#39;", "'")
    assert f"{finished.best.metrics['test_accuracy']:.2%}" in report


def test_exported_program_needs_no_raynas_and_gives_the_recorded_accuracy(finished, tmp_path):
    images, labels = zip(*load_data(SMALL["data"]).test.raw(64, torch.device("cpu")), strict=True)
    torch.save({"images": torch.cat(images), "labels": torch.cat(labels)}, tmp_path / "test.pt")
    code = """
import sys
sys.modules.update(raynas=None, trials=None, search_spaces=None)  # importing them now fails
import torch
model = torch.export.load(sys.argv[1]).module()
test = torch.load(sys.argv[2])
for batch in (1, 7, len(test["labels"])):
    logits = model(test["images"][:batch])
print((logits.argmax(1) == test["labels"]).double().mean().item())
"""
    program = finished.path / "best" / "model.pt2"
    answer = subprocess.run(
        [sys.executable, "-c", code, program, tmp_path / "test.pt"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert float(answer.stdout) == pytest.approx(finished.best.metrics["test_accuracy"])


def test_onnx(finished):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(finished.path / "best" / "model.onnx")
    images, _ = next(load_data(SMALL["data"]).test.raw(33, torch.device("cpu")))
    (logits,) = session.run(None, {"images": images.contiguous().numpy()})
    with torch.no_grad():
        expected = finished.best.model()(images).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_same_seed_in_series_is_the_same_run_bit_for_bit(run):
    runs = [run(name, max_concurrent=1, scheduler="asha") for name in ("one", "two")]
    clocks = ["train_seconds"]
    first, second = (
        r.trials.drop(columns=clocks).to_json(orient="records", double_precision=15) for r in runs
    )
    assert first == second
    metrics = [{k: v for k, v in r.best.metrics.items() if k not in clocks} for r in runs]
    assert metrics[0] == metrics[1]
    other = run("three", max_concurrent=1, seed=1)
    assert list(other.trials["architecture"]) != list(runs[0].trials["architecture"])


def test_the_same_call_again_does_nothing(run):
    first = run(samples=3)
    events = read_events(first.path)
    again = run(samples=3)
    assert read_events(again.path) == events
    assert again.best.metrics == first.best.metrics


def test_more_samples_extend_a_finished_run(run):
    first = run(samples=3).trials
    extended = run(samples=6)
    assert len(extended.trials) == 6
    pd.testing.assert_frame_equal(extended.trials.head(3), first, check_dtype=False)
    assert extended.finished
    assert (extended.path / "best" / "model.pt2").exists()


def test_resume_from_the_folder_alone(run):
    first = run(samples=3)
    resumed = raynas.resume(first.path, samples=4)
    assert len(resumed.trials) == 4


def test_another_configuration_is_refused_by_name(run):
    run(samples=2, epochs=1)
    with pytest.raises(raynas.ConfigurationMismatch, match="epochs was 1 and is now 2"):
        run(samples=2, epochs=2)
    with pytest.raises(raynas.ConfigurationMismatch, match="seed was 0 and is now 3"):
        run(samples=2, epochs=1, seed=3)
    with pytest.raises(raynas.ConfigurationMismatch, match="data was"):
        run(samples=2, epochs=1, data="digits:fraction=0.4")
    with pytest.raises(raynas.InvalidArgument, match="never"):
        run(samples=2, epochs=1, resume="never")


def test_failing_networks_are_recorded_and_the_search_goes_on(run):
    result = run(space=Troubled(), search="random", scheduler="fifo", samples=6)
    reasons = result.trials.set_index("architecture")["reason"]
    statuses = result.trials.set_index("architecture")["status"]
    assert statuses.to_dict() == {
        "0": "failed", "1": "failed", "2": "diverged",
        "3": "completed", "4": "completed", "5": "completed",
    }  # fmt: skip
    assert reasons["0"] == "RuntimeError: mat1 and mat2 do not match"
    assert reasons["1"].startswith("out of memory")
    assert reasons["2"].startswith("Diverged: training loss is nan")
    assert result.best.architecture in "345"
    images = torch.rand(2, 1, 8, 8)
    assert result.best.model()(images).shape == (2, 10)  # also of a space without a name


def test_a_search_in_which_all_fail_says_why(run):
    kinds = tuple(["unbuildable"] * 30)
    with pytest.raises(raynas.SearchFailed, match="ValueError: cannot be built"):
        run(space=Troubled(kinds), search="random", samples=30)
    few = Troubled(("unbuildable", "raise"))
    with pytest.raises(raynas.SearchFailed, match="mat1 and mat2"):
        run("few", space=few, search="random", samples=2)


def test_a_dying_worker_is_recorded_as_a_failure(run):
    result = run(evaluate=Suicidal(), search="random", samples=3, epochs=1, max_concurrent=1)
    assert list(result.trials["status"]) == ["completed", "failed", "completed"]
    assert "worker died" in result.trials["reason"][1]


class Suicidal(raynas.Evaluator):
    """The second evaluation of a run kills its process, whenever it is tried."""

    def trial(self, space, arch, data, epochs, seed, device):
        return Dying(seed == derived_seed(0, 1))


class Dying(raynas.Trial):
    epochs = 1

    def __init__(self, deadly):
        self.deadly = deadly

    def step(self):
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        self.epoch += 1
        return {"val_accuracy": 0.5}


def test_tensorboard_has_search_curves_and_hparams(finished):
    search = EventAccumulator(str(finished.path / "tensorboard" / "search")).Reload()
    assert [s.value for s in search.Scalars("search/evaluations")] == [1, 2, 3, 4]
    best = [s.value for s in search.Scalars("search/best_val_accuracy")]
    assert best[-1] == pytest.approx(finished.best.metrics["val_accuracy"])
    for _, row in finished.trials.iterrows():
        folder = finished.path / "tensorboard" / "trials" / f"{row['evaluation']:05d}"
        trial = EventAccumulator(str(folder)).Reload()
        curve = [s.value for s in trial.Scalars("val/accuracy")]
        assert curve == pytest.approx(row["curve"])
        plugin = trial.summary_metadata["_hparams_/session_start_info"].plugin_data
        assert row["architecture"].encode() in plugin.content


def test_a_users_own_arrays_and_scheduler_objects(run):
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = np.clip(rng.normal(60 + 60 * labels[:, None, None], 20, (120, 8, 8)), 0, 255)
    result = run(
        data=(images.astype(np.uint8), labels),
        search=raynas.Evolution(population=2, sample=2),
        scheduler=raynas.Asha(reduction=2),
        evaluate=raynas.Train(batch_size=16),
    )
    assert result.config["search"] == "evolution:population=2,sample=2"
    assert result.config["scheduler"] == "asha:grace=1,reduction=2"
    assert result.best.metrics["test_accuracy"] > 0.5


def test_json_of_best(finished):
    made = json.loads((finished.path / "best" / "architecture.json").read_text())
    assert made["architecture"] == finished.best.architecture
    assert made["input_shape"] == [1, 8, 8]
