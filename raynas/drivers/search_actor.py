"""A differentiable search as a Ray Tune trainable: one actor runs one search after another."""

import os
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune

from raynas.cluster import prepare_process, reason_of
from raynas.drivers.peers import begun
from raynas.errors import StorageError
from raynas.record.checkpoints import Checkpoint
from raynas.record.events import Status
from raynas.record.folder import RunFolder
from search_spaces import SearchSpace
from trials.data import Data
from trials.differentiable import Differentiable, GradientSearch
from trials.places import as_os_errors, is_local
from trials.trial import Diverged


@dataclass(frozen=True)
class SearchJob:
    """What all differentiable searches of a run share; put into the object store once."""

    space: SearchSpace
    #: how searches go, which take them in turn
    recipes: Sequence[Differentiable]
    #: reference to the `Data`, mapped by every search of a node
    data: "ray.ObjectRef[Data]"
    epochs: int
    #: which every node must see
    folder: RunFolder
    threads: int


class SearchActor(tune.Trainable):
    """Runs differentiable searches, one epoch a step.

    The configuration of a trial: `search` (number), `seed`, and `reported`, the number of epochs
    that the journal has. After every epoch the state is saved, `searches/<number>.pt`, from
    which a search goes on wherever its actor, its node or the driver had died; as in `TrialActor`,
    epochs that were not recorded any more come from the file, and a failure is a result.
    """

    def setup(self, config: dict[str, Any], job: SearchJob) -> None:  # type: ignore[override]
        """Prepare the process, then the first search."""
        self.job = job
        self.data: Data = ray.get(job.data)
        self.device = prepare_process(job.threads)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Make this actor serve another search."""
        self.search: GradientSearch | None = None
        self._free()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run one epoch; return its number and what it came to, or how the search ended."""
        if self.error is not None:
            return self._failed(self.error)
        assert self.search is not None
        try:
            if self.reported == len(self.history) and not self.search.stopped:
                self._train_epoch()
                state = self.search.state_dict()
                Checkpoint(state, self.history, data=self.data.fingerprint).save(self.path)
        except Exception as error:
            return self._failed(error)
        if self.reported < len(self.history):  # else it had stopped: its last epoch once more
            self.reported += 1
        ended = self.reported == len(self.history) and self.search.stopped
        return {
            "epoch": self.reported,
            "of_epoch": [self.history[self.reported - 1]],  # in a list Tune leaves it as it is
            "done": ended or self.reported >= self.job.epochs,
        }

    def _begin(self, config: dict[str, Any]) -> None:
        self.number: int = config["search"]
        self.path = self.job.folder.search(self.number)
        self.reported: int = config["reported"]
        self.history: list[dict[str, Any]] = []
        self.search = None
        self.error: Exception | None = None
        job = self.job
        recipe = job.recipes[self.number % len(job.recipes)]
        try:
            if is_local(self.path) and not self.path.parent.is_dir():
                raise StorageError(
                    f"{job.folder.path} is not visible on node {os.uname().nodename}: "
                    "storage_path must be a folder that all nodes share."
                )
            self.search, self.history = begun(
                lambda: recipe.trial(job.space, self.data, job.epochs, config["seed"], self.device),
                self.path,
                self.device,
            )
            while len(self.history) < self.reported:  # of a checkpoint that is gone: again
                self._train_epoch()
        except Exception as error:
            self.error = error

    def _train_epoch(self) -> None:
        search = self.search
        assert search is not None
        metrics = search.step()
        self.history.append(
            {
                "architecture": self.job.space.to_string(search.derived),
                "metrics": metrics,
                "mixture": search.mixture,
            }
        )

    def _failed(self, error: Exception) -> dict[str, Any]:
        self._free()
        with suppress(OSError), as_os_errors(self.path):
            trace = "".join(traceback.format_exception(error))
            self.job.folder.search_error(self.number).write_text(trace, errors="replace")
        status = Status.DIVERGED if isinstance(error, Diverged) else Status.FAILED
        return {"status": status.value, "reason": reason_of(error), "done": True}

    def _free(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
