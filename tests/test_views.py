"""TensorBoard's files and the table of a long run: bounded, and caught up with at once."""

import pandas as pd
import pytest

import search_spaces
from raynas import Fifo, RandomSearch
from raynas.record.events import Finished, Reported, Session, Status, Suggested
from raynas.record.journal import Journal
from raynas.reports import table, tensorboard
from raynas.reports.tensorboard import TensorBoard
from raynas.search.search import Search
from trials.data import load

SPACE = search_spaces.get("nasbench201:channels=4,cells=1")
VALUES = (0.3, 0.2, 0.1, 0.4, 0.35, 0.5)


@pytest.fixture(scope="module")
def digits():
    return load("digits:fraction=0.1")


def events():
    """Six evaluations of two epochs; each third is the best when it ends."""
    yield Session(time=1.0)
    for index, (arch, value) in enumerate(zip(SPACE, VALUES, strict=False)):
        yield Suggested(index, SPACE.to_string(arch), time=10.0 * index)
        for epoch in (1, 2):
            yield Reported(index, {"val_accuracy": value * epoch}, time=10.0 * index + epoch)
        yield Finished(index, Status.COMPLETED, time=10.0 * index + 3)


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_catching_up_writes_what_listening_does(tmp_path, digits):
    live = TensorBoard(tmp_path / "live", SPACE, digits)
    for event in events():
        live(event)
    every = list(events())
    late = TensorBoard(tmp_path / "late", SPACE, digits)
    late.catch_up(every[:9])
    for event in every[9:]:
        late(event)
    assert len(contents(tmp_path / "live")) == 7
    assert contents(tmp_path / "live") == contents(tmp_path / "late")


def test_of_many_trials_there_are_the_first_and_the_best(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(tensorboard, "_TRIALS", 2)
    board = TensorBoard(tmp_path, SPACE, digits)
    board.catch_up(events())
    there = {path.name for path in (tmp_path / "trials").iterdir()}
    assert there == {"00000", "00001", "00003", "00005"}


def test_a_table_of_many_evaluations_leaves_out_what_takes_minutes(tmp_path, monkeypatch):
    search = Search(SPACE, RandomSearch(), Fifo(), 3, 1, 0, Journal(tmp_path))
    search.begin()
    while (evaluation := search.suggest()) is not None:
        search.report(evaluation.index, {"val_accuracy": 0.5})
        search.finish(evaluation.index, Status.COMPLETED)
    path = tmp_path / "trials.parquet"
    for flat, expected in ((10, True), (2, False)):
        monkeypatch.setattr(table, "_FLAT", flat)
        path.unlink(missing_ok=True)
        table.TrialsTable(search, path).write()
        rows = pd.read_parquet(path)
        assert len(rows) == 3
        assert ("neighborhood_mean" in rows) == expected
    search.journal.close()
