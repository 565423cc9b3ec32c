"""`run()` from end to end, on one local Ray."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import SMALL
from journal_lines import read_events
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from typer.testing import CliRunner

import raynas
import search_spaces
from raynas.cli import app
from raynas.config.compatibility import check_retraining
from raynas.config.config import PLANNED, Config
from raynas.config.resolve import resolve
from search_spaces import UserSpace
from trials.data import load as load_data
from trials.trial import derived_seed

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def run(tmp_path):
    """A small run with changes."""

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
        table[finished.trials.columns].drop(columns="curve"),
        finished.trials.drop(columns="curve"),
        check_dtype=False,
    )
    recorded = yaml.safe_load((finished.path / "run.yaml").read_text())
    assert recorded["search"] == "evolution:population=10,sample=3,candidates=20"
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


def test_the_retraining_keeps_its_logits_as_those_of_the_test_part(finished):
    (path,) = finished.path.glob("checkpoints/final-*.pt")
    kept = torch.load(path, weights_only=True)["trial"]
    assert "validation_logits" not in kept
    labels = torch.from_numpy(load_data(SMALL["data"]).test.labels)
    accuracy = float((kept["test_logits"].argmax(1) == labels).double().mean())
    assert accuracy == pytest.approx(finished.best.metrics["test_accuracy"])


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
    other = run("three", max_concurrent=1, seed=1, samples=1, epochs=1)
    assert other.trials["architecture"][0] != runs[0].trials["architecture"][0]


def test_the_same_call_again_does_nothing_and_more_samples_extend_it(run):
    first = run(samples=3)
    events, trials = read_events(first.path), first.trials
    again = run(samples=3)
    assert read_events(again.path) == events
    assert again.best.metrics == first.best.metrics
    extended = run(samples=6)
    assert read_events(first.path)[: len(events)] == events
    assert len(extended.trials) == 6
    pd.testing.assert_frame_equal(extended.trials.head(3), trials, check_dtype=False)
    assert extended.finished
    assert (extended.path / "best" / "model.pt2").exists()


@pytest.mark.slow
def test_resume_from_the_folder_alone(run):
    first = run(samples=3)
    resumed = raynas.resume(first.path, samples=4)
    assert len(resumed.trials) == 4


def test_another_configuration_is_refused_by_name(finished, run):
    events = read_events(finished.path)

    def again(**changes):
        return run("finished", search="evolution", storage_path=finished.path.parent, **changes)

    with pytest.raises(raynas.ConfigurationMismatch, match="epochs was 2 and is now 3"):
        again(epochs=3)
    with pytest.raises(raynas.ConfigurationMismatch, match="seed was 0 and is now 3"):
        again(seed=3)
    with pytest.raises(raynas.ConfigurationMismatch, match="data was"):
        again(data="digits:fraction=0.4")
    with pytest.raises(raynas.InvalidArgument, match="never"):
        again(resume="never")
    assert read_events(finished.path) == events


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


@pytest.mark.slow  # four starts of a worker
def test_a_dying_worker_is_recorded_as_a_failure(run):
    result = run(evaluate=Suicidal(), search="random", samples=3, epochs=1, max_concurrent=1)
    assert list(result.trials["status"]) == ["completed", "failed", "completed"]
    assert "worker died" in result.trials["reason"][1]


class Suicidal(raynas.Evaluator):
    """The second evaluation of a run kills its process, whenever it is tried."""

    def trial(self, space, arch, data, epochs, seed, device):
        return Dying(seed == derived_seed(0, 1) % 2**32)

    def retraining(self, space, arch, data, epochs, seed, device):
        return None  # by Train()


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
    assert result.config["search"] == "evolution:population=2,sample=2,candidates=20"
    assert result.config["scheduler"] == "asha:grace=1,reduction=2,variant=stopping"
    assert result.best.metrics["test_accuracy"] > 0.5


def test_json_of_best(finished):
    made = json.loads((finished.path / "best" / "architecture.json").read_text())
    assert made["architecture"] == finished.best.architecture
    assert made["input_shape"] == [1, 8, 8]


@dataclass(frozen=True)
class Returning(raynas.Evaluator):
    """Evaluation i returns `answers[i]` after every epoch."""

    answers: tuple

    def trial(self, space, arch, data, epochs, seed, device):
        index = next(i for i in range(len(self.answers)) if derived_seed(0, i) % 2**32 == seed)
        return Answering(self.answers[index])

    def retraining(self, space, arch, data, epochs, seed, device):
        return None  # by Train()


class Answering(raynas.Trial):
    epochs = 1

    def __init__(self, answer):
        self.answer = answer

    def step(self):
        self.epoch += 1
        return self.answer


@pytest.mark.slow
def test_imperfect_metrics_of_an_evaluator_fail_their_evaluation_only(run):
    answers = (
        {"val_accuracy": np.float32(0.5), "steps": np.int64(3), "loss": torch.tensor(0.25)},
        {}, None, {"val_loss": 0.5}, torch.zeros(2), "0.5", [0.5], {"val_accuracy": None},
        {"val_accuracy": 0.5, "by_class": [0.1, 0.2]}, {"val_accuracy": float("nan")},
        {"val_accuracy": float("inf")},
    )  # fmt: skip
    result = run(
        evaluate=Returning(answers), search="random", scheduler="fifo", samples=len(answers),
        epochs=1,
    )  # fmt: skip
    trials = result.trials
    assert list(trials["status"]) == ["completed", *["failed"] * 8, "diverged", "diverged"]
    assert (trials["steps"][0], trials["loss"][0], trials["val_accuracy"][0]) == (3, 0.25, 0.5)
    assert "no 'val_accuracy'" in trials["reason"][3]
    assert "Tensor" in trials["reason"][4]
    assert "'by_class': [0.1, 0.2]" in trials["reason"][8]
    assert trials["reason"][9] == "Diverged: val_accuracy is nan after epoch 1"
    trace = (result.path / "checkpoints" / "00002.error.txt").read_text()
    assert "Traceback" in trace
    assert raynas.load(result.path).best.architecture == trials["architecture"][0]


@dataclass(frozen=True)
class DivergingRetraining(raynas.Train):
    """The first architecture evaluates best, and its retraining diverges."""

    def trial(self, space, arch, data, epochs, seed, device):
        return Answering({"val_accuracy": 0.9 - 0.1 * arch.choices[0]})

    def retraining(self, space, arch, data, epochs, seed, device):
        trial = super().retraining(space, arch, data, epochs, seed, device)
        if arch.choices[0] == 0:
            trial.network[-1].weight.data.fill_(float("nan"))
        return trial


@pytest.mark.slow
def test_a_retraining_that_diverges_is_named_and_the_next_one_chosen(run):
    space = Troubled(("fine", "fine2"))
    result = run(space=space, evaluate=DivergingRetraining(), search="random", samples=2, epochs=1)
    assert result.best.architecture == "1"
    (failed,) = [e for e in read_events(result.path) if e["event"] == "retraining_failed"]
    index = list(result.trials["architecture"]).index("0")
    assert failed["evaluation"] == index
    assert failed["reason"].startswith("Diverged: training loss is nan")
    assert f"retraining of #{index} failed" in (result.path / "report.html").read_text()


@pytest.mark.slow
def test_the_retraining_does_not_choose_another_for_want_of_files(run):
    with pytest.raises(raynas.StorageError, match="no more files"):
        run(space=Troubled(("fine", "fine2")), evaluate=NoFiles(), samples=2, epochs=1)


@dataclass(frozen=True)
class NoFiles(DivergingRetraining):
    """The file system fails in the retraining."""

    def retraining(self, space, arch, data, epochs, seed, device):
        raise OSError("no more files")


def linear(config, input_shape, num_classes):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(int(np.prod(input_shape)), config["width"]),
        nn.BatchNorm1d(config["width"]),
        nn.Linear(config["width"], num_classes),
    )


def own_space(*widths, name="own"):
    return UserSpace(name, {"width": widths}, linear)


class Constant(raynas.Evaluator):
    """Not a dataclass."""

    def __init__(self, value):
        self.value = value

    def trial(self, space, arch, data, epochs, seed, device):
        return Answering({"val_accuracy": self.value})

    def retraining(self, space, arch, data, epochs, seed, device):
        return None  # by Train()


def test_a_users_space_from_start_to_export(run, tmp_path):
    result = run(space=own_space(2, 3), search="random", samples=2, epochs=1)
    model = result.best.model()
    assert model.eval() is model.train(False) is model
    images, labels = next(load_data(SMALL["data"]).test.raw(500))
    accuracy = (model(images).argmax(1) == labels).double().mean().item()
    assert accuracy == pytest.approx(result.best.metrics["test_accuracy"])
    with pytest.raises(raynas.InvalidArgument, match="evaluation mode"):
        model.train()
    trainable = result.best.model(space=own_space(2, 3))
    torch.testing.assert_close(trainable(images), model(images))
    torch.nn.functional.cross_entropy(trainable.train()(images), labels).backward()
    assert all(weight.grad is not None for weight in trainable.parameters())
    to = tmp_path / "exported"
    arguments = ["export", str(result.path), "--to", str(to), "--format", "pt2,safetensors"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    for file in ("model.pt2", "weights.safetensors"):
        assert (to / file).read_bytes() == (result.path / "best" / file).read_bytes()
    with pytest.raises(raynas.InvalidArgument, match="call run\\(\\) again"):
        raynas.resume(result.path, samples=3)
    assert len(raynas.resume(result.path, samples=2, space=own_space(2, 3)).trials) == 2
    with pytest.raises(raynas.ConfigurationMismatch, match="space was"):
        run(space=own_space(2, 4), search="random", samples=2, epochs=1)
    with pytest.raises(raynas.InvalidArgument, match="'samples'"):
        raynas.resume(result.path, sampels=3)


def test_objects_are_told_apart():
    def config(**arguments):
        return resolve({"data": "digits", **arguments}).config

    spaces = [config(space=own_space(2, w)) for w in (3, 4, 4)]
    assert spaces[0].space != spaces[1].space == spaces[2].space
    assert spaces[0].name != spaces[1].name == spaces[2].name
    assert spaces[0].name.startswith("own-digits-evolution-")
    evaluators = [config(evaluate=Constant(v)) for v in (0.1, 0.2, 0.2)]
    assert evaluators[0].evaluate != evaluators[1].evaluate == evaluators[2].evaluate
    images = np.zeros((2, 30, 4, 4), np.uint8) + np.arange(2, dtype=np.uint8)[:, None, None, None]
    arrays = [config(data=(images[k], np.arange(30) % 2)) for k in (0, 1, 1)]
    assert arrays[0].name != arrays[1].name == arrays[2].name
    assert "at 0x" not in str(spaces + evaluators + arrays)


def test_the_same_objects_after_a_run_are_the_same(run):
    class Own(raynas.RandomSearch):
        def __init__(self, note):
            self.note = note

    arguments = {"space": own_space(2, 3), "search": Own("a"), "evaluate": Constant(0.5)}
    first = run(samples=1, epochs=1, **arguments)
    assert run(samples=1, epochs=1, **arguments).config == first.config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evaluate": raynas.Train(batch_size=0)}, "evaluate: train:batch_size=0"),
        ({"search": raynas.Evolution(sample=0)}, "search: evolution:sample=0"),
        ({"scheduler": raynas.Asha(reduction=1)}, "scheduler: asha:reduction=1"),
        ({"evaluate": Constant(threading.Lock())}, "cannot be sent to the workers"),
        ({"cpus_per_trial": 1e-5}, "cpus_per_trial=1e-05"),
        ({"name": "n" * 300}, "at most 200"),
        ({"storage_path": "a\0b"}, "storage_path='a\\\\x00b'"),
        ({"sampels": 3}, "Did you mean 'samples'"),
    ],
)
def test_wrong_objects_and_values_are_refused_at_once(arguments, message):
    with pytest.raises(raynas.InvalidArgument, match=message):
        resolve({"name": "x", **arguments})


def test_defaults_of_run_are_those_of_its_configuration():
    parameters = inspect.signature(raynas.run).parameters
    assert {key: p.default for key, p in parameters.items()} == {
        key: None if key in PLANNED else field.default for key, field in Config.model_fields.items()
    }
    arguments = {key: p.default for key, p in parameters.items()}
    resolved = resolve({**arguments, "name": "run"}).config
    assert {key: getattr(resolved, key) for key in ("samples", "epochs", "select")} == {
        key: Config.model_fields[key].default for key in ("samples", "epochs", "select")
    }
    named = {key: getattr(resolved, key).partition(":")[0] for key in ("space", "search")}
    assert named == {key: Config.model_fields[key].default for key in named}


def test_best_is_whole_or_not_there(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    (copy / "best" / "metrics.json").unlink()  # an extension is exporting
    result = raynas.load(copy)
    assert result.best.architecture == finished.best.architecture
    with pytest.raises(raynas.StorageError, match="no model yet"):
        result.best.model()
    before = raynas.load(finished.path).best
    made = json.loads((copy / "best" / "architecture.json").read_text())
    (copy / "best" / "architecture.json").write_text(json.dumps({**made, "architecture": "x"}))
    (copy / "best" / "metrics.json").write_text("{}")
    with pytest.raises(raynas.StorageError, match="another architecture"):
        replace(before, folder=copy / "best").model()


def test_fewer_samples_than_there_are_evaluations_are_not_written(run):
    first = run(samples=3, epochs=1, search="random")
    again = run(samples=2, epochs=1, search="random")
    assert again.config["samples"] == first.config["samples"] == 3
    assert len(again.trials) == 3


def test_the_unit_of_images_beyond_0_to_1_is_written(run):
    labels = np.arange(60) % 2
    images = np.random.default_rng(0).normal(500 * labels[:, None, None], 20, (60, 4, 4))
    result = run(data=(images, labels), space=own_space(2, 3), samples=1, epochs=1)
    made = json.loads((result.path / "best" / "architecture.json").read_text())
    assert "units of the training images" in made["input"]
    assert "0..1" not in made["input"]


class Silent(raynas.Evaluator):
    """Does not say how it retrains."""

    def trial(self, space, arch, data, epochs, seed, device):
        return Answering({"val_accuracy": 0.5})


class HalfTrain(raynas.Train):
    """Trains otherwise than its parent, which would retrain."""

    def trial(self, space, arch, data, epochs, seed, device):
        return Answering({"val_accuracy": 0.5})


@pytest.mark.parametrize("evaluator", [Silent(), HalfTrain()])
def test_no_recipe_is_replaced_silently(evaluator, tmp_path):
    refused = r"evaluate: .* retraining\(self, space, arch, data, epochs, seed, device\)"
    with pytest.raises(raynas.InvalidArgument, match=refused):
        raynas.run(**SMALL, evaluate=evaluator, storage_path=tmp_path, name="refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    "evaluator", [raynas.Train(), Constant(0.5), DivergingRetraining(), raynas.Proxy()]
)
def test_a_recipe_that_is_said_is_taken(evaluator):
    check_retraining(evaluator)
