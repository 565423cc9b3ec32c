"""The stage of the last decision: full training tells which of the best is the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import ray

from raynas.drivers.session import Session
from raynas.drivers.trainable import Job
from raynas.planning.allotment import training_job
from raynas.record.events import METRIC, Metrics, Placed, Selected, Selecting, SelectingFailed
from raynas.record.formatting import shown
from raynas.record.history import Evaluation
from raynas.stages.full_training import FullTraining, TrainingFailed, next_epoch
from raynas.stages.stage import Stage
from trials.trial import derived_seed


class SelectStage(Stage):
    """Trains the best of the search like the retraining, but never sees the test part.

    The one with the highest validation accuracy at the end is retrained. Each is trained anew, with
    a seed of its own, also where its evaluation was such a training already: of many evaluations
    the highest was lucky, and a second training shows by how much.
    """

    name: ClassVar[str] = "select"

    def done(self, session: Session) -> bool:
        """See `Stage`."""
        candidates, selected = session.search.candidates, session.history.selected
        if not candidates:
            return selected is None or not selected.evaluations
        return session.history.selected_of(candidates) is not None

    def run(self, session: Session) -> None:
        """Train those of the candidates that are not trained yet, then decide.

        One that fails is out; when all fail, the order of the search stands. Without candidates,
        where an earlier call had some, the decision is the search's again.

        Raises:
            StorageError: when its files cannot be read or written.
        """
        candidates = session.search.candidates
        if not candidates:
            session.record(Selected([], []))
            return
        job = training_job(session, self.name, trainings=len(candidates))
        numbers = ", ".join(f"#{candidate.index}" for candidate in candidates)
        session.say(f"The last decision, by {job.epochs} epochs of training: {numbers}")
        _train(session, job, candidates)
        worths = _worths(session, candidates)
        chosen = sorted(worths, key=lambda index: -worths[index])
        session.record(Selected([candidate.index for candidate in candidates], chosen))
        if chosen:
            session.say(f"Chosen: #{chosen[0]}")
        else:
            session.say("All of these trainings failed: the order of the search stands.")


@dataclass
class _Running:
    """A candidate in training, and how many epochs have been received."""

    evaluation: Evaluation
    epochs: Any
    received: int = 0


def _train(session: Session, job: Job, candidates: Sequence[Evaluation]) -> None:
    """Train what is not trained yet, as many at a time as the cluster holds."""
    trained = session.history.selecting
    waiting = [c for c in candidates if len(trained.get(c.index, [])) < job.epochs]
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < session.resources.concurrent:
                running.append(_started(session, job, waiting.pop(0)))
            ready, _ = ray.wait([one.epochs for one in running], fetch_local=False)
            one = next(one for one in running if one.epochs is ready[0])
            if not _goes_on(session, job.epochs, one):
                running.remove(one)
    finally:
        for one in running:  # which an error has left
            ray.cancel(one.epochs)


def _started(session: Session, job: Job, evaluation: Evaluation) -> _Running:
    search, index = session.search, evaluation.index
    training = FullTraining(
        job, search.architectures[index], derived_seed(search.seed, index, 2),
        session.folder.selection(index), final=False,
    )  # fmt: skip
    resources = session.resources
    session.record(Placed(SelectStage.name, index, "", *resources.of_trial))
    return _Running(evaluation, training.start(resources))


def _goes_on(session: Session, epochs: int, one: _Running) -> bool:
    """Take the next epoch of a candidate, recording it once; return whether there was one."""
    index = one.evaluation.index
    try:
        metrics = next_epoch(one.epochs)
    except TrainingFailed as error:
        session.record(SelectingFailed(index, str(error)))
        session.say(f"The training of #{index} failed: {error}")
        return False
    recorded = session.history.selecting.get(index, [])
    if metrics is None:
        session.say(f"#{index}: {_compared(session, one.evaluation, recorded[-1])}")
        return False
    one.received += 1
    if one.received > len(recorded):
        session.record(Selecting(index, one.received, metrics))
        session.say(
            f"#{index}: epoch {one.received}/{epochs}, {shown(METRIC, metrics[METRIC])}",
            important=False,
        )
    return True


def _compared(session: Session, evaluation: Evaluation, metrics: Metrics) -> str:
    value = shown(session.search.metric, evaluation.value)
    return f"{shown(METRIC, metrics[METRIC])} {METRIC} by full training, {value} in the search"


def _worths(session: Session, candidates: Sequence[Evaluation]) -> Mapping[int, float]:
    """Return {candidate: validation accuracy less penalty} of those whose training ended well."""
    search, history = session.search, session.history
    worths = {}
    for candidate in candidates:
        curve = history.selecting.get(candidate.index)
        if curve and candidate.index not in history.selecting_failures:
            penalty = search.admission.penalty(search.architectures[candidate.index])
            worths[candidate.index] = curve[-1][METRIC] - penalty
    return {index: worth for index, worth in worths.items() if math.isfinite(worth)}
