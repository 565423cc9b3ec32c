"""Run folders that an earlier version has left are read, continued and extended."""

import json
import math

import pyarrow.parquet as pq
import pytest
from recorded_runs import KILLED, NAMES, RUNS, events, unpack

import raynas

#: Those that the quick tests continue: a search alone, a finished ensemble, what a kill left.
QUICK = ("table", "adanet", KILLED)

FINISHED = tuple(name for name in NAMES if name != KILLED)

ENSEMBLES = ("adanet", "adanet-learnt", "ensemble")

MORE = 2  # evaluations of an extension


def some_slow(names):
    """Mark all but the quick ones as slow."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def lines(run):
    return (run / "journal" / "events.jsonl").read_text().splitlines()


def kinds(run):
    return [event["event"] for event in events(run)]


def read(path):
    return json.loads(path.read_text())


def without_nan(rows):
    return [
        {key: value for key, value in row.items() if value is not None and value == value}
        for row in rows
    ]


def ended(run):
    """By hand: the status of every evaluation that has ended."""
    return {e["evaluation"]: e["status"] for e in events(run) if e["event"] == "finished"}


def best_by_hand(run, metric):
    """The architecture, and the value, of the evaluation that ended best."""
    names = {e["evaluation"]: e["architecture"] for e in events(run) if e["event"] == "suggested"}
    told = {index: [] for index in names}
    for event in events(run):
        if event["event"] == "reported":
            told[event["evaluation"]].append(event["metrics"][metric])
    good = [i for i, status in ended(run).items() if status in ("completed", "stopped")]
    best = max(good, key=lambda index: (len(told[index]), told[index][-1], -index))
    return names[best], told[best][-1]


@pytest.mark.parametrize("name", NAMES)
def test_loaded(name, tmp_path):
    run = unpack(name, tmp_path)
    before = lines(run)
    result = raynas.load(run)
    suggested = [e for e in events(run) if e["event"] == "suggested"]
    assert result.finished is (name != KILLED)
    assert list(result.trials["architecture"]) == [e["architecture"] for e in suggested]
    assert list(result.trials["evaluation"]) == list(range(len(suggested)))
    known = dict(enumerate(result.trials["status"]))
    assert known == dict.fromkeys(range(len(suggested)), "running") | ended(run)
    reported = [e["evaluation"] for e in events(run) if e["event"] == "reported"]
    assert list(result.trials["epochs"]) == [reported.count(i) for i in range(len(suggested))]
    if name == KILLED:
        found = result.best.architecture, result.best.metrics[result.metric]
        assert found == best_by_hand(run, result.metric)
    else:
        assert result.best.architecture == read(run / "best" / "architecture.json")["architecture"]
        assert result.best.metrics == read(run / "best" / "metrics.json")
        assert math.isfinite(result.best.metrics["test_accuracy"])
        written = pq.read_table(run / "trials.parquet").to_pylist()
        found = result.trials.to_dict("records")
        columns = set(result.trials)
        written = [{key: value for key, value in row.items() if key in columns} for row in written]
        assert without_nan(map(plain, found)) == without_nan(written)
    assert lines(run) == before


def plain(row):
    return {key: list(v) if isinstance(v, list) else v for key, v in row.items()}


@pytest.mark.parametrize("name", FINISHED)
def test_the_best_network_is_built_with_its_weights(name, tmp_path):
    result = raynas.load(unpack(name, tmp_path))
    weights = result.best.model().state_dict()
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


@pytest.mark.parametrize("name", ENSEMBLES)
def test_the_ensemble_is_read(name, tmp_path):
    run = unpack(name, tmp_path)
    ensemble = raynas.load(run).ensemble
    assert ensemble.metrics == read(run / "ensemble" / "ensemble.json")["metrics"]
    assert len(ensemble.members) == ensemble.metrics["members"] > 1
    assert not ensemble.curves.empty
    assert not ensemble.diversity.empty


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("name", some_slow(FINISHED))
def test_a_finished_run_has_nothing_to_resume(name, tmp_path):
    run = unpack(name, tmp_path)
    before = lines(run)
    files = {path: path.read_bytes() for path in (run / "best").iterdir()}
    result = raynas.resume(run)
    assert result.path == run
    assert lines(run) == before
    assert {path: path.read_bytes() for path in (run / "best").iterdir()} == files


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_that_lacks_a_file_is_made_anew(name, tmp_path):
    run = unpack(name, tmp_path)
    before = lines(run)
    (run / "ensemble" / "model.pt2").unlink()
    raynas.resume(run)
    assert lines(run)[: len(before)] == before
    assert kinds(run)[len(before) :] == ["session", "ensemble", "complete"]
    then, now = (event for event in events(run) if event["event"] == "ensemble")
    assert now["evaluations"] == then["evaluations"]
    assert now["metrics"]["members"] == then["metrics"]["members"]
    assert (run / "ensemble" / "model.pt2").stat().st_size > 0


@pytest.mark.usefixtures("local_ray")
def test_a_killed_run_is_completed(tmp_path):
    run, whole = unpack(KILLED, tmp_path), unpack("killed-continued", tmp_path)
    before = lines(run)
    unfinished = raynas.load(run)
    assert "running" in set(unfinished.trials["status"])
    result = raynas.resume(run)
    assert lines(run)[: len(before)] == before
    assert result.finished
    assert kinds(run).count("session") == 2
    assert set(result.trials["status"]) == {"completed"}
    assert set(result.trials["epochs"]) == {4}
    assert len(result.trials) == RUNS["killed-continued"]["samples"]
    # Another kind of machine may round, and then choose, otherwise; the kinds of steps stay.
    # That a trial has got its place was not recorded then.
    order = [kind for kind in kinds(run) if kind not in ("session", "placed")]
    assert order == [kind for kind in kinds(whole) if kind != "session"]
    assert (run / "best" / "weights.safetensors").exists()


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("name", some_slow(NAMES))
def test_extended(name, tmp_path):
    run = unpack(name, tmp_path)
    before = lines(run)
    samples = raynas.load(run).config["samples"]
    evaluations = kinds(run).count("suggested")
    result = raynas.resume(run, samples=samples + MORE)
    assert lines(run)[: len(before)] == before
    assert result.finished
    assert "running" not in set(result.trials["status"])
    if name == "naswot":  # it asks for one architecture, and has that
        assert len(result.trials) == evaluations
    else:
        assert len(result.trials) == samples + MORE
    assert result.config["samples"] == samples + MORE
    if (run / "ensemble").exists():
        assert kinds(run).count("ensemble") == 2
        assert result.ensemble.model() is not None
