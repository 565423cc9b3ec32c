"""Seeded serial runs, recorded to show that a change of the code does not change what runs do.

    python -m tests.recorded_runs record FOLDER    make the runs below FOLDER and pack them
    python -m tests.recorded_runs compare FOLDER   make them and compare them with the packed ones

Runs that FOLDER holds already are not made again; names behind FOLDER choose some of them. `tests/
recorded/` has the packed runs, and `test_recorded_runs.py` loads, continues and extends these.
`compare` wants every number to be equal to the last bit, so it is only fair on the kind of machine,
and with the version of PyTorch, of which the packed runs tell.
"""

import argparse
import hashlib
import io
import itertools
import json
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from safetensors.numpy import load_file

import raynas

PACKED = Path(__file__).parent / "recorded"

#: The small table that ships with raynas, wherever it lies beside the package.
TABLE = min(Path(raynas.__file__).resolve().parents[1].glob("[!.]*/**/digits-nb201.parquet"))

COMMON: dict[str, Any] = {
    "space": "nasbench201:channels=4,cells=1",
    "data": "digits:fraction=0.3",
    "evaluate": "train:batch_size=16",
    "samples": 6,
    "epochs": 2,
    "seed": 11,
    "gpus_per_trial": 0,
    "max_concurrent": 1,
}

#: {name: arguments of `raynas.run` beside the common ones}
RUNS: dict[str, dict[str, Any]] = {
    "random": {
        "search": "random",
        "evaluate": "train",
        "scheduler": "fifo",
        "samples": 4,
        "retrain_epochs": 1,
    },
    "evolution": {
        "search": "evolution:population=3,sample=2",
        "evaluate": "train:batch_size=32,label_smoothing=0.1",
        "scheduler": "asha:reduction=2",
        "samples": 8,
        "epochs": 4,
    },
    "promotion": {
        "space": "nasbench201:channels=2,cells=1",
        "search": "evolution:population=3,sample=2",
        "scheduler": "asha:reduction=2,variant=promotion",
        "samples": 8,
        "epochs": 4,
    },
    "warm-start": {
        "search": "evolution:population=3,sample=2,warm_start=naswot,candidates=8",
        "scheduler": "fifo",
        "epochs": 1,
    },
    "area": {"search": "area:population=3,sample=2,candidates=6"},
    "local": {"search": "local", "epochs": 1},
    "naswot": {"search": "naswot:candidates=8"},
    "na-rs": {"search": "na-rs:neighbors=3", "samples": 8, "epochs": 1},
    "neighborhood": {
        "search": "neighborhood:inner=evolution:population=3;sample=2,neighbors=2,racing=false",
        "samples": 8,
        "epochs": 1,
    },
    "auto": {"search": "auto:initial=3,candidates=10", "samples": 8},
    "adanet": {
        "space": "dense:max_depth=3",
        "search": "adanet:rule=pie,tolerance=0.05",
        "ensemble": "saep:rule=pap,size=2",
        "samples": 8,
    },
    "adanet-learnt": {
        "space": "dense:max_depth=3",
        "search": "adanet:rule=none,mixture=learnt,complexity=0.01",
    },
    "ensemble": {
        "space": "nasbench201:channels=2,cells=1",
        "search": "evolution:population=3,sample=2",
        "scheduler": "fifo",
        "ensemble": "saep:rule=pie,size=3",
        "samples": 5,
    },
    "table": {
        "search": "evolution:population=3,sample=2",
        "evaluate": f"table:{TABLE}",
        "samples": 8,
    },
    "proxy": {"search": "local", "evaluate": "proxy:synflow,batch_size=32"},
    "supernet": {
        "search": "random",
        "evaluate": "supernet:epochs=2,batch_size=32,probes=4,ranked_epochs=1,ranked_batches=2",
    },
    "killed-continued": {
        "search": "evolution:population=3,sample=2",
        "scheduler": "fifo",
        "samples": 4,
        "epochs": 4,
    },
}

#: A copy of the folder of a run that was killed, as it was before it was continued.
KILLED = "killed"
KILLED_AFTER = 6  # epochs in the journal: in the second of four evaluations

NAMES = (*RUNS, KILLED)

_WHOLE = (
    "run.yaml", "journal/events.jsonl", "trials.parquet", "best/*.json", "best/*.safetensors",
    "ensemble/*.json", "ensemble/*.parquet", "supernet/*",
)  # fmt: skip

#: Large files without which an ensemble would be made anew: packed without their content.
_STAND_INS = ("ensemble/model.pt2", "ensemble/*.png")

#: Runs whose later trials, or whose ensembles, start from what earlier ones have trained.
_WITH_CHECKPOINTS = ("promotion", "adanet", "adanet-learnt", "ensemble", KILLED)

#: Files with texts that are not the same everywhere; in a packed run they have another spelling.
_REWRITTEN = ("run.yaml", "journal/events.jsonl")
_SPELLINGS = {str(TABLE): "@table@", platform.platform(): "@machine@"}

#: Keys of what a clock has measured, and of where a run was made, wherever they are found.
CLOCKS = frozenset(
    {
        "time", "seconds", "train_seconds", "latency_ms",
        "versions", "nodes", "machine", "format", "storage_path",
    }
)  # fmt: skip


def arguments(name: str, folder: Path) -> dict[str, Any]:
    """Give the arguments of `raynas.run` for the run of this name below a folder."""
    return {**COMMON, **RUNS[name], "storage_path": str(folder.resolve()), "name": name}


