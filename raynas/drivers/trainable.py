"""The trial as a Ray Tune trainable: one actor serves one evaluation after another."""

import math
import os
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import Any, cast

import ray
import torch
from ray import tune

from raynas.cluster import Resources, reason_of
from raynas.drivers.peers import Team
from raynas.errors import StorageError
from raynas.record.checkpoints import Checkpoint
from raynas.record.events import METRIC, Status
from raynas.record.folder import RunFolder
from search_spaces import SearchSpace
from trials.data import Data
from trials.places import as_os_errors, is_local
from trials.trial import AnyEvaluator, Diverged, Evaluator, Trial, seed_for


@dataclass(frozen=True)
class Job:
    """What all trials of a run share; put into the object store once."""

    space: SearchSpace
    evaluator: AnyEvaluator
    #: reference to the `Data`, mapped by every trial of a node
    data: "ray.ObjectRef[Data]"
    epochs: int
    #: which every node must see
    folder: RunFolder
    threads: int
    #: epochs after which the weights are kept
    snapshots: tuple[int, ...] = ()
    #: of a trial
    resources: Resources = field(default_factory=lambda: Resources(1, 0, 1, 1))


class TrialActor(tune.Trainable):
    """Runs trials, one epoch a step.

    The configuration of a trial: `evaluation` (index), `architecture` (notation), `seed`, and
    `reported`, the number of epochs whose metrics the journal has.

    After every epoch the state is saved in the run folder, `checkpoints/<evaluation>.pt`. A trial
    that finds such a file goes on from it, whether its actor, its node or the driver had died;
    epochs that were done but not recorded any more are reported from the file. After the epochs
    that the job names, the weights are kept in another file too, a snapshot. Nothing that a
    network or an evaluator does is an error to Tune: a trial that fails reports so, with the
    reason, and ends; `checkpoints/<evaluation>.error.txt` has the traceback.
    """

    def setup(self, config: dict[str, Any], job: Job) -> None:  # type: ignore[override]
        """Prepare the process, then the first trial."""
        self.job = job
        self.team = Team(job.resources, job.threads, job.data)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Make this actor serve another trial."""
        self.team.free()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run one epoch; return its metrics, or how the trial ended."""
        if self.error is not None:
            return self._failed(self.error)
        try:
            if self.reported == len(self.history):
                self._train_epoch()
                self._save()
        except Exception as error:
            return self._failed(error)
        self.reported += 1
        done = self.reported >= self.job.epochs
        return {"epoch": self.reported, "metrics": self.history[self.reported - 1], "done": done}

    def _begin(self, config: dict[str, Any]) -> None:
        self.evaluation: int = config["evaluation"]
        self.path = self.job.folder.checkpoint(self.evaluation)
        self.architecture: str = config["architecture"]
        self.reported: int = config["reported"]
        self.history: list[dict[str, float]] = []
        self.error: Exception | None = None
        try:
            if is_local(self.path) and not self.path.parent.is_dir():
                raise StorageError(
                    f"{self.job.folder.path} is not visible on node {os.uname().nodename}: "
                    "storage_path must be a folder that all nodes share."
                )
            self.history = self.team.begin(partial(_made, self.job, config), self.path)
            while (
                len(self.history) < self.reported
            ):  # of a checkpoint that is gone: again, silently
                self._train_epoch()
        except Exception as error:
            self.error = error

    def _train_epoch(self) -> None:
        self.history.append(checked(self.team.step(), len(self.history) + 1))
        self._keep_snapshot()

    def _keep_snapshot(self) -> None:
        """Keep the weights, where the run asks for those of this epoch.

        It comes before the checkpoint, so that a trial that goes on from there lacks none.
        """
        epoch = len(self.history)
        if epoch in self.job.snapshots and (state := self._state().only_weights()).trial:
            state.save(self.job.folder.snapshot(self.evaluation, epoch))

    def _state(self) -> Checkpoint:
        data = self.team.data.fingerprint
        return Checkpoint(self.team.state_dict(), self.history, self.architecture, data)

    def _save(self) -> None:
        state = self._state()
        if state.trial:
            state.save(self.path)

    def _failed(self, error: Exception) -> dict[str, Any]:
        if self.team.device.type == "cuda":
            torch.cuda.empty_cache()
        status = Status.DIVERGED if isinstance(error, Diverged) else Status.FAILED
        with suppress(OSError), as_os_errors(self.path):
            trace = "".join(traceback.format_exception(error))
            self.job.folder.error(self.evaluation).write_text(trace, errors="replace")
        return {"status": status.value, "reason": reason_of(error), "done": True}


def _made(job: Job, config: dict[str, Any], data: Data, device: torch.device) -> Trial:
    """Make the trial of a configuration."""
    arch = job.space.from_string(config["architecture"])
    evaluator = cast(Evaluator, job.evaluator)
    seed = seed_for(evaluator.trial, config["seed"])
    trial = evaluator.trial(job.space, arch, data, job.epochs, seed, device)
    if not isinstance(trial, Trial):
        raise TypeError(f"the evaluator returned a {type(trial).__name__}, not a Trial")
    return trial


def checked(metrics: object, epoch: int) -> dict[str, float]:
    """Return what an evaluator's `step` returned, as plain numbers.

    Raises:
        TypeError: when it is not a mapping of names to numbers, `val_accuracy` among them.
        Diverged: when `val_accuracy` is not finite.
    """
    if not isinstance(metrics, Mapping):
        raise TypeError(f"step() returned a {type(metrics).__name__}, not a dict of metrics")
    if METRIC not in metrics:
        raise TypeError(f"step() returned no {METRIC!r} but {', '.join(map(str, metrics)) or '{}'}")
    plain: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            number = None
        if number is None or not isinstance(name, str):
            raise TypeError(f"step() returned {name!r}: {value!r:.80}, which is not a number")
        plain[name] = int(value) if isinstance(value, Integral) else number
    if not math.isfinite(plain[METRIC]):
        raise Diverged(f"{METRIC} is {plain[METRIC]} after epoch {epoch}")
    return plain
