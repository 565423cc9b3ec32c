"""The trial as a Ray Tune trainable: one actor serves one evaluation after another."""

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from raynas.errors import StorageError
from raynas.search import Status
from search_spaces import SearchSpace
from trials.data import Data
from trials.trial import Diverged, Evaluator, Trial

_STATE = "state.pt"


@dataclass(frozen=True)
class Job:
    """What all trials of a run share; put into the object store once."""

    space: SearchSpace
    evaluator: Evaluator
    #: reference to the `Data`, mapped by every trial of a node
    data: "ray.ObjectRef[Data]"
    epochs: int
    #: the run folder, which every node must see
    folder: Path
    threads: int


class TrialActor(tune.Trainable):
    """Runs trials, one epoch a step.

    The configuration of a trial: `evaluation` (index), `architecture` (notation), `seed`, and
    `reported`, the number of epochs whose metrics the journal has.

    After every epoch the state is saved in the run folder, `checkpoints/<evaluation>.pt`. A trial
    that finds such a file goes on from it, whether its actor, its node or the driver had died;
    epochs that were done but not recorded any more are reported from the file. Nothing that a
    network does is an error to Tune: a trial that fails reports so, with the reason, and ends.
    """

    def setup(self, config: dict[str, Any], job: Job) -> None:  # type: ignore[override]
        """Prepare the process, then the first trial."""
        self.job = job
        self.data: Data = ray.get(job.data)
        self.device = prepare_process(job.threads)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Make this actor serve another trial."""
        self.trial: Trial | None = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch; the metrics, or how the trial ended."""
        if self.error is not None:
            return self._failed(self.error)
        assert self.trial is not None
        try:
            if self.reported == len(self.history):
                self.history.append(self.trial.step())
                self._save()
        except Exception as error:
            return self._failed(error)
        self.reported += 1
        done = self.reported >= self.job.epochs
        return {"epoch": self.reported, "metrics": self.history[self.reported - 1], "done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """For Tune, when it wants to pause a trial."""
        torch.save(self._state(), Path(checkpoint_dir) / _STATE)

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """The inverse of `save_checkpoint`."""
        self._load(Path(checkpoint) / _STATE)

    def _begin(self, config: dict[str, Any]) -> None:
        self.path = checkpoint_path(self.job.folder, config["evaluation"])
        self.reported: int = config["reported"]
        self.history: list[dict[str, float]] = []
        self.trial = None
        self.error: Exception | None = None
        try:
            if not self.path.parent.is_dir():
                raise StorageError(
                    f"{self.job.folder} is not visible on node {os.uname().nodename}: "
                    "storage_path must be a folder that all nodes share."
                )
            arch = self.job.space.from_string(config["architecture"])
            self.trial = self.job.evaluator.trial(
                self.job.space, arch, self.data, self.job.epochs, config["seed"], self.device
            )
            if self.path.exists():
                self._load(self.path)
            elif self.reported:  # its checkpoint is gone: do the recorded epochs again, silently
                self.history = [self.trial.step() for _ in range(self.reported)]
        except Exception as error:
            self.error = error

    def _state(self) -> dict[str, Any]:
        assert self.trial is not None
        return {"trial": self.trial.state_dict(), "history": self.history}

    def _save(self) -> None:
        state = self._state()
        if state["trial"]:
            partial = self.path.with_suffix(f".{os.getpid()}")
            torch.save(state, partial)
            partial.replace(self.path)

    def _load(self, path: Path) -> None:
        assert self.trial is not None
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.trial.load_state_dict(state["trial"])
        self.history = state["history"]

    def _failed(self, error: Exception) -> dict[str, Any]:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        status = Status.DIVERGED if isinstance(error, Diverged) else Status.FAILED
        if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
            reason = f"out of memory: {error}"
        else:
            reason = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        return {"status": status.value, "reason": reason, "traceback": trace, "done": True}


def prepare_process(threads: int) -> torch.device:
    """Make this worker use its share of the machine and repeatable kernels; its device."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda" if ray.get_gpu_ids() else "cpu")


def checkpoint_path(folder: Path, evaluation: int) -> Path:
    """Where the state of an evaluation is kept in the run folder."""
    return folder / "checkpoints" / f"{evaluation:05d}.pt"


def final_path(folder: Path, evaluation: int) -> Path:
    """Where the state of the final training of an evaluation's architecture is kept."""
    return folder / "checkpoints" / f"final-{evaluation:05d}.pt"
