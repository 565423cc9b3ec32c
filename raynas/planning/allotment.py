"""How much of a time budget is left, and what of it a training gets."""

import statistics
from dataclasses import replace
from typing import cast

from ray.exceptions import RayError

from raynas.cluster import largest_node
from raynas.drivers.session import Session
from raynas.drivers.trainable import Job
from raynas.planning.measuring import rate
from raynas.record.events import Allotted, Planned
from search_spaces import Architecture
from trials.training import Train

SEARCH = "search"

_UNFORESEEN = 0.95  # of the time that is left is given away
_FEWEST = 3  # evaluations, however late it has become
_LEAST = 0.25  # of the planned share, however late it has become


def training_job(
    session: Session, stage: str, arch: Architecture | None = None, trainings: int = 1
) -> Job:
    """Return what the full trainings of a stage share, within the time where there is a budget.

    Args:
        session: of the run.
        stage: `select` or `retrain`.
        arch: what is trained, where it is one.
        trainings: how many there are.
    """
    planned = session.history.planned
    if planned is None:
        return session.job_of(session.plan.retrain_epochs)
    if stage not in session.history.allotted:
        session.record(Allotted(stage, _seconds(session, planned, stage, arch, trainings)))
    epochs = planned.epochs[stage]
    evaluator = session.plan.evaluator.lasting(session.history.allotted[stage] / epochs)
    return session.job_of(
        epochs, evaluator, _cores(session, planned) if stage == "retrain" else None
    )


def _cores(session: Session, planned: Planned) -> int:
    """Return the cores of a training that runs alone.

    No node may have so many any more as were planned, and Ray would wait for one without end.
    """
    if session.plan.retrain_workers > 1:  # which share the nodes
        return session.resources.threads
    cores = min(planned.cpus, largest_node(session.resources.gpus))
    return max(cores, session.resources.threads)


def allot_search(session: Session) -> None:
    """Give the search its share of what is left when it begins, in a run with a time budget."""
    planned = session.history.planned
    if planned is None or SEARCH in session.history.allotted:
        return
    left = max(planned.seconds - planned.closing - session.spent, _LEAST * planned.inner)
    session.record(Allotted(SEARCH, round(session.spent + left * planned.shares[0], 1)))


def search_is_over(session: Session) -> bool:
    """Return whether a new evaluation would end after the time of the search."""
    end = session.history.allotted.get(SEARCH)
    if end is None or len(session.search.evaluations) < _FEWEST:
        return False
    one = (session.plan.evaluator.epoch_length or 0.0) * session.plan.epochs
    return session.spent + one / 2 > end


def _seconds(
    session: Session, planned: Planned, stage: str, arch: Architecture | None, trainings: int
) -> float:
    """Return what each training gets: of what is left, what nothing else needs, and no more."""
    worth = 1 / _slowness(session) if arch is None else _rate(session, planned, arch)
    _, select, retrain = planned.shares
    left = max(
        planned.seconds - planned.closing - session.spent,
        _LEAST * (select + retrain) * planned.inner,
    )
    wall = left * _UNFORESEEN
    if stage == "select":
        rounds = -(-trainings // session.resources.concurrent)
        seconds = wall * select / (select + retrain) / rounds
    else:
        seconds = wall
    evaluation = (session.plan.evaluator.epoch_length or 0.0) * session.plan.epochs
    least = max(seconds * worth, evaluation)
    return float(f"{min(least, max(planned.longest[stage], evaluation)):.4g}")


def _rate(session: Session, planned: Planned, arch: Architecture) -> float:
    """Measure how fast the retraining of an architecture is, in seconds of the pace for each."""
    plan = session.plan
    resources = replace(
        session.resources, cpus=max(session.resources.cpus, _cores(session, planned))
    )
    try:
        recipe = cast(Train, plan.evaluator)  # nothing else is planned in time
        return rate(plan.space, arch, session.data, recipe, resources)
    except RayError:  # the training fails likewise, and the run says for which reason
        return 1 / _slowness(session)


def _slowness(session: Session) -> float:
    """Return how many times longer epochs of the search took than predicted; at least 0.5."""
    predicted = session.plan.evaluator.epoch_length
    taken = [
        e.history[-1]["train_seconds"] / (e.epochs * predicted)
        for e in session.search.evaluations
        if predicted and e.history and "train_seconds" in e.history[-1]
    ]
    return max(0.5, statistics.median(taken)) if taken else 1.0
