"""The final training of the best architecture, on training and validation part together."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch

from raynas.trainable import Job
from search_spaces import Architecture
from trials.data import Data
from trials.training import Train, TrainingTrial

_MAX_DEATHS = 3


class RetrainingActor:
    """A `TrainingTrial` on the test part, one epoch a call, saved after each."""

    def __init__(self, job: Job, arch: Architecture, recipe: Train, seed: int, path: Path):
        self.path = path
        data: Data = ray.get(job.data)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        torch.set_num_threads(job.threads)
        torch.backends.cudnn.deterministic = True
        self.trial: TrainingTrial = recipe.retraining(
            job.space, arch, data, job.epochs, seed, device
        )
        self.metrics: dict[str, float] = {}
        if path.exists():
            state = torch.load(path, map_location=device, weights_only=True)
            self.trial.load_state_dict(state["trial"])
            self.metrics = state["metrics"]

    def step(self) -> tuple[int, dict[str, float]]:
        """(epochs done, metrics): after one more epoch, unless all are done."""
        if self.trial.epoch < self.trial.epochs:
            self.metrics = _of_test(self.trial.step())
            partial = self.path.with_suffix(f".{os.getpid()}")
            torch.save({"trial": self.trial.state_dict(), "metrics": self.metrics}, partial)
            partial.replace(self.path)
        return self.trial.epoch, self.metrics


def retrain(
    job: Job,
    arch: Architecture,
    recipe: Train,
    seed: int,
    path: Path,
    cpus: float,
    gpus: float,
    on_epoch: Callable[[int, dict[str, float]], None],
) -> dict[str, float]:
    """Train `arch` from scratch for `job.epochs` epochs, or go on from the file at `path`.

    Args:
        job: the run's, with the epochs of this training.
        arch: what to train.
        recipe: how.
        seed: of weights, order and augmentation.
        path: the state after every epoch; what is left there has the final weights.
        cpus: CPU cores of the training.
        gpus: its GPUs.
        on_epoch: called with (epochs done, metrics) after every epoch.

    Returns:
        The metrics of the last epoch, `test_accuracy` and `test_loss` among them.

    Raises:
        Exception: whatever the training raised, `Diverged` among it.
    """
    for remaining in reversed(range(_MAX_DEATHS)):
        remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(RetrainingActor)
        actor = remote.remote(job, arch, recipe, seed, path)
        try:
            epoch, metrics = 0, {}
            while epoch < job.epochs:
                epoch, metrics = ray.get(actor.step.remote())
                on_epoch(epoch, metrics)
            return metrics
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayActorError:
            if not remaining:
                raise
        finally:
            ray.kill(actor)
    raise AssertionError("unreachable")


def _of_test(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics of a trial that was judged on the test part, under their right names."""
    return {
        "test_" + key.removeprefix("val_") if key.startswith("val_") else key: value
        for key, value in metrics.items()
    }
