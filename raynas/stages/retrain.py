"""The stage that retrains the best architecture, on training and validation part together."""

from contextlib import closing
from dataclasses import replace
from typing import ClassVar

from raynas.drivers.session import Session
from raynas.errors import SearchFailed
from raynas.planning.allotment import training_job
from raynas.record.events import Metrics, Placed, Retrained, Retraining, RetrainingFailed
from raynas.record.formatting import describe
from raynas.record.history import Evaluation
from raynas.stages.full_training import FullTraining, TrainingFailed, epochs
from raynas.stages.stage import Stage
from trials.trial import derived_seed


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
    search, index = session.search, evaluation.index
    job = training_job(session, RetrainStage.name, search.architectures[index])
    training = FullTraining(
        job, search.architectures[index], derived_seed(search.seed, index, 1),
        session.folder.retraining(index), final=True,
    )  # fmt: skip
    resources = replace(
        session.resources, cpus=max(session.resources.cpus, job.threads),
        workers=session.plan.retrain_workers,
    )  # fmt: skip
    told = len(session.history.retraining.get(index, []))
    metrics: Metrics = {}
    session.record(Placed(RetrainStage.name, index, "", *resources.of_trial))
    with closing(epochs(training.start(resources))) as curve:
        for epoch, metrics in enumerate(curve, start=1):
            if epoch > told:
                session.record(Retraining(index, epoch, metrics))
    return metrics
