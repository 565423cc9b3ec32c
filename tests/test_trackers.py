"""Trackers: what other tools show of a run."""

import subprocess
import sys

import pytest
import yaml
from conftest import SMALL
from recorded_runs import unpack

import raynas
from raynas.errors import InvalidArgument, RaynasError
from raynas.record.events import (
    Complete,
    Finished,
    Promoted,
    Reported,
    Retrained,
    Session,
    Status,
    Suggested,
)
from raynas.record.folder import RunFolder
from raynas.record.history import History
from raynas.record.journal import read_events
from raynas.trackers import TrackedRun, Tracker
from raynas.trackers.mlflow import MLflow
from raynas.trackers.wandb import WandB
from trials.places import place

RUN = {**SMALL, "epochs": 1, "search": "random", "scheduler": "fifo"}


class Hears(Tracker):
    """Keeps what it hears, or fails from the first evaluation that has ended."""

    def __init__(self, fails=False):
        self.fails, self.events = fails, []

    def track(self, event, run):
        self.events.append(event)
        if isinstance(event, Finished):
            assert event.evaluation in run.history.finished
            if self.fails:
                raise OSError("no room left")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """MLflow's store in a folder; Weights & Biases without network."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    return tmp_path


def shown(experiment):
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    search = [run for run in found if "raynas.folder" in run.data.tags]
    nested = [run for run in found if "raynas.evaluation" in run.data.tags]
    return client, search, sorted(nested, key=lambda run: run.info.run_name)


def told(tracker, path):
    """Tell a tracker of a run that is over, as one that listens hears it."""
    history, events = History(), read_events(path)
    run = TrackedRun(RunFolder(path), raynas.load(path).config, history)
    for event in events:
        history.apply(event)
        tracker.track(event, run)


def test_mlflow_has_every_evaluation_once_however_often_a_run_goes_on(store, local_ray):
    arguments = {**RUN, "storage_path": store, "name": "digits", "tracker": "mlflow:photos"}
    raynas.run(**{**arguments, "samples": 2})
    result = raynas.run(**{**arguments, "samples": 3})
    client, searches, nested = shown("photos")
    assert [run.info.run_name for run in nested] == ["00000", "00001", "00002"]
    (search,) = searches
    assert {run.data.tags["mlflow.parentRunId"] for run in nested} == {search.info.run_id}
    accuracies = [run.data.metrics["val_accuracy"] for run in nested]
    assert accuracies == pytest.approx(list(result.trials["val_accuracy"]))
    assert [run.data.params["architecture"] for run in nested] == list(
        result.trials["architecture"]
    )
    assert search.data.params["space"] == result.config["space"]
    assert search.data.metrics["search/best_val_accuracy"] == pytest.approx(max(accuracies))
    assert search.info.status == "FINISHED"
    names = {file.path for file in client.list_artifacts(search.info.run_id)}
    assert {"report.html", "trials.parquet", "weights.safetensors"} <= names

    told(WandB("photos"), result.path)
    written = list((store / "wandb").glob("offline-run-*/*.wandb"))
    assert len(written) == 3 + 2 + 2  # evaluations; of both calls the retraining and the search


def test_an_evaluation_that_was_half_written_is_written_anew(store):
    tracker = MLflow("half")
    history = History()
    run = TrackedRun(RunFolder(store / "run"), {"space": "darts"}, history)
    for event in (Session(), Suggested(0, "a"), Finished(0, Status.FAILED, "out of memory")):
        history.apply(event)
        tracker.track(event, run)
    client, _, (nested,) = shown("half")
    assert nested.info.status == "FAILED"
    assert nested.data.params["reason"] == "out of memory"
    client.update_run(nested.info.run_id, status="RUNNING")
    MLflow("half").track(Session(), run)
    _, searches, nested = shown("half")
    assert [run.info.status for run in nested] == ["FAILED"]
    assert len(searches) == 1


def test_an_evaluation_that_went_on_is_shown_as_it_ended(store):
    tracker, history = MLflow("on"), History()
    run = TrackedRun(RunFolder(store / "run"), {"space": "darts"}, history)
    for event in (
        Session(), Suggested(0, "a"), Reported(0, {"val_accuracy": 0.1}),
        Finished(0, Status.STOPPED), Promoted(0), Reported(0, {"val_accuracy": 0.9}),
        Finished(0, Status.COMPLETED),
    ):  # fmt: skip
        history.apply(event)
        tracker.track(event, run)
    _, _, (nested,) = shown("on")
    assert nested.data.params["status"] == "completed"
    assert nested.data.metrics["val_accuracy"] == 0.9


def test_files_in_an_object_store_are_kept_too(store):
    folder = RunFolder(place("memory://raynas/tracked/run"))
    folder.report.write_text("told")
    (folder.best / "network.py").write_text("built")
    history = History()
    run, tracker = TrackedRun(folder, {}, history), MLflow("stored")
    tracker.track(Session(), run)
    tracker.track(Complete(0), run)
    client, (search,), _ = shown("stored")
    assert search.info.status == "FINISHED"
    names = {file.path for file in client.list_artifacts(search.info.run_id)}
    assert names == {"report.html", "network.py"}


def test_a_tracker_of_ones_own_hears_all_and_ends_no_run(tmp_path, local_ray, capsys):
    tracker = Hears()
    result = raynas.run(**{**RUN, "samples": 2}, storage_path=tmp_path, name="own", tracker=tracker)
    kinds = [type(event) for event in tracker.events]
    assert kinds[0] is Session
    assert kinds[-1] is Complete
    assert Retrained in kinds
    assert kinds.count(Finished) == len(result.trials)

    tracker = Hears(fails=True)
    result = raynas.run(
        **{**RUN, "samples": 2}, storage_path=tmp_path, name="fails", tracker=tracker
    )
    assert result.finished
    said = " ".join(capsys.readouterr().err.split())
    assert "Hears shows no more of this run" in said
    assert [type(event) for event in tracker.events].count(Finished) == 1


@pytest.mark.parametrize(
    ("tracker", "message"),
    [("mlfow", "Did you mean 'mlflow'"), ("wandb:group=a", "group"), (3, "nor a Tracker")],
)
def test_what_is_no_tracker_is_refused(tmp_path, tracker, message):
    with pytest.raises(RaynasError, match=message):
        raynas.run(**RUN, storage_path=tmp_path, tracker=tracker)


def test_a_missing_package_is_named_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InvalidArgument, match=r"pip install 'raynas\[mlflow\]'"):
        raynas.run(**RUN, storage_path=tmp_path, tracker="mlflow")


def test_trackers_are_imported_only_where_they_are_asked_for():
    code = "import raynas, sys; raynas.run; print({'mlflow', 'wandb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("tracker", ["Hears", "mlflow:experiment=photos"])
def test_a_report_is_written_where_the_tracker_is_not(tmp_path, monkeypatch, tracker):
    path = unpack("random", tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    config = yaml.safe_load((path / "run.yaml").read_text()) | {"tracker": tracker}
    (path / "run.yaml").write_text(yaml.safe_dump(config))
    assert raynas.report(path).is_file()
