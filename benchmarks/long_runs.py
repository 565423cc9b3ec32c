"""Runs of 100,000 evaluations: seconds that `status`, reading and continuing take.

    python -m benchmarks.long_runs [--evaluations 100000] [--space mobile] [--quick] [--json]

A search by evolution with ASHA is driven without Ray and without training, so that its journal is
what that of a real run would be: every evaluation suggested, placed, reported after each of its
epochs, ended. Then in a new process each: `raynas status` on it, `raynas.load(...).trials`, and
what a driver does before its first trial when the run is extended: replay of searcher and
scheduler, the files of TensorBoard, the table (written at the end of a call). Seconds of the CPU
are those of the process; on a machine that does nothing else the clock shows about the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

import search_spaces
from raynas import Asha, Evolution
from raynas.config.config import Config
from raynas.record.events import Placed, Session, Status
from raynas.record.folder import RunFolder
from raynas.record.history import Evaluation
from raynas.record.journal import Journal
from raynas.search.search import Search
from search_spaces import Architecture, SearchSpace

EPOCHS, WORKERS = 9, 64
PARTS = ("status", "load", "continue")


def search_in(folder: Path, space: SearchSpace, evaluations: int) -> Search:
    """Return the search of the run in a folder, its journal replayed."""
    journal = Journal(folder)
    return Search(space, Evolution(100, 10), Asha(reduction=3), evaluations, EPOCHS, 0, journal)


def value(arch: Architecture, epoch: int) -> float:
    """Return an accuracy to which every choice contributes, and every epoch."""
    parts = [zlib.crc32(f"{i}:{choice}".encode()) for i, choice in enumerate(arch.choices)]
    return round(0.9 * sum(parts) / len(parts) / 2**32 + 0.01 * epoch, 6)


def make(folder: Path, name: str, evaluations: int) -> None:
    """Write the run: its journal and its configuration."""
    config = Config(space=name, samples=evaluations, epochs=EPOCHS)
    RunFolder(folder).path.mkdir(parents=True)
    search = search_in(folder, search_spaces.get(name), evaluations)
    assert search.journal is not None
    search.journal.append(Session())
    search.begin()
    running: deque[Evaluation] = deque()
    while True:
        while len(running) < WORKERS and (new := search.suggest()) is not None:
            search.journal.append(Placed("evaluation", new.index, f"node-{new.index % 8}", 1, 1))
            running.append(new)
        if not running:
            break
        evaluation = running.popleft()
        accuracy = value(search.architectures[evaluation.index], evaluation.epochs + 1)
        metrics = {
            "val_accuracy": accuracy, "val_loss": 1 - accuracy, "train_loss": 1.1 - accuracy,
            "params": 123456, "macs": 12345678, "train_seconds": 12.345,
        }  # fmt: skip
        if not search.report(evaluation.index, metrics):
            search.finish(evaluation.index, Status.STOPPED)
        elif evaluation.epochs == EPOCHS:
            search.finish(evaluation.index, Status.COMPLETED)
        else:
            running.append(evaluation)
    search.journal.close()
    RunFolder(folder).configuration.write_text(yaml.safe_dump(config.model_dump()))


def load(folder: Path) -> None:
    """Read the run as `Result` does."""
    import raynas

    print(len(raynas.load(folder).trials))


def continue_(folder: Path) -> None:
    """Do what a driver does before the first trial when it extends the run."""
    from raynas.reports.table import TrialsTable
    from raynas.reports.tensorboard import TensorBoard
    from trials import data as trial_data

    config = yaml.safe_load(RunFolder(folder).configuration.read_text())
    space, data = search_spaces.get(config["space"]), trial_data.load("digits:fraction=0.1")
    parts = {}

    def timed(part: str, work: Callable[[], object]) -> object:
        start = time.process_time()
        done = work()
        parts[part] = time.process_time() - start
        return done

    search = timed("replay", lambda: search_in(folder, space, config["samples"] + 100))
    assert isinstance(search, Search)
    assert search.journal is not None
    board = TensorBoard(RunFolder(folder).tensorboard, space, data)
    events = search.journal.events
    timed("tensorboard", lambda: board.catch_up(events))
    timed("begin", search.begin)
    timed("first", search.suggest)
    timed("table", TrialsTable(search, RunFolder(folder).trials).write)
    search.journal.close()
    print(json.dumps({part: round(seconds, 2) for part, seconds in parts.items()}))


def measured(part: str, folder: Path) -> dict[str, object]:
    """Return the CPU seconds and the seconds of a part in a new process."""
    command = [sys.executable, "-m", "benchmarks.long_runs", "--part", part, "--folder", folder]
    if part == "status":
        command = [sys.executable, "-m", "raynas", "status", folder, "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read().decode()
    _, exit_status, usage = os.wait4(process.pid, 0)
    if exit_status:
        raise SystemExit(f"{part} has failed.")
    row: dict[str, object] = {
        "part": part,
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "seconds": round(time.perf_counter() - start, 2),
    }
    return row | ({"of": json.loads(said)} if part == "continue" else {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--space", default="mobile")
    parser.add_argument("--quick", action="store_true", help="5,000 evaluations")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--part", choices=PARTS[1:], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part:
        {"load": load, "continue": continue_}[given.part](given.folder)
        return
    evaluations = 5000 if given.quick else given.evaluations
    with tempfile.TemporaryDirectory() as own:
        folder = given.folder or Path(own) / "run"
        if not folder.exists():
            make(folder, given.space, evaluations)
        lines = RunFolder(folder).events.read_bytes().count(b"\n")
        rows = [measured(part, folder) for part in PARTS]
    if given.json:
        print(json.dumps({"evaluations": evaluations, "events": lines, "parts": rows}))
        return
    print(f"{evaluations:,} evaluations, {lines:,} events")
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
