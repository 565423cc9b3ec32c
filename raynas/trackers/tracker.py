"""What a tracker is: one method, called with every event of a run after it has been recorded."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raynas.errors import InvalidArgument
from raynas.record.events import Event
from raynas.record.folder import RunFolder
from raynas.record.history import Evaluation, History
from trials.places import is_local


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker shows.

    Attributes:
        folder: the run folder.
        arguments: of the run, as `run.yaml` has them.
        history: what has happened so far, the event included that the tracker is called with.
    """

    folder: RunFolder
    arguments: Mapping[str, Any]
    history: History

    @property
    def name(self) -> str:
        """Return the name of the run folder."""
        return self.folder.path.name


class Tracker(ABC):
    """Shows a run in another tool.

    It is a view: what it cannot write is told once and ends no run. The first event of every call
    of `run()` that it hears is a `Session`; what an earlier call recorded stands in the history.
    """

    @abstractmethod
    def track(self, event: Event, run: TrackedRun) -> None:
        """Show what an event adds.

        Args:
            event: recorded just now.
            run: what it is of.
        """

    def check(self) -> None:  # noqa: B027
        """Refuse what cannot work, before anything starts.

        Raises:
            InvalidArgument: naming the remedy.
        """


def outcome(evaluation: Evaluation) -> dict[str, str]:
    """Return what an evaluation was of and how it ended, as texts."""
    told = {
        "evaluation": str(evaluation.index),
        "architecture": evaluation.notation,
        "status": evaluation.status.value,
        "reason": evaluation.reason,
    }
    return {key: value for key, value in told.items() if value is not None}


def outline(run: TrackedRun) -> dict[str, str]:
    """Return the arguments of a run that say what it is of, as texts."""
    left_out = ("name", "storage_path", "resume", "tracker")
    return {
        key: str(value)
        for key, value in run.arguments.items()
        if key not in left_out and value is not None
    }


@contextmanager
def delivered(folder: RunFolder) -> Iterator[list[Path]]:
    """Yield the files of a finished run that are worth keeping elsewhere, on this machine."""
    best = sorted(folder.best.iterdir()) if folder.best.is_dir() else []
    paths = [path for path in (folder.report, folder.trials, *best) if path.is_file()]
    if is_local(folder.path):
        yield paths
        return
    with tempfile.TemporaryDirectory(prefix="raynas-") as here:
        copies = [Path(here) / path.name for path in paths]
        for path, copy in zip(paths, copies, strict=True):
            copy.write_bytes(path.read_bytes())
        yield copies


def missing(name: str, error: ImportError) -> InvalidArgument:
    """Return what to say where a tracker's package is not installed."""
    return InvalidArgument(
        f"tracker={name!r} needs a package that is not here ({error}):"
        f" pip install 'raynas[{name}]'."
    )
