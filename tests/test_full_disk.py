"""A disk that is full: a view that cannot be written ends nothing, a journal one sentence."""

import errno
import itertools
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import raynas
from raynas.record.events import Suggested
from raynas.record.full_disks import full_disk, one_sentence
from raynas.record.journal import Journal, read_events
from raynas.reports.tensorboard import EventFile
from raynas.reports.views import View

FULL = OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def disk(folder, kilobytes):
    """A file system of a size of its own, in memory, where the tests may mount one."""
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("mounting needs more rights")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def grow(folder, kilobytes):
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", folder], check=True)


def fill(journal, written):
    for i in itertools.count():
        journal.append(Suggested(i, "a" * 50))
        written.append(i)


def test_a_journal_on_a_full_disk_keeps_what_it_has(tmp_path):
    with disk(tmp_path / "disk", 16) as folder:
        journal = Journal(folder / "run")
        written: list[int] = []
        with pytest.raises(raynas.StorageError, match="No space left"):
            fill(journal, written)
        with pytest.raises(raynas.StorageError, match="No space left"):
            journal.append(Suggested(len(written), "a"))  # though it would fit by now
        journal.close()
        assert len(read_events(folder / "run")) == len(written) > 10
        grow(folder, 64)
        with Journal(folder / "run") as journal:
            assert journal.notice is None  # no half line was left
            journal.append(Suggested(len(written), "a"))
        assert len(read_events(folder / "run")) == len(written) + 1


class TestViews:
    def test_one_that_cannot_be_written_is_told_of_once(self):
        told, calls = [], []

        def write(event):
            calls.append(event)
            raise FULL

        view = View("the table", told.append)
        listen = view.listener(write)
        listen("first")
        listen("second")
        assert calls == ["first"]  # what is appended to has a gap by now
        view.attempt(lambda: calls.append("whole"), always=True)
        assert calls == ["first", "whole"]
        assert told == [
            "the table cannot be written, and the run goes on without:"
            " [Errno 28] No space left on device"
        ]

    def test_faults_of_its_own_are_not_hidden(self):
        with pytest.raises(KeyError):
            View("the table", print).attempt(lambda: {}["a"])


def test_what_libraries_say_of_a_full_disk_becomes_one_sentence(tmp_path):
    def library():
        try:
            raise FULL
        except OSError:
            raise RuntimeError("TuneError(Traceback\n  File x)") from None

    message = f"{tmp_path} cannot be written: .*No space left on device.*same command goes on"
    with pytest.raises(raynas.StorageError, match=message), one_sentence(tmp_path):
        library()
    assert full_disk("a\nStorageError: x.pt: No space left on device.\nb") == (
        "x.pt: No space left on device"
    )
    with pytest.raises(KeyError), one_sentence(tmp_path):
        raise KeyError("something else")


RUN = {
    "space": "nasbench201:channels=4,cells=1", "data": "digits:fraction=0.1", "search": "random",
    "scheduler": "fifo", "samples": 4, "epochs": 2, "name": "run",
}  # fmt: skip


@pytest.mark.slow  # a run for each size, most of them two
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kilobytes", [8, 60, 100, 150, 220, 320, 450, 700, 1000, 1500, 2500])
def test_a_run_on_a_full_disk_ends_whole_or_with_one_sentence(local_ray, tmp_path, kilobytes):
    with disk(tmp_path / "disk", kilobytes) as folder:
        try:
            result = raynas.run(**RUN, storage_path=folder)
        except raynas.StorageError as error:
            message = str(error)
            assert "No space left on device" in message
            assert "\n" not in message
            before = journal_of(folder / "run")
            grow(folder, 64_000)
            result = raynas.run(**RUN, storage_path=folder)
            after = read_events(result.path)
            assert after[: len(before)] == before
        assert result.finished
        assert set(result.trials["status"]) == {"completed"}
        assert (result.trials["epochs"] == 2).all()
        assert result.best.model() is not None
        assert not list(Path(folder).rglob("*.partial"))


def journal_of(run):
    try:
        return read_events(run)
    except raynas.StorageError:
        return []


def test_the_program_says_it_in_one_line(tmp_path):
    with disk(tmp_path / "disk", 8) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "raynas", "run", "--storage-path", folder, "--samples", "2",
             "--data", "digits:fraction=0.1", "--space", "nasbench201:channels=4,cells=1"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.count("raynas: ") == 1
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("raynas: The run folder")


def test_event_files_on_a_full_disk_raise_what_views_expect(tmp_path):
    with disk(tmp_path / "disk", 4) as folder:
        (folder / "filler").write_bytes(b"x" * 4096)
        with pytest.raises(OSError, match="No space left"):
            EventFile(folder / "trial").write()
