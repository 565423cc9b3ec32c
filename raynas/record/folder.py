"""The run folder: every path in it, and the one way in which its files are written."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raynas.errors import StorageError
from trials.places import as_os_errors, is_local, key_of, store_of

_TRIES = 5  # of a put into an object store, with pauses of 1, 2, 4 and 8 seconds


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Args:
        path: absolute, or in an object store (`trials.places.place`); every node of the cluster
            must see it.
    """

    path: Path

    @property
    def configuration(self) -> Path:
        """Return where the resolved arguments lie, with versions and hardware."""
        return self.path / "run.yaml"

    @property
    def journal(self) -> Path:
        """Return the folder of the journal."""
        return self.path / "journal"

    @property
    def events(self) -> Path:
        """Return where the events of the journal lie."""
        return self.journal / "events.jsonl"

    @property
    def lock(self) -> Path:
        """Return the file that the process which writes the journal holds."""
        return self.journal / "lock"

    @property
    def lease(self) -> Path:
        """Return the object that says, in an object store, which process writes the journal."""
        return self.journal / "lease.json"

    @property
    def trials(self) -> Path:
        """Return where the table of evaluations lies."""
        return self.path / "trials.parquet"

    @property
    def report(self) -> Path:
        """Return where the report lies, one file with all its figures."""
        return self.path / "report.html"

    @property
    def best(self) -> Path:
        """Return the folder of the winner, in forms that load without raynas."""
        return self.path / "best"

    @property
    def ensemble(self) -> Path:
        """Return the folder of the ensemble: members, curves, one exported program."""
        return self.path / "ensemble"

    @property
    def understanding(self) -> Path:
        """Return the folder of what the run tells of its space and its signals."""
        return self.path / "understanding"

    @property
    def tensorboard(self) -> Path:
        """Return the folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def tune(self) -> Path:
        """Return the folder of Ray Tune's own files."""
        return self.path / "tune"

    @property
    def supernet(self) -> Path:
        """Return the folder of the shared weights of every group."""
        return self.path / "supernet"

    @property
    def searches(self) -> Path:
        """Return the folder of the states of differentiable searches."""
        return self.path / "searches"

    def search(self, number: int) -> Path:
        """Return where the state of a differentiable search is kept."""
        return self.searches / f"{number:03d}.pt"

    def search_error(self, number: int) -> Path:
        """Return where the traceback of a differentiable search that failed is kept."""
        return self.searches / f"{number:03d}.error.txt"

    @property
    def rankings(self) -> Path:
        """Return where the rankings of the probes by the shared weights lie."""
        return self.supernet / "rankings.parquet"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the states of trials and retrainings."""
        return self.path / "checkpoints"

    def checkpoint(self, evaluation: int) -> Path:
        """Return where the state of an evaluation is kept."""
        return self.checkpoints / f"{evaluation:05d}.pt"

    def snapshot(self, evaluation: int, epoch: int) -> Path:
        """Return where the weights of an evaluation after an epoch are kept."""
        return self.checkpoints / f"{evaluation:05d}-epoch-{epoch:04d}.pt"

    def snapshots(self, evaluation: int) -> list[int]:
        """Return the epochs after which weights of an evaluation were kept, rising."""
        files = self.checkpoints.glob(f"{evaluation:05d}-epoch-*.pt")
        return sorted(int(file.stem.rpartition("-")[2]) for file in files)

    def retraining(self, evaluation: int) -> Path:
        """Return where the state of the retraining of an evaluation's architecture is kept."""
        return self.checkpoints / f"final-{evaluation:05d}.pt"

    def selection(self, evaluation: int) -> Path:
        """Return where the state of a candidate of the last decision is kept."""
        return self.checkpoints / f"select-{evaluation:05d}.pt"

    def error(self, evaluation: int) -> Path:
        """Return where the traceback of an evaluation that failed is kept."""
        return self.checkpoints / f"{evaluation:05d}.error.txt"

    def weights(self, group: int) -> Path:
        """Return where the shared weights of a group are kept."""
        return self.supernet / f"{group:03d}.pt"

    def discard(self, evaluations: Collection[int]) -> None:
        """Remove the states of evaluations, if they are there; what cannot be removed stays."""
        with suppress(OSError), as_os_errors(self.path):
            names = {self.checkpoint(evaluation).name for evaluation in evaluations}
            for path in self.checkpoints.iterdir():
                if path.name in names:
                    path.unlink(missing_ok=True)

    @property
    def holds_run(self) -> bool:
        """Return whether a run has begun here.

        Raises:
            StorageError: when the folder cannot be read.
        """
        try:
            with as_os_errors(self.path):
                return self.configuration.exists()
        except OSError as error:
            raise StorageError(
                f"The run folder {self.path} cannot be read ({error}). Choose another storage_path."
            ) from error

    @property
    def holds_something_else(self) -> bool:
        """Return whether something lies here that is neither empty nor begun by raynas.

        Raises:
            StorageError: when the folder cannot be read.
        """
        try:
            with as_os_errors(self.path):
                free = not self.path.exists() or (
                    self.path.is_dir() and not any(self.path.iterdir())
                )
        except OSError as error:
            raise StorageError(
                f"The run folder {self.path} cannot be read ({error}). Choose another storage_path."
            ) from error
        return not (free or self.holds_run or self.journal.exists())

    def read_configuration(self) -> dict[str, Any]:
        """Return what `run.yaml` has: arguments, and under `recorded` what was written beside them.

        Raises:
            StorageError: when it is missing or damaged.
        """
        path = self.configuration
        try:
            with as_os_errors(path):
                content = yaml.safe_load(path.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise StorageError(f"{path} cannot be read: {error!r}. Choose another name.") from error
        if not isinstance(content, dict) or not isinstance(content.get("recorded", {}), dict):
            raise StorageError(f"{path} is damaged: it holds no arguments. Choose another name.")
        return {"recorded": {}, **content}

    def write_configuration(
        self, arguments: Mapping[str, Any], recorded: Mapping[str, Any]
    ) -> None:
        """Write arguments to `run.yaml`, and what was recorded beside them."""
        text = yaml.safe_dump({**arguments, "recorded": dict(recorded)}, sort_keys=False)
        write(self.configuration, lambda path: path.write_text(text))


def write(path: Path, writer: Callable[[Path], object]) -> None:
    """Write a file so that it is, whatever happens, either the old one or the new one.

    Args:
        path: of the file; its folder must be there.
        writer: writes a file at the path that it is given, which is always on this machine.

    Raises:
        StorageError: when it cannot be written.
    """
    if not is_local(path):
        _put(path, writer)
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        writer(partial)
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def _put(path: Path, writer: Callable[[Path], object]) -> None:
    """Write a file here and put it into its object store, which has it whole or not at all."""
    try:
        with tempfile.TemporaryDirectory(prefix="raynas-") as folder, as_os_errors(path):
            file = Path(folder) / path.name
            writer(file)
            _try_to_put(path, file)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}.") from error


def _try_to_put(path: Path, file: Path) -> None:
    """Put a file, again after a pause where the store fails for a while."""
    for attempt in range(_TRIES):
        try:
            with as_os_errors(path):
                store_of(path).put_file(str(file), key_of(path))
            return
        except (FileNotFoundError, PermissionError):
            raise  # which time does not mend
        except OSError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(2**attempt)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file; see `write`."""
    write(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n"))


def read_json(path: Path) -> dict[str, Any]:
    """Return what `write_json` wrote.

    Raises:
        StorageError: when the file is missing or damaged.
    """
    try:
        with as_os_errors(path):
            content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    return content
