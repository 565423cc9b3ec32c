"""The final training of the best architecture, on training and validation part together."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import torch

from raynas.trainable import Job, prepare_process
from search_spaces import Architecture
from trials.data import Data
from trials.training import Train

_WORKER_DEATHS = 3  # before the training counts as failed


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
    task: Any = ray.remote(_train).options(
        num_cpus=cpus, num_gpus=gpus, num_returns="streaming", max_retries=_WORKER_DEATHS
    )
    metrics: dict[str, float] = {}
    try:
        for epoch, reference in enumerate(task.remote(job, arch, recipe, seed, path), start=1):
            metrics = ray.get(reference)
            on_epoch(epoch, metrics)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    return metrics


def _train(
    job: Job, arch: Architecture, recipe: Train, seed: int, path: Path
) -> Iterator[dict[str, float]]:
    """The metrics of every epoch, first of those that the file at `path` has.

    So Ray may start it anew where a worker died, and gets what it had again.
    """
    device = prepare_process(job.threads)
    data: Data = ray.get(job.data)
    trial = recipe.retraining(job.space, arch, data, job.epochs, seed, device)
    history: list[dict[str, float]] = []
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        trial.load_state_dict(state["trial"])
        history = state["history"]
    yield from history
    while trial.epoch < trial.epochs:
        history.append(_of_test(trial.step()))
        partial = path.with_suffix(f".{os.getpid()}")
        torch.save({"trial": trial.state_dict(), "history": history}, partial)
        partial.replace(path)
        yield history[-1]


def _of_test(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics of a trial that was judged on the test part, under their right names."""
    return {
        "test_" + key.removeprefix("val_") if key.startswith("val_") else key: value
        for key, value in metrics.items()
    }
