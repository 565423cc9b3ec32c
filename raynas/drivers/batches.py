"""The driver of cheap evaluations: proxies, tables, one batch after another."""

import math
from collections.abc import Callable, Iterator
from typing import cast

import torch

from raynas.drivers.driver import Driver
from raynas.drivers.session import Session
from raynas.record.events import Status
from raynas.search.search import Search
from search_spaces import Architecture
from trials.estimate import Estimate, estimated
from trials.trial import Estimator

_BATCHES = 20  # at least, that the evaluations of a search are divided into


class Batches(Driver):
    """Evaluates on plain actors; what is instant (a table) here, one after the other."""

    def run(self, session: Session) -> None:
        """See `Driver`."""
        search, plan = session.search, session.plan
        estimator = cast(Estimator, plan.evaluator)
        if estimator.instant:
            estimate = estimator.open(plan.space, plan.data, search.seed, torch.device("cpu"))
            evaluate_batches(search, lambda next_one: _in_turn(estimate, next_one))
            return
        with session.pool(estimator, most=largest_batch(search)) as pool:
            evaluate_batches(search, pool.run)


def largest_batch(search: Search) -> int:
    """Return how many architectures a batch may have, so that the search learns now and then."""
    return search.samples // _BATCHES


def evaluate_batches(
    search: Search,
    estimates: Callable[[Callable[[], Architecture | None]], Iterator[Estimate]],
) -> None:
    """Evaluate what a search suggests until it has enough.

    Args:
        search: not exhausted.
        estimates: makes estimates of whatever the function that it is given returns, until that
            gives None and nothing is under way.
    """
    running: dict[Architecture, int] = {}

    def next_one() -> Architecture | None:
        evaluation = search.suggest()
        if evaluation is None:
            return None
        arch = search.architectures[evaluation.index]
        running[arch] = evaluation.index
        return arch

    for estimate in estimates(next_one):
        index = running.pop(estimate.architecture)
        metrics = estimate.metrics
        if metrics is None or math.isnan(metrics[search.metric]):
            search.finish(index, Status.FAILED, estimate.reason or "no value")
        else:
            search.report(index, metrics)
            search.finish(index, Status.COMPLETED)


def _in_turn(
    estimate: Callable[[Architecture], dict[str, float]],
    next_one: Callable[[], Architecture | None],
) -> Iterator[Estimate]:
    while (arch := next_one()) is not None:
        yield estimated(estimate, arch)
