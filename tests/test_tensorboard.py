"""The event files of recorded runs: what TensorBoard shows first, and as what."""

import pytest
from recorded_runs import unpack
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import search_spaces
from raynas.record.history import History
from raynas.record.journal import read_events
from raynas.record.results import load
from raynas.reports.tensorboard import TensorBoard
from trials.data import load as load_data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(history, folder) of event files that were made of a recorded journal."""
    folder = tmp_path_factory.mktemp("boards")
    run = unpack("evolution", folder)
    config = load(run).config
    board = TensorBoard(
        folder / "board", search_spaces.get(config["space"]), load_data(config["data"], seed=0)
    )
    for event in read_events(run):
        board(event)
    return History(read_events(run)), folder / "board"


def board_of(folder):
    return EventAccumulator(str(folder)).Reload()


def runs(folder):
    return sorted(path.parent for path in folder.rglob("events.out.*"))


def test_the_search_comes_first_and_its_accuracy_on_top(written):
    _, folder = written
    tags = sorted({tag for run in runs(folder) for tag in board_of(run).Tags()["scalars"]})
    assert tags[:2] == ["search/best_val_accuracy", "search/evaluations"]
    assert all("/" in tag for tag in tags)
    images = set(board_of(folder / "search").Tags()["images"])
    assert min({*tags, *images}) == "search/best_val_accuracy"
    assert not any("params" in tag or "macs" in tag for tag in tags)  # they are no curves


def test_constants_are_columns(written):
    history, folder = written
    for evaluation in history.finished.values():
        board = board_of(folder / "trials" / f"{evaluation.index:05d}")
        content = board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        columns = HParamsPluginData.FromString(content).session_start_info.hparams
        assert columns["cost/params"].number_value == evaluation.history[-1]["params"]
        assert columns["cost/macs"].number_value == evaluation.history[-1]["macs"]
        assert columns["architecture"].string_value == evaluation.notation
        assert min(columns) == "achieved/val_accuracy"  # so TensorBoard orders them
        assert columns[min(columns)].number_value == evaluation.value


def test_the_accuracy_is_the_first_metric_of_the_table(written):
    history, folder = written
    for evaluation in history.finished.values():
        board = board_of(folder / "trials" / f"{evaluation.index:05d}")
        content = board.summary_metadata["_hparams_/experiment"].plugin_data.content
        first = HParamsPluginData.FromString(content).experiment.metric_infos[0]
        assert first.name.tag == "val/accuracy"
        assert board.Scalars(first.name.tag)[-1].value == pytest.approx(evaluation.value)


def test_the_winner_is_drawn_when_there_is_one(written):
    history, folder = written
    board = board_of(folder / "search")
    images = set(board.Tags()["images"])
    assert {"search/winner", "search/figure_best_so_far"} <= images
    for tag in images:
        (image,) = board.Images(tag)
        assert image.step == len(history.finished)
        assert image.encoded_image_string.startswith(b"\x89PNG")


def test_what_cannot_be_drawn_costs_nothing(tmp_path, monkeypatch):
    def broken(self, arch):
        raise RuntimeError("no picture today")

    run = unpack("random", tmp_path)
    config = load(run).config
    space = search_spaces.get(config["space"])
    monkeypatch.setattr(type(space), "draw", broken)
    board = TensorBoard(tmp_path / "board", space, load_data(config["data"], seed=0))
    for event in read_events(run):
        board(event)
    images = board_of(tmp_path / "board" / "search").Tags()["images"]
    assert "search/winner" not in images
    assert "search/figure_best_so_far" in images
