"""Run folders in an object store: what is there when, one writer, kills, refusals."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from object_store import s3_server
from PIL import Image
from recorded_runs import unpack
from typer.testing import CliRunner

import raynas
from raynas import InvalidArgument, JournalError, StorageError
from raynas.cli.app import app
from raynas.config.resolve import resolve
from raynas.drivers.visibility import _problem
from raynas.record import lease, object_log
from raynas.record.events import Finished, Reported, Status, Suggested
from raynas.record.folder import RunFolder, read_json, write, write_json
from raynas.record.journal import Journal, is_locked, read_events
from raynas.understanding.findings import read_scores, write_scores
from trials import data as trial_data
from trials import places
from trials.places import is_local, key_of, place, store_of


@pytest.fixture(scope="module")
def s3():
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with s3_server() as url:
        yield url


@pytest.fixture(params=["memory", "s3"])
def folder(request):
    """A run folder of its own in a store."""
    url = request.getfixturevalue("s3") if request.param == "s3" else "memory://raynas"
    return place(f"{url}/{uuid.uuid4().hex}/run")


@pytest.fixture
def s3_folder(s3):
    return place(f"{s3}/{uuid.uuid4().hex}/run")


def segments(folder):
    store = store_of(folder)
    names = (key.rpartition("/")[2] for key in store.ls(key_of(folder / "journal"), detail=False))
    return sorted(name for name in names if name.startswith("events"))


def suggested(folder):
    return [e.evaluation for e in read_events(folder)]


def test_local_paths_stay_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place("runs") == tmp_path / "runs"
    assert place(f"file://{tmp_path}") == place(tmp_path) == tmp_path
    assert is_local(place("~"))
    assert not is_local(place("memory://runs/x"))
    assert str(place("s3:/bucket/x")) == "s3://bucket/x" == str(place("s3://bucket/x/"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/x", "ftp:// is no store that is known: give s3://"),
        ("s3://", "followed by a bucket"),
        ("s3://key:secret@bucket/x", "do not belong there"),
        ("s3://bucket/a//b", "'' is no name"),
        ("s3://bucket/../other", "'..' is no name"),
        ("s3://bucket/a?versionId=1", "no name of a folder"),
        ("s3://bucket/a\nb", "no name of a folder"),
        ("s3://bucket/*", "no name of a folder"),
    ],
)
def test_odd_urls_are_refused(url, said):
    arguments = {"data": "digits:fraction=0.3", "storage_path": url, "name": "run"}
    with pytest.raises(InvalidArgument, match=re.escape(said)) as refused:
        resolve(arguments)
    assert str(refused.value).startswith("storage_path=")
    assert "secret@" not in str(refused.value).partition(": ")[2]


@pytest.mark.parametrize(("url", "extra"), [("s3://bucket/x", "s3"), ("gs://bucket/x", "gs")])
def test_a_missing_package_is_named(monkeypatch, url, extra):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(places, "import_module", missing)
    with pytest.raises(InvalidArgument, match=re.escape(f"pip install 'raynas[{extra}]'")):
        place(url)


def test_odd_names_that_are_allowed(s3):
    path = place(f"{s3}/with space/größe=1,+@%41/run")
    write_json(path / "a.json", {"x": 1})
    assert read_json(path / "a.json") == {"x": 1}
    assert [file.name for file in path.iterdir()] == ["a.json"]


def test_files_are_whole_or_not_there(folder):
    write(folder / "file", lambda path: path.write_text("first"))

    def half(path):
        path.write_text("second, ha")
        raise OSError("disk full")

    with pytest.raises(StorageError, match="disk full"):
        write(folder / "file", half)
    assert (folder / "file").read_text() == "first"


def test_a_put_is_tried_again(folder, monkeypatch):
    store, pauses = store_of(folder), []
    put = store.put_file

    def failing(*arguments):
        if len(pauses) < 2:
            raise ConnectionError("no route to host")
        put(*arguments)

    monkeypatch.setattr(store, "put_file", failing)
    monkeypatch.setattr("raynas.record.folder.time.sleep", pauses.append)
    write(folder / "file", lambda path: path.write_text("content"))
    monkeypatch.undo()
    assert pauses == [1, 2]
    assert (folder / "file").read_text() == "content"


def test_tables_come_back(folder):
    scores = {"naswot": {"a": 1.0, "b": 2.0}}
    assert read_scores(folder / "understanding") == {}
    write_scores(folder / "understanding", scores)
    assert read_scores(folder / "understanding") == scores


def test_discarded_checkpoints_are_removed(folder):
    run = RunFolder(folder)
    for index in range(4):
        write(run.checkpoint(index), lambda path: path.write_bytes(b"weights"))
    run.discard([1, 3, 7])
    assert [run.checkpoint(i).exists() for i in range(4)] == [True, False, True, False]
    RunFolder(folder / "empty").discard([1])


def test_events_come_back_in_order(folder):
    with Journal(folder) as journal:
        for i in range(3):
            journal.append(Suggested(i, "a"))
        assert is_locked(folder)
    assert not is_locked(folder)
    with Journal(folder) as journal:
        assert [e.evaluation for e in journal.events] == [0, 1, 2]
        journal.append(Suggested(3, "a"))
    assert suggested(folder) == [0, 1, 2, 3]


def test_what_must_not_be_lost_is_there_at_once_and_the_rest_within_a_second(folder):
    with Journal(folder) as journal:
        journal.append(Suggested(0, "a"))
        assert len(read_events(folder)) == 1
        journal.append(Reported(0, {"val_accuracy": 0.5}))
        assert len(read_events(folder)) == 1
        journal.append(Finished(0, Status.COMPLETED))
        assert len(read_events(folder)) == 3
        journal.append(Reported(0, {"val_accuracy": 0.5}))
        deadline = time.monotonic() + 60
        while len(read_events(folder)) < 4:  # by itself
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_cheap_evaluations_wait_for_each_other(folder):
    with Journal(folder, prompt=False) as journal:
        before = len(segments(folder))
        for i in range(300):
            journal.append(Suggested(i, "a"))
        assert len(segments(folder)) < before + 50
    assert suggested(folder) == list(range(300))


def test_many_segments_become_few(folder, monkeypatch):
    monkeypatch.setattr(object_log, "_TOGETHER", 5)
    for session in range(2):
        with Journal(folder) as journal:
            assert len(journal.events) == session * 60
            for i in range(60):
                journal.append(Suggested(session * 60 + i, "a"))
    assert suggested(folder) == list(range(120))
    assert len(segments(folder)) < 30
    # A kill between putting together and removing leaves segments that are in the larger one.
    whole = segments(folder)[0]
    assert not whole.startswith("events-00000000-00000000")
    (folder / "journal" / "events-00000001-00000001.jsonl").write_bytes(b"left over\n")
    assert suggested(folder) == list(range(120))
    (folder / "journal" / whole).unlink()
    (folder / "journal" / "events-00000001-00000001.jsonl").unlink()
    with pytest.raises(JournalError, match="lacks the segment 00000000"):
        read_events(folder)
    with pytest.raises(JournalError, match="lacks the segment 00000000"):
        Journal(folder)
    assert not is_locked(folder)


def test_a_damaged_segment_is_an_error(folder):
    with Journal(folder) as journal:
        journal.append(Suggested(0, "a"))
    (folder / "journal" / segments(folder)[-1]).write_bytes(b"garbage")
    with pytest.raises(JournalError, match="cannot be read after 0 bytes"):
        Journal(folder)
    assert not is_locked(folder)


def test_two_writers_are_refused(folder):
    with Journal(folder), pytest.raises(StorageError, match=f"process {os.getpid()} on"):
        Journal(folder)
    Journal(folder).close()


def test_of_drivers_that_start_at_the_same_moment_at_most_one_writes(s3_folder):
    store_of(s3_folder).exists("raynas")  # connected before, so that they do start together
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: opened_or_not(s3_folder), range(4)))
    journals = [one for one in opened if isinstance(one, Journal)]
    assert len(journals) <= 1
    assert all("in use by another process" in str(one) for one in opened if one not in journals)
    for journal in journals:
        journal.append(Suggested(0, "a"))
        journal.close()
    with Journal(s3_folder) as journal:
        assert len(journal.events) == len(journals)


def opened_or_not(folder):
    try:
        return Journal(folder)
    except StorageError as error:
        return error


def test_a_store_that_overwrites_is_refused(folder, monkeypatch):
    store = store_of(folder)
    pipe = store.pipe_file
    monkeypatch.setattr(store, "pipe_file", lambda path, value, mode="": pipe(path, value))
    with pytest.raises(StorageError, match="conditional writes"):
        Journal(folder)
    monkeypatch.undo()
    Journal(folder).close()


WRITER = (
    "import sys; from trials.places import place; from raynas.record.journal import Journal\n"
    "from raynas.record.events import Finished, Status, Suggested\n"
    "journal = Journal(place(sys.argv[1]))\n"
    "for i in range(10**9):\n"
    "    journal.append(Suggested(i, 'a'))\n"
    "    journal.append(Finished(i, Status.COMPLETED)); print(i, flush=True)"
)


def test_a_killed_process_leaves_all_that_has_ended_and_its_lease_is_taken_over(s3_folder):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(s3_folder)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    while int(writer.stdout.readline()) < 40:
        pass
    with pytest.raises(StorageError, match=f"in use by another process .process {writer.pid} on"):
        Journal(s3_folder)
    os.kill(writer.pid, signal.SIGKILL)
    seen = [int(line) for line in writer.stdout.read().split("\n") if line]
    writer.wait()
    started = time.monotonic()
    with Journal(s3_folder) as journal:
        ended = [e.evaluation for e in journal.events if isinstance(e, Finished)]
        assert ended[: seen[-1] + 1] == list(range(seen[-1] + 1))
    assert time.monotonic() - started < lease.LEASE_SECONDS  # it is known to be dead


def test_a_lease_that_is_not_renewed_is_taken_over(folder, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3.0)
    held = {"holder": "another", "host": "far", "machine": "unknown", "pid": 1, "time": 0}
    write_json(RunFolder(folder).lease, held)
    started = time.monotonic()
    with Journal(folder):
        assert time.monotonic() - started >= 3
        assert is_locked(folder)


def test_a_process_that_slept_does_not_write_into_another_ones_journal(folder, monkeypatch):
    """As after SIGSTOP, or a pause of the machine: the other has gone on meanwhile."""
    first = Journal(folder)
    first.append(Suggested(0, "a"))
    monkeypatch.setattr(first._log._lease, "beat", lambda: None)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3.0)
    with Journal(folder) as second:
        assert len(second.events) == 1
        with pytest.raises(StorageError, match=r"Another process goes on|in use by another"):
            first.append(Suggested(1, "first"))
        second.append(Suggested(1, "second"))
        with pytest.raises(StorageError):
            first.close()
        second.append(Suggested(2, "second"))
    assert [e.architecture for e in read_events(folder)] == ["a", "second", "second"]


def test_a_store_that_fails_for_a_while_costs_nothing(folder, monkeypatch):
    create, failures, pauses = object_log._create, [], []

    def failing(path, content):
        if len(failures) < 3:
            failures.append(path)
            if len(failures) == 2:
                create(path, content)  # written, but the answer is lost
            raise ConnectionError("no route to host")
        create(path, content)

    with Journal(folder) as journal:
        monkeypatch.setattr(object_log, "_create", failing)
        monkeypatch.setattr(object_log.time, "sleep", pauses.append)
        journal.append(Suggested(0, "a"))
        monkeypatch.undo()
    assert pauses == [1, 2, 4]
    assert suggested(folder) == [0]


def test_a_store_that_fails_for_good_ends_the_run_with_one_message(folder, monkeypatch):
    def failing(path, content):
        raise ConnectionError("no route to host")

    journal = Journal(folder)
    monkeypatch.setattr(object_log, "_create", failing)
    monkeypatch.setattr(object_log.time, "sleep", lambda seconds: None)
    with pytest.raises(StorageError, match=r"no route to host\. Once that is mended"):
        journal.append(Suggested(0, "a"))
    with pytest.raises(StorageError):
        journal.close()


def test_no_run_there(folder, s3):
    with pytest.raises(StorageError, match="is not a run folder"):
        raynas.load(str(folder))
    with pytest.raises(StorageError, match="has no journal"):
        read_events(folder)
    with pytest.raises(StorageError, match="bucket does not exist"):
        Journal(place("s3://there-is-no-such-bucket/run"))


def test_what_a_node_says_of_the_folder(tmp_path):
    marker = tmp_path / "seen"
    assert _problem(marker, "token") == "does not see it"
    marker.write_text("another")
    assert _problem(marker, "token") == "sees another folder under this name"
    marker.write_text("token")
    assert _problem(marker, "token") is None
    assert list(tmp_path.iterdir()) == [marker]


def test_a_place_that_only_the_driver_sees_is_refused_at_the_start(local_ray):
    with pytest.raises(StorageError, match=r"not there for every node.*node .* does not see it"):
        raynas.run(
            space="nasbench201:channels=2,cells=1", data="digits:fraction=0.3", samples=2,
            epochs=1, storage_path="memory://only-here", name="run",
        )  # fmt: skip
    with pytest.raises(StorageError, match="no evaluation"):
        assert raynas.load("memory://only-here/run").best


RUN = [
    sys.executable, "-m", "raynas", "run", "--space", "nasbench201:channels=2,cells=1",
    "--data", "digits:fraction=0.3", "--search", "random", "--scheduler", "fifo",
    "--samples", "3", "--epochs", "2", "--max-concurrent", "1", "--name", "run",
    "--ensemble", "saep",
]  # fmt: skip


@pytest.mark.slow  # a run in another process, twice
@pytest.mark.timeout(1500)
def test_a_run_in_s3_from_a_kill_to_its_model(s3_folder, tmp_path):
    command = [*RUN, "--storage-path", str(s3_folder.parent)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    try:
        while not any(isinstance(e, Finished) for e in events_of(s3_folder)):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    seen = events_of(s3_folder)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert read_events(s3_folder)[: len(seen)] == seen
    result = raynas.load(str(s3_folder))
    assert result.finished
    assert list(result.trials["status"]) == ["completed"] * 3
    model = result.best.model()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    for name in ("report.html", "trials.parquet", "best/model.pt2", "tensorboard/search"):
        assert (s3_folder / name).exists()
    exported = subprocess.run(
        [sys.executable, "-m", "raynas", "export", str(s3_folder), "--to", tmp_path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr
    assert torch.export.load(tmp_path / "model.pt2")
    status = subprocess.run(
        [sys.executable, "-m", "raynas", "status", str(s3_folder), "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(status.stdout)["state"] == "finished"
    assert result.ensemble.model()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert len(result.ensemble.members)


def events_of(folder):
    try:
        return read_events(folder)
    except StorageError:
        return []


@pytest.fixture(scope="module")
def images(s3, tmp_path_factory):
    """The same images as class folders and as a Parquet file, here and in S3: (here, there)."""
    here, there = tmp_path_factory.mktemp("data"), place(f"{s3}/data-{uuid.uuid4().hex}")
    rng, rows = np.random.default_rng(0), []
    for label, level in (("dark", 40), ("light", 200)):
        (here / "photos" / label).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(rng.normal(level, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
            file = here / "photos" / label / f"{i:03d}.png"
            Image.fromarray(pixels).save(file)
            rows.append({"image": file.read_bytes(), "label": int(label == "light")})
    pq.write_table(pa.Table.from_pylist(rows), here / "photos.parquet")
    for file in here.rglob("*.p*"):
        (there / file.relative_to(here).as_posix()).write_bytes(file.read_bytes())
    return here, there


@pytest.mark.parametrize(
    "source", ["{}/photos", "folder:{}/photos", "{}/photos.parquet", "parquet:{}/photos.parquet"]
)
def test_data_in_a_store_are_those_of_this_machine(images, source):
    here, there = (trial_data.load(source.format(place)) for place in images)
    assert there.name == here.name == "photos"
    assert there.fingerprint == here.fingerprint
    text = trial_data.absolute(source.format(images[1]))
    assert text == source.format(images[1])
    assert trial_data.load(text).fingerprint == here.fingerprint


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{}/nothing", "there is no such folder or file"),
        ("{}/nothing.parquet", "cannot be read as Parquet"),
        ("folder:{}/photos/dark", "{}/photos/dark has no class folders"),
        ("folder:{}/photos,limit_bytes=4000", "take 4,608 bytes, and limit_bytes=4,000"),
        ("s3://there-is-no-such-bucket/x", "there is no such folder or file"),
        ("https://example.org/photos", "https:// is no store that is known"),
    ],
)
def test_data_that_cannot_be_read_are_refused(images, source, said):
    with pytest.raises(InvalidArgument, match=re.escape(said.format(images[1]))):
        trial_data.load(source.format(images[1]))


def test_report_and_status_of_a_run_in_a_store(tmp_path):
    run = unpack("ensemble", tmp_path)
    there = place(f"memory://raynas/{uuid.uuid4().hex}/run")
    for file in run.rglob("*"):
        if file.is_file():
            name = file.relative_to(run).as_posix()
            name = name.replace("events.jsonl", "events-00000000-00000000.jsonl")
            (there / name).write_bytes(file.read_bytes())
    assert str(raynas.report(str(there))) == str(there / "report.html")
    status = CliRunner().invoke(app, ["status", str(there), "--json"])
    assert json.loads(status.stdout)["state"] == "finished"
