"""The journal: nothing recorded is lost, whatever happens to its last line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raynas import JournalError, StorageError
from raynas.record.events import Suggested
from raynas.record.history import History
from raynas.record.journal import Journal, is_locked, read_events


def suggested(i):
    return Suggested(i, "a")


def written(folder, n=3):
    with Journal(folder) as journal:
        for i in range(n):
            journal.append(suggested(i))
    return folder / "journal" / "events.jsonl"


def test_events_come_back_in_order(tmp_path):
    written(tmp_path)
    assert [e.evaluation for e in read_events(tmp_path)] == [0, 1, 2]
    with Journal(tmp_path) as journal:
        assert [e.evaluation for e in journal.events] == [0, 1, 2]
        assert journal.notice is None


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 200))
def test_a_truncated_last_line_is_cut_off_with_a_notice(tmp_path_factory, cut):
    path = written(tmp_path_factory.mktemp("run"))
    content = path.read_bytes()
    last = content.splitlines(keepends=True)[-1]
    path.write_bytes(content[: -min(cut, len(last) - 1)])
    assert len(read_events(path.parents[1])) == 2  # a reader does not mend
    with Journal(path.parents[1]) as journal:
        assert len(journal.events) == 2
        assert journal.notice is not None
        assert str(path) in journal.notice
        journal.append(suggested(2))
    assert [e.evaluation for e in read_events(path.parents[1])] == [0, 1, 2]


@pytest.mark.parametrize("tail", [b"{", b"\x00\xff garbage\n", b"[1, 2]\n", b'{"no": "event"}\n'])
def test_a_corrupt_last_line_is_cut_off(tmp_path, tail):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes() + tail)
    with Journal(tmp_path) as journal:
        assert len(journal.events) == 3
        assert journal.notice is not None


def test_damage_before_the_last_line_is_an_error_that_names_it(tmp_path):
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n" + lines[2])
    with pytest.raises(JournalError, match="Line 2 of"):
        Journal(tmp_path)
    assert not is_locked(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"event": "invented"}, "'invented' of a newer raynas"),
        ({"event": ["finished"]}, "of a newer raynas"),
        ({"event": "session", "format": 99}, "'session' of a newer raynas"),
        ({"event": "session", "format": "b"}, "'session' of a newer raynas"),
        ({"event": "suggested", "evaluation": 3}, "'suggested' of the journal is damaged"),
        ({"event": "finished", "evaluation": 0, "status": "tired"}, "is damaged: 'tired'"),
        ({"event": "reported", "evaluation": 7, "metrics": {}}, "'reported' does not go with"),
        ({"event": "finished", "evaluation": "0", "status": "failed"}, "evaluation='0' is a str"),
    ],
)
def test_events_that_cannot_be_understood_are_refused(tmp_path, line, message):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes() + json.dumps(line).encode() + b"\n")
    with pytest.raises(JournalError, match=message):
        History(read_events(tmp_path))


def test_only_one_process_writes(tmp_path):
    with Journal(tmp_path):
        code = (
            "import sys; from pathlib import Path; from raynas.record.journal import Journal\n"
            "Journal(Path(sys.argv[1]))"
        )
        second = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True
        )
        assert "in use by another process" in second.stderr
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_killed_process_leaves_all_it_appended_and_no_lock(tmp_path):
    code = (
        "import sys; from pathlib import Path; from raynas.record.journal import Journal\n"
        "from raynas.record.events import Suggested\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for i in range(10**9): journal.append(Suggested(i, 'a')); print(i, flush=True)"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    while int(writer.stdout.readline()) < 50:
        pass
    time.sleep(0.05)
    os.kill(writer.pid, signal.SIGKILL)
    seen = [int(line) for line in writer.stdout.read().split("\n") if line]
    writer.wait()
    with Journal(tmp_path) as journal:
        assert [e.evaluation for e in journal.events[: seen[-1] + 1]] == list(range(seen[-1] + 1))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        Journal(tmp_path / "file" / "run")


def test_not_a_run_folder(tmp_path):
    with pytest.raises(StorageError, match="not a run folder"):
        read_events(tmp_path)


def test_lines_are_plain_json(tmp_path):
    path = written(tmp_path, 1)
    event = json.loads(path.read_text())
    assert event["event"] == "suggested"
    assert abs(event["time"] - time.time()) < 60
