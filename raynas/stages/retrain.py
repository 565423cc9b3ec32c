"""The final training of the best architecture, on training and validation part together."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch

from raynas.drivers.trainable import Job, begun, prepare_process, reason_of
from raynas.errors import StorageError
from search_spaces import Architecture
from trials.data import Data
from trials.training import Train

_WORKER_DEATHS = 3  # before the training counts as failed


class TrainingFailed(Exception):
    """The training of this architecture failed or diverged; the message is the reason."""


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
        TrainingFailed: when the fault is the training's own.
        StorageError: when its files cannot be read or written.
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
        if isinstance(error.cause, OSError):
            raise StorageError(
                f"The final training cannot read or write its files: {error.cause}. Mend that,"
                " then the same command continues the run."
            ) from error
        raise error.cause from error
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise TrainingFailed(f"worker died: {str(error).splitlines()[0]}") from error
    return metrics


def _train(
    job: Job, arch: Architecture, recipe: Train, seed: int, path: Path
) -> Iterator[dict[str, float]]:
    """The metrics of every epoch, first of those that the file at `path` has.

    So Ray may start it anew where a worker died, and gets what it had again.
    """
    device = prepare_process(job.threads)
    data: Data = ray.get(job.data)
    with _own_faults():
        trial, history = begun(
            lambda: recipe.retraining(job.space, arch, data, job.epochs, seed, device),
            path,
            device,
        )
    for metrics in history:  # noqa: UP028  Ray sends into generators; `yield from` a list fails
        yield metrics
    while trial.epoch < trial.epochs:
        with _own_faults():
            history.append(_of_test(trial.step()))
        partial = path.with_suffix(f".{os.getpid()}")
        state = trial.state_dict()
        state["test_logits"] = state.pop("validation_logits")  # the part that it was judged on
        torch.save({"trial": state, "history": history}, partial)
        partial.replace(path)
        yield history[-1]


@contextmanager
def _own_faults() -> Iterator[None]:
    """Errors of the network or of its training become `TrainingFailed`, those of files do not."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise TrainingFailed(reason_of(error)) from error


def _of_test(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics of a trial that was judged on the test part, under their right names."""
    return {
        "test_" + key.removeprefix("val_") if key.startswith("val_") else key: value
        for key, value in metrics.items()
    }
