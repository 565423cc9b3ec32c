"""SIGTERM, which machines that are taken away get first: to a worker, and to the driver."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from journal_lines import read_events

import raynas
import raynas.cli
from raynas.cluster import terminable
from raynas.errors import Terminated

#: trials of 8 epochs of 0.5 s that tell which process they run in
SCRIPT = """
import os, sys, time
import raynas
from raynas import Evaluator, Trial

class Told(Trial):
    epochs = 8
    def step(self):
        time.sleep(0.5)
        self.epoch += 1
        return {"val_accuracy": 0.5, "pid": os.getpid()}
    def state_dict(self):
        return {"epoch": self.epoch}
    def load_state_dict(self, state):
        self.epoch = state["epoch"]

class ToldEvaluator(Evaluator):
    def trial(self, space, arch, data, epochs, seed, device):
        return Told()
    def retraining(self, space, arch, data, epochs, seed, device):
        return None

if __name__ == "__main__":
    try:
        raynas.run(
            space="nasbench201:channels=4,cells=1", data="digits:fraction=0.1", search="random",
            evaluate=ToldEvaluator(), scheduler="fifo", samples=2, epochs=8, retrain_epochs=1,
            max_concurrent=1, storage_path=sys.argv[1], name="run",
        )
    except raynas.Terminated:
        print("terminated", flush=True)
        sys.exit(143)
"""


def started(folder):
    script = folder / "told.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, script, folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=os.environ | {"PYTHONPATH": f"{tests.parent}"},
    )  # fmt: skip


def reported(folder, evaluation=0):
    try:
        events = read_events(folder / "run")
    except raynas.StorageError:
        return []
    return [e for e in events if e["event"] == "reported" and e["evaluation"] == evaluation]


def wait_for(condition, driver, seconds=280):
    deadline = time.monotonic() + seconds
    while not condition():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow  # two starts of the driver
@pytest.mark.timeout(900)
def test_sigterm_to_a_worker_and_then_to_the_driver(tmp_path):
    driver = started(tmp_path)
    try:
        wait_for(lambda: len(reported(tmp_path)) >= 2, driver)
        worker = int(reported(tmp_path)[-1]["metrics"]["pid"])
        os.kill(worker, signal.SIGTERM)
        wait_for(lambda: reported(tmp_path)[-1]["metrics"]["pid"] != worker, driver)
        before = reported(tmp_path)
        driver.send_signal(signal.SIGTERM)
        said, _ = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert driver.returncode == 143, said
    assert said.splitlines()[-1] == "terminated"
    assert "Traceback" not in said
    again = started(tmp_path)
    said, _ = again.communicate(timeout=500)
    assert again.returncode == 0, said
    result = raynas.load(tmp_path / "run")
    assert list(result.trials["status"]) == ["completed"] * 2
    assert len(reported(tmp_path)) == 8  # every epoch once
    assert reported(tmp_path)[: len(before)] == before


class TestTerminable:
    def test_it_is_an_interruption(self):
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Terminated), terminable():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is before

    def test_ctrl_c_stays_what_it_is(self):
        with pytest.raises(KeyboardInterrupt) as caught, terminable():
            signal.raise_signal(signal.SIGINT)
        assert not isinstance(caught.value, Terminated)

    def test_also_where_a_shell_has_ctrl_c_ignored(self):
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with pytest.raises(Terminated), terminable():
                signal.raise_signal(signal.SIGTERM)
        finally:
            signal.signal(signal.SIGINT, handler)

    def test_whoever_handles_ctrl_c_hears_of_it(self):
        """As Tune does, which ends its trials first."""
        heard = []
        handler = signal.signal(signal.SIGINT, lambda *_: heard.append("interrupted"))
        try:
            with terminable():
                signal.raise_signal(signal.SIGTERM)
            with pytest.raises(Terminated), terminable():
                terminated_by_and_by()
        finally:
            signal.signal(signal.SIGINT, handler)
        assert heard == ["interrupted"] * 2


def terminated_by_and_by():
    signal.raise_signal(signal.SIGTERM)
    raise KeyboardInterrupt


def test_the_program_says_how_to_go_on(monkeypatch, capsys):
    def terminated(**arguments):
        raise Terminated

    monkeypatch.setattr(raynas, "run", terminated)
    monkeypatch.setattr(sys, "argv", ["raynas", "run"])
    with pytest.raises(SystemExit) as exit_:
        raynas.cli.main()
    assert exit_.value.code == 143
    assert capsys.readouterr().err == "raynas: terminated. The same command continues the run.\n"
