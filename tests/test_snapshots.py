"""Weights after early epochs: kept by a run that is asked to, loaded from its folder."""

import os
import signal
from dataclasses import dataclass

import pytest
import torch
import yaml
from conftest import SMALL
from typer.testing import CliRunner

import raynas
import search_spaces
from raynas.cli import app
from raynas.errors import InvalidArgument, StorageError
from trials.data import load as load_data
from trials.training import Train, TrainingTrial, evaluate
from trials.trial import WEIGHTS

FIXED = {**SMALL, "search": "random", "scheduler": "fifo", "samples": 2}


@pytest.fixture(scope="module")
def kept(local_ray, tmp_path_factory):
    """A finished run of three epochs that kept the weights of two; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    return raynas.run(**{**FIXED, "epochs": 3}, snapshots=(2, 1), storage_path=folder, name="kept")


class Mortal(TrainingTrial):
    """A training whose process is killed in its third epoch, once."""

    def step(self):
        if self.epoch == 2 and not os.path.exists(self.recipe.mark):
            open(self.recipe.mark, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step()


@dataclass(frozen=True)
class Disturbed(Train):
    """Train, but for that.

    Attributes:
        mark: a file that is there once a process was killed.
    """

    mark: str = ""

    def trial(self, *arguments):
        trial = super().trial(*arguments)
        trial.__class__ = Mortal
        return trial

    retraining = Train.retraining


def networks_accuracy(result, state):
    space, data = search_spaces.get(result.config["space"]), load_data(result.config["data"])
    arch = space.from_string(state.architecture)
    network = space.build(arch, data.input_shape, data.num_classes)
    network.load_state_dict(state.weights)
    return evaluate(network, data.validation, torch.device("cpu"))[1]


class TestKept:
    def test_are_the_weights_of_their_epoch(self, kept):
        for index, curve in zip(kept.trials["evaluation"], kept.trials["curve"], strict=True):
            assert kept.folder.snapshots(index) == [1, 2]
            for epoch in (1, 2):
                state = kept.snapshot(index, epoch)
                assert [m["val_accuracy"] for m in state.history] == list(curve[:epoch])
                assert state.architecture == kept.trials["architecture"][index]
                assert networks_accuracy(kept, state) == pytest.approx(curve[epoch - 1], abs=0.01)

    def test_hold_weights_and_metrics_only(self, kept):
        assert set(kept.snapshot(0, 1).trial) == {WEIGHTS}
        small = kept.folder.snapshot(0, 1).stat().st_size
        assert small < kept.folder.checkpoint(0).stat().st_size

    def test_change_from_epoch_to_epoch(self, kept):
        first, second = (kept.snapshot(0, epoch).weights for epoch in (1, 2))
        assert not all(torch.equal(first[key], second[key]) for key in first)

    def test_those_of_the_last_epoch_are_always_there(self, kept, finished):
        for result, last in ((kept, 3), (finished, 2)):
            index = int(result.trials.query(f"epochs == {last}")["evaluation"].iloc[0])
            state = result.snapshot(index, last)
            assert len(state.history) == last
            assert set(state.trial) == {WEIGHTS}

    def test_missing_ones_are_named_with_those_that_are_there(self, kept):
        with pytest.raises(StorageError, match=r"evaluation 0 after epoch 4, only after 1, 2, 3\."):
            kept.snapshot(0, 4)
        with pytest.raises(StorageError, match=r"evaluation 9 after epoch 1, after none\..*=\[1\]"):
            kept.snapshot(9, 1)

    def test_a_damaged_one_is_said(self, kept, tmp_path):
        path = kept.folder.snapshot(1, 2)
        content = path.read_bytes()
        path.write_bytes(content[:100])
        try:
            with pytest.raises(StorageError, match=r"evaluation 1 .* cannot be read"):
                kept.snapshot(1, 2)
        finally:
            path.write_bytes(content)

    def test_the_run_says_that_it_keeps_them(self, kept):
        assert yaml.safe_load(kept.folder.configuration.read_text())["snapshots"] == [1, 2]

    def test_a_run_that_is_not_asked_keeps_none(self, finished):
        assert not list(finished.folder.checkpoints.glob("*-epoch-*"))


@pytest.mark.timeout(180)
def test_a_trial_that_is_killed_and_goes_on_keeps_the_same(local_ray, tmp_path):
    done, mark = tmp_path / "done", tmp_path / "killed"
    done.touch()
    whole, result = (
        raynas.run(
            **{**FIXED, "epochs": 3, "samples": 1}, evaluate=Disturbed(mark=str(path)),
            snapshots=[1, 2, 3], storage_path=tmp_path, name=f"run-{path.name}",
        )
        for path in (done, mark)
    )  # fmt: skip
    assert mark.exists()
    assert result.folder.snapshots(0) == [1, 2, 3]
    for epoch in (1, 2, 3):
        ours, theirs = result.snapshot(0, epoch), whole.snapshot(0, epoch)
        assert ours.weights.keys() == theirs.weights.keys()
        assert all(torch.equal(ours.weights[key], theirs.weights[key]) for key in ours.weights)


def test_a_run_that_goes_on_may_ask_for_others(local_ray, tmp_path):
    first = raynas.run(**FIXED, storage_path=tmp_path, name="run")
    assert first.folder.snapshots(0) == []
    more = raynas.resume(first.path, samples=3, snapshots="1")
    assert more.folder.snapshots(0) == []
    assert more.folder.snapshots(2) == [1]
    assert raynas.load(more.path).config["snapshots"] == [1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"snapshots": [0]}, "snapshots=0: Input should be greater than or equal to 1"),
        ({"snapshots": "1,x"}, "snapshots='x'"),
        ({"snapshots": (1, 3)}, r"snapshots=\[1, 3\]: an evaluation has only epochs=2"),
        ({"snapshots": [1], "evaluate": "proxy"}, "evaluate='proxy:.* trains none"),
    ],
)
def test_snapshots_that_cannot_be_are_refused(tmp_path, changes, said):
    with pytest.raises(InvalidArgument, match=said):
        raynas.run(**{**FIXED, **changes}, storage_path=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_flag_lists_them(tmp_path):
    arguments = ["run", "--snapshots", "3,1", "--epochs", "2", "--storage-path", str(tmp_path)]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code != 0
    assert "snapshots=[1, 3]" in answer.output + str(answer.exception)


def test_default_names_do_not_depend_on_them():
    from raynas.config.resolve import resolve

    one, other = (resolve({**FIXED, "snapshots": s}).config.name for s in ((), (1,)))
    assert one == other
