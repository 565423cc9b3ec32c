"""The stage `understand`, its section of the report, its figures, the verb."""

import json
import shutil

import pandas as pd
import pytest
from conftest import SMALL
from recorded_runs import events, unpack
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

import raynas
import search_spaces
from raynas.cli import app
from raynas.errors import InvalidArgument
from raynas.understanding.findings import read_scores
from trials.data import load
from trials.proxies.scoring import Scorer

FILES = ("topology", "convergence", "bias", "proxies", "scores")
FIGURES = ("topology", "convergence", "signals", "landscapes")

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def understood(local_ray, tmp_path_factory):
    """A run with `understand=True`, which tests may read and must not change."""
    return raynas.run(
        **SMALL, search="random", scheduler="fifo", understand=True, retrain_epochs=1,
        storage_path=tmp_path_factory.mktemp("runs"), name="understood",
    )  # fmt: skip


def kinds(run):
    return [event["event"] for event in events(run)]


def test_the_stage_writes_tables_and_figures(understood):
    folder = understood.path / "understanding"
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in FILES}
    assert len(tables["topology"]) == 4
    assert set(tables["topology"]["evaluation"]) == {0, 1, 2, 3}
    assert set(tables["convergence"]["metric"]) == {"train_loss", "val_accuracy"}
    assert {"population", "proposed", "won", "agreement"} <= set(tables["bias"]["step"])
    assert {"naswot", "synflow", "params", "accuracy after epoch 1"} <= set(
        tables["proxies"]["signal"]
    )
    assert tables["scores"]["naswot"].notna().all()
    assert all((folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in FIGURES)
    (event,) = (e for e in events(understood.path) if e["event"] == "understood")
    assert event["figures"] == list(FIGURES)
    assert (event["evaluations"], event["problems"]) == (4, {})
    assert kinds(understood.path)[-2:] == ["understood", "complete"]


def test_the_scores_are_those_of_the_proxies(understood):
    scores = read_scores(understood.path / "understanding")
    texts = list(understood.trials["architecture"])
    space, data = search_spaces.get(SMALL["space"]), load(SMALL["data"], seed=0)
    scorer = Scorer(space, data, "naswot", 128, seed=0)
    expected = [scorer.score(space.from_string(text)) for text in texts]
    assert [scores["naswot"][text] for text in texts] == pytest.approx(expected)


def test_the_report_has_the_sections(understood):
    text = understood.folder.report.read_text()
    assert "Is this search biased?" in text
    assert "Proposed, by depth: no evidence against uniform draws" in text
    assert "naswot: tau" in text
    assert text.count("<svg") >= 1 + len(FIGURES)
    assert "raynas understand" not in text


def test_tensorboard_has_the_figures(understood):
    board = EventAccumulator(str(understood.path / "tensorboard" / "understanding")).Reload()
    assert sorted(board.Tags()["images"]) == sorted(f"understanding/{name}" for name in FIGURES)


def test_understood_again_only_after_more_evaluations(understood, tmp_path):
    run = tmp_path / "understood"
    shutil.copytree(understood.path, run)
    before = len(events(run))
    raynas.resume(run)
    assert len(events(run)) == before
    scored = set(read_scores(run / "understanding")["naswot"])
    result = raynas.resume(run, samples=5)
    assert kinds(run)[before:].count("understood") == 1
    assert result.config["understand"]
    assert scored < set(read_scores(run / "understanding")["naswot"])
    assert len(pd.read_parquet(run / "understanding" / "topology.parquet")) == 5


def test_every_report_has_what_is_free(finished):
    text = finished.folder.report.read_text()
    assert "Is this search biased?" in text
    assert "come with <code>raynas understand</code>" in text
    assert not (finished.path / "understanding").exists()


def test_an_error_costs_nothing_but_its_part(tmp_path, monkeypatch):
    def broken(session):
        raise RuntimeError("no workers today")

    monkeypatch.setattr("raynas.stages.understand._scores", broken)
    run = unpack("random", tmp_path)
    result = raynas.resume(run, understand=True)
    assert result.finished
    assert result.history.understood.problems == {
        "scores": "RuntimeError: no workers today",
        "landscapes": "checkpoints/ holds no weights of what was trained any more.",
    }
    text = result.folder.report.read_text()
    assert "scores: RuntimeError: no workers today" in text
    assert "Is this search biased?" in text


def test_a_figure_that_fails_costs_no_report(tmp_path, monkeypatch):
    monkeypatch.setattr("raynas.stages.understand._scores", lambda session: {})
    monkeypatch.setattr("raynas.stages.understand.landscapes", lambda *_: pd.DataFrame())
    result = raynas.resume(unpack("random", tmp_path), understand=True)
    assert result.finished
    assert list(result.history.understood.problems) == ["landscapes"]
    assert "landscapes: KeyError" in result.folder.report.read_text()


def test_the_verb_on_an_old_run(tmp_path):
    run = unpack("random", tmp_path)
    done = CliRunner().invoke(app, ["understand", str(run), "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert any(sentence.startswith("naswot: tau") for sentence in content["sentences"])
    assert {row["signal"] for row in content["signals"]} >= {"naswot", "macs"}
    assert raynas.load(run).config["understand"]
    before = len(events(run))
    done = CliRunner().invoke(app, ["understand", str(run)])
    assert "Proposed, by width" in done.stdout
    assert "of the space" in done.stdout
    assert len(events(run)) == before


def test_fewer_than_three_trained(tmp_path):
    result = raynas.resume(unpack("promotion", tmp_path), understand=True)
    text = result.folder.report.read_text()
    assert "Fewer than 3 architectures were trained to the end (2)" in text
    assert "Survived epoch 1, by depth" in text
    assert not (result.path / "understanding" / "scores.parquet").exists()


def test_a_space_without_cells(tmp_path):
    result = raynas.resume(unpack("adanet", tmp_path), understand=True)
    text = result.folder.report.read_text()
    assert "no cells as graphs, so no width and no depth" in text
    assert "Proposed, by MACs" in text
    assert "naswot: tau" in text
    assert not (result.path / "understanding" / "topology.parquet").exists()


def test_what_is_no_finished_run(tmp_path):
    for path, words in ((tmp_path, "Give the folder of a finished run"),
                        (unpack("killed", tmp_path), "not finished")):  # fmt: skip
        done = CliRunner().invoke(app, ["understand", str(path)])
        assert isinstance(done.exception, InvalidArgument)
        assert words in str(done.exception)
