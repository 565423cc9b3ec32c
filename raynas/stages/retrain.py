"""The stage that retrains the best architecture, on training and validation part together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import ray

from raynas.cluster import prepare_process, reason_of
from raynas.drivers.session import Session
from raynas.drivers.trainable import Job, begun
from raynas.errors import SearchFailed, StorageError
from raynas.record.checkpoints import Checkpoint
from raynas.record.events import Metrics, Retrained, Retraining, RetrainingFailed
from raynas.record.formatting import describe
from raynas.record.history import Evaluation
from raynas.stages.stage import Stage
from search_spaces import Architecture
from trials.data import Data
from trials.training import Train
from trials.trial import TEST_LOGITS, VALIDATION_LOGITS, derived_seed

_WORKER_DEATHS = 3  # before the training counts as failed


class TrainingFailed(Exception):
    """The training of this architecture failed or diverged; the message is the reason."""


class RetrainStage(Stage):
    """Retrains the best; where that fails, the next best."""

    name: ClassVar[str] = "retrain"

    def done(self, session: Session) -> bool:
        """See `Stage`."""
        best = next(iter(session.search.finalists), None)
        return best is not None and best.index in session.history.retrained

    def run(self, session: Session) -> None:
        """Retrain the best; one that failed before is tried again.

        Raises:
            SearchFailed: when the retraining of all finalists fails.
            StorageError: when its files cannot be read or written.
        """
        failures = []
        for evaluation in session.search.finalists:
            if evaluation.index in session.history.retrained:
                return
            session.say(f"Retraining #{evaluation.index}: {describe(evaluation)}")
            try:
                metrics = _retrained(session, evaluation)
            except TrainingFailed as error:
                failures.append(f"#{evaluation.index}: {error}")
                session.record(RetrainingFailed(evaluation.index, str(error)))
                session.say(f"The retraining failed. {failures[-1]}")
                continue
            value = {session.search.metric: evaluation.value, "epochs": evaluation.epochs}
            session.record(Retrained(evaluation.index, {**value, **metrics}))
            return
        raise SearchFailed(f"The retraining failed: {'; '.join(failures)}.")


def _retrained(session: Session, evaluation: Evaluation) -> Metrics:
    """Retrain, recording every epoch once; return the metrics of the last one."""
    plan, search = session.plan, session.search
    job = replace(session.job, epochs=plan.config.retrain_epochs or plan.config.epochs)
    told = len(session.history.retraining.get(evaluation.index, []))

    def on_epoch(epoch: int, metrics: Metrics) -> None:
        if epoch > told:
            session.record(Retraining(evaluation.index, epoch, metrics))

    return retrain(
        job, search.architectures[evaluation.index], evaluation.index,
        derived_seed(search.seed, evaluation.index, 1), session.resources.cpus,
        session.resources.gpus, on_epoch,
    )  # fmt: skip


def retrain(
    job: Job,
    arch: Architecture,
    evaluation: int,
    seed: int,
    cpus: float,
    gpus: float,
    on_epoch: Callable[[int, Metrics], None],
) -> Metrics:
    """Train `arch` from scratch for `job.epochs` epochs, or go on from its last checkpoint.

    Args:
        job: the run's, with the epochs of this training.
        arch: what to train.
        evaluation: whose architecture it is; names the checkpoint.
        seed: of weights, order and augmentation.
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
    metrics: Metrics = {}
    try:
        for epoch, reference in enumerate(task.remote(job, arch, evaluation, seed), start=1):
            metrics = ray.get(reference)
            on_epoch(epoch, metrics)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError | StorageError):
            raise StorageError(
                f"The retraining cannot read or write its files: {error.cause} Mend that,"
                " then the same command continues the run."
            ) from error
        raise error.cause from error
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise TrainingFailed(f"worker died: {str(error).splitlines()[0]}") from error
    return metrics


def _train(job: Job, arch: Architecture, evaluation: int, seed: int) -> Iterator[Metrics]:
    """Yield the metrics of every epoch, first of those that the checkpoint has.

    So Ray may start it anew where a worker died, and gets what it had again.
    """
    device = prepare_process(job.threads)
    data: Data = ray.get(job.data)
    path = job.folder.retraining(evaluation)
    with _own_faults():
        arguments = (job.space, arch, data, job.epochs, seed, device)
        trial, history = begun(
            lambda: job.evaluator.retraining(*arguments) or Train().retraining(*arguments),
            path,
            device,
        )
    for metrics in history:  # noqa: UP028  Ray sends into generators; `yield from` a list fails
        yield metrics
    while trial.epoch < trial.epochs:
        with _own_faults():
            history.append(_of_test(trial.step()))
        state = trial.state_dict()
        if VALIDATION_LOGITS in state:  # of the part that it was judged on
            state[TEST_LOGITS] = state.pop(VALIDATION_LOGITS)
        Checkpoint(state, history).save(path)
        yield history[-1]


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