def events(run: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a run's journal, also while another process writes it."""
    path = run / "journal" / "events.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def make(name: str, folder: Path) -> None:
    """Make the run of this name below a folder, unless it is there and finished."""
    if name == KILLED:
        name = "killed-continued"
    run, wanted = folder / name, arguments(name, folder)
    if (run / "run.yaml").exists() and raynas.load(run).finished:
        return
    shutil.rmtree(run, ignore_errors=True)
    if name == "killed-continued":
        _kill(wanted, run)
        shutil.rmtree(folder / KILLED, ignore_errors=True)
        shutil.copytree(run, folder / KILLED)
    raynas.run(**wanted)


def pack(run: Path, archive: Path) -> None:
    """Put what is wanted of a run folder into an archive."""
    patterns = _WHOLE + (("checkpoints/[0-9]*.pt",) if run.name in _WITH_CHECKPOINTS else ())
    archive.parent.mkdir(exist_ok=True)
    with tarfile.open(archive, "w:gz") as packed:
        contents = {path: path.read_bytes() for path in _matching(run, patterns)}
        contents |= dict.fromkeys(_matching(run, _STAND_INS), b"")
        for path, content in sorted(contents.items()):
            name = path.relative_to(run).as_posix()
            if name in _REWRITTEN:
                for ours, neutral in _SPELLINGS.items():
                    content = content.replace(ours.encode(), neutral.encode())
            entry = tarfile.TarInfo(f"{run.name}/{name}")
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))


def unpack(name: str, folder: Path) -> Path:
    """Make a copy of a packed run below a folder; the run folder."""
    with tarfile.open(PACKED / f"{name}.tar.gz") as packed:
        packed.extractall(folder, filter="data")
    run = folder / name
    for file in _REWRITTEN:
        text = (run / file).read_text()
        for ours, neutral in _SPELLINGS.items():
            text = text.replace(neutral, ours)
        (run / file).write_text(text)
    return run


def trace(run: Path) -> Iterator[str]:
    """Tell everything about a run that must be the same whenever it is made, piece by piece."""
    yield f"run.yaml: {_plain(yaml.safe_load((run / 'run.yaml').read_text()))}"
    for number, event in enumerate(_repeatable(run), start=1):
        yield f"event {number}: {_plain(event)}"
    for path in _matching(run, ("best/*.json", "ensemble/*.json")):
        yield f"{path.relative_to(run)}: {_plain(json.loads(path.read_text()))}"
    for path in _matching(run, ("*.parquet", "ensemble/*.parquet", "supernet/*.parquet")):
        for number, row in enumerate(pq.read_table(path).to_pylist(), start=1):
            yield f"{path.relative_to(run)} {number}: {_plain(row)}"
    weights = run / "best" / "weights.safetensors"
    if weights.exists():
        yield f"weights: {_digest(weights)}"


def differences(name: str, folder: Path, scratch: Path) -> Iterator[tuple[str, str]]:
    """Compare a run with the packed one: (piece of the packed run, piece of this one)."""
    pairs = itertools.zip_longest(
        trace(unpack(name, scratch)), trace(folder / name), fillvalue="nothing"
    )
    return (pair for pair in pairs if pair[0] != pair[1])


def _matching(run: Path, patterns: Iterable[str]) -> list[Path]:
    """List the files of a run folder that match one of the patterns."""
    return sorted(path for pattern in patterns for path in run.glob(pattern))


def _kill(wanted: dict[str, Any], run: Path) -> None:
    """Start a run in another process and kill it in the middle of the search."""
    code = "import json, sys, raynas; raynas.run(**json.loads(sys.argv[1]))"
    driver = subprocess.Popen([sys.executable, "-c", code, json.dumps(wanted)])
    while sum(event["event"] == "reported" for event in events(run)) < KILLED_AFTER:
        if driver.poll() is not None:
            raise SystemExit(f"{run.name} has ended by itself.")
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(5)  # the workers notice and end


def _repeatable(run: Path) -> list[dict[str, Any]]:
    """The events that come again in every such run.

    Where work ran does not count. A run says that it is complete once, at its end; runs with an
    ensemble used to say it before the ensemble too. When the kill hits is a matter of chance, so
    how often a driver has started does not count, nor what came after the event that was waited
    for, where the run was not continued.
    """
    found = [event for event in events(run) if event["event"] != "placed"]
    found = [event for event in found[:-1] if event["event"] != "complete"] + found[-1:]
    if run.name not in (KILLED, "killed-continued"):
        return found
    found = [event for event in found if event["event"] != "session"]
    if run.name == KILLED:
        reported = [i for i, event in enumerate(found) if event["event"] == "reported"]
        found = found[: reported[KILLED_AFTER - 1] + 1]
    return found


def _plain(content: Any) -> str:
    return json.dumps(_without_clocks(content), sort_keys=True)


def _without_clocks(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_clocks(v) for key, v in content.items() if key not in CLOCKS}
    if isinstance(content, list):
        return [_without_clocks(value) for value in content]
    return content


def _digest(weights: Path) -> str:
    """SHA-256 over the names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(weights).items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(prog="tests.recorded_runs")
    parser.add_argument("verb", choices=("record", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}")
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no such runs: {', '.join(sorted(unknown))}")
    # ONNX takes seconds and is not recorded: raynas exports it only where it can be imported.
    sys.modules["onnx"] = None  # type: ignore[assignment]
    given.folder.mkdir(parents=True, exist_ok=True)
    scratch = given.folder / "packed"
    shutil.rmtree(scratch, ignore_errors=True)
    differ = False
    for name in given.names or NAMES:
        make(name, given.folder)
        if given.verb == "record":
            archive = PACKED / f"{name}.tar.gz"
            pack(given.folder / name, archive)
            _say(f"{name}: {archive.stat().st_size:,} bytes")
            continue
        first = next(differences(name, given.folder, scratch), None)
        differ = differ or first is not None
        _say(f"{name}: " + ("same" if first is None else "\n  was {}\n  is  {}".format(*first)))
    sys.exit(differ)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
