"""The verb `status`: how far a run is; without Ray, and from any machine that sees its folder."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from raynas.cli.output import AsJson, plain
from raynas.errors import StorageError
from raynas.record.folder import RunFolder, read_json
from raynas.record.formatting import describe, duration, shown
from raynas.record.journal import collecting_paused, is_locked, read_events
from raynas.reports.progress import Progress
from trials.places import place

_SHOWN = 16  # running trials, and failures


def status(
    path: Annotated[Path, typer.Argument(help="run folder")], as_json: AsJson = False
) -> None:
    """Show how far a run is, what runs and where, what failed, what it cost; it may be running."""
    folder = RunFolder(place(path))
    if not folder.configuration.is_file():
        raise StorageError(f"path={str(path)!r} is not a run folder: it has no run.yaml.")
    running = is_locked(folder.path)  # before its journal is read: what ends then has ended
    with collecting_paused():
        events = read_events(folder.path)
        config = folder.read_configuration()
        progress = Progress(events, config, running, time.time())
        if as_json:
            print(json.dumps(_content(folder, progress), default=plain))
        else:
            print("\n".join(_lines(folder, progress)))


def _content(folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """Return what is printed as one JSON object."""
    return {
        "path": str(folder.path),
        "state": progress.state,
        "stage": progress.stage,
        "samples": progress.config["samples"],
        "evaluations": progress.counts,
        "selecting": {i: len(curve) for i, curve in progress.history.selecting.items()},
        "running": progress.at_work,
        "best": _best(folder, progress),
        "failures": progress.failures,
        "seconds": round(progress.seconds, 1),
        "cpu_hours": round(progress.cpu_hours, 4),
        "gpu_hours": round(progress.gpu_hours, 4),
        "seconds_left": progress.seconds_left,
        "last_event": progress.events[-1].time if progress.events else None,
    }


def _best(folder: RunFolder, progress: Progress) -> dict[str, Any] | None:
    """Return the best architecture and its metrics, those of its retraining if there are any."""
    if (folder.best / "metrics.json").exists():
        architecture = read_json(folder.best / "architecture.json")["architecture"]
        return {"architecture": architecture, **read_json(folder.best / "metrics.json")}
    best = progress.best
    if best is None:
        return None
    names = {"evaluation": best.index, "status": best.status.value, "epochs": best.epochs}
    return {"architecture": best.notation, **names, **(best.history[-1] if best.history else {})}


def _lines(folder: RunFolder, progress: Progress) -> list[str]:
    """Return the same in lines, for people."""
    history, config = progress.history, progress.config
    lines = [f"{folder.path}: {progress.state}, {progress.stage}"]
    counts = ", ".join(f"{count:,} {name}" for name, count in progress.counts.items())
    done, samples = len(history.finished), config["samples"]
    left = progress.seconds_left
    stage_left = "" if left is None else f"; about {duration(left)} left of this stage"
    told = f"{done:,} of {samples:,} ended ({counts})"
    if history.searches:  # whose derivations are evaluations, of which only some are trained
        told = f"{len(history.evaluations)} derived, at most {samples:,} to be evaluated: {counts}"
    lines.append(_line("evaluations", f"{told}{stage_left}"))
    if progress.best is not None:
        lines.append(_line("best", f"#{progress.best.index}, {describe(progress.best)}"))
    for index, metrics in history.retrained.items():
        accuracy = shown("accuracy", metrics["test_accuracy"])
        lines.append(_line("retrained", f"#{index}, {accuracy} on the test part"))
    lines += [_line("running", _at_work(row)) for row in progress.at_work[:_SHOWN]]
    lines += [
        _line("failed", f"{f['count']} x {f['reason']} ({_numbers(f['evaluations'])})")
        for f in progress.failures[:_SHOWN]
    ]
    used = f"{duration(progress.seconds)}, {progress.cpu_hours:.3g} CPU hours"
    lines.append(_line("cost", f"{used}, {progress.gpu_hours:.3g} GPU hours"))
    if progress.events:
        age = duration(max(0.0, progress.now - progress.events[-1].time))
        lines.append(_line("last event", f"{age} ago"))
    if progress.state == "stopped":
        lines.append(_line("go on", f"raynas resume {folder.path}"))
    return lines


def _line(label: str, text: str) -> str:
    return f"  {label:12} {text}"


def _at_work(row: dict[str, Any]) -> str:
    work = "" if row["work"] == "evaluation" else f"{row['work']} "
    epochs = f"{row['epochs']}" if row["of"] is None else f"{row['epochs']}/{row['of']}"
    node = f", on {row['node']}" if row["node"] else ""
    time_ = "" if row["seconds"] is None else f" for {duration(row['seconds'])}"
    return f"{work}#{row['number']}, epoch {epochs}{node}{time_}, {row['architecture']}"


def _numbers(indices: list[int]) -> str:
    return ", ".join(f"#{index}" for index in indices)
