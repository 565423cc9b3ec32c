"""The training of an architecture from scratch over all its epochs, as a Ray task."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch

from raynas.cluster import Resources, reason_of
from raynas.drivers.peers import Team
from raynas.drivers.trainable import Job
from raynas.errors import StorageError
from raynas.record.checkpoints import Checkpoint
from raynas.record.events import Metrics
from search_spaces import Architecture
from trials.data import Data, Part
from trials.training import Train
from trials.trial import TEST_LOGITS, VALIDATION_LOGITS, Trial, seed_for

_WORKER_DEATHS = 3  # before the training counts as failed


class TrainingFailed(Exception):
    """The training of this architecture failed or diverged; the message is the reason."""


@dataclass(frozen=True)
class FullTraining:
    """What is trained, and on what.

    Attributes:
        job: the run's, with the epochs of this training.
        arch: the architecture.
        seed: of weights, order and augmentation.
        path: of the checkpoint, from which it goes on where there is one.
        final: whether it is trained on training and validation part and judged on the test part;
            else on the training part, judged on the validation part.
    """

    job: Job
    arch: Architecture
    seed: int
    path: Path
    final: bool

    def start(self, resources: Resources) -> Any:
        """Start it; return an iterator for `next_epoch`, which `ray.wait` takes too."""
        task: Any = ray.remote(_train).options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, num_returns="streaming",
            max_retries=_WORKER_DEATHS,
        )  # fmt: skip
        return task.remote(replace(self, job=replace(self.job, resources=resources)))

    def trial(self, data: Data, device: torch.device) -> Trial:
        """Return the trial, untrained."""
        job = self.job
        parts = data if self.final else _without_test(data)
        own = job.evaluator.retraining
        seed = seed_for(own, self.seed)
        trial = own(job.space, self.arch, parts, job.epochs, seed, device)
        if trial is not None:
            return trial
        return Train().retraining(job.space, self.arch, parts, job.epochs, self.seed, device)


def epochs(running: Any) -> Generator[Metrics]:
    """Yield the metrics of every epoch of a training that was started; see `next_epoch`.

    Whoever does not want all of them closes it, which ends the training.
    """
    try:
        while (metrics := next_epoch(running)) is not None:
            yield metrics
    finally:
        ray.cancel(running)  # which has ended, but for an interruption


def next_epoch(running: Any) -> Metrics | None:
    """Return the metrics of the next epoch, first of those that the checkpoint has.

    Returns:
        The metrics, of a final training `test_accuracy` and `test_loss` among them, else
        `val_accuracy` and `val_loss`. None: it has ended.

    Raises:
        TrainingFailed: when the fault is the training's own.
        StorageError: when its files cannot be read or written.
    """
    try:
        reference = next(running, None)
        metrics: Metrics | None = None if reference is None else ray.get(reference)
        return metrics
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError | StorageError):
            raise StorageError(
                f"The training cannot read or write its files: {error.cause} Mend that,"
                " then the same command continues the run."
            ) from error
        raise error.cause from error
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise TrainingFailed(f"worker died: {str(error).splitlines()[0]}") from error


def _train(training: FullTraining) -> Iterator[Metrics]:
    """Yield the metrics of every epoch, first of those that the checkpoint has.

    So Ray may start it anew where a worker died, and gets what it had again.
    """
    job = training.job
    team = Team(job.resources, job.threads, job.data)
    try:
        with _own_faults():
            history = team.begin(training.trial, training.path)
        for metrics in history:
            yield metrics
        while (trial := team.trial) is not None and trial.epoch < trial.epochs:
            with _own_faults():
                metrics = team.step()
                history.append(_of_test(metrics) if training.final else metrics)
            state = team.state_dict()
            if training.final and VALIDATION_LOGITS in state:  # of the part that it was judged on
                state[TEST_LOGITS] = state.pop(VALIDATION_LOGITS)
            Checkpoint(state, history).save(training.path)
            yield history[-1]
    finally:
        team.dismiss()


def _without_test(data: Data) -> Data:
    """Return the data with the validation part in place of the test part, and none of its own.

    So what is trained before the last decision has the recipe of the retraining, whatever the
    evaluator makes of that, and never sees a test image.
    """
    nothing = Part(data.validation.store, data.validation.indices[:0])
    return replace(data, validation=nothing, test=data.validation)


@contextmanager
def _own_faults() -> Iterator[None]:
    """Turn errors of the network or of its training into `TrainingFailed`, not those of files."""
    try:
        yield
    except (OSError, StorageError):
        raise
    except Exception as error:
        raise TrainingFailed(reason_of(error)) from error


def _of_test(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics of a trial that was judged on the test part, under their right names."""
    return {
        "test_" + key.removeprefix("val_") if key.startswith("val_") else key: value
        for key, value in metrics.items()
    }
