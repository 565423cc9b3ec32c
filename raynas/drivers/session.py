"""What the stages and the driver of a run share."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ray

from raynas.cluster import Resources
from raynas.config.resolve import Plan
from raynas.drivers.pools import EstimatorPool
from raynas.drivers.trainable import Job
from raynas.errors import RaynasError
from raynas.record.events import Event
from raynas.record.folder import RunFolder
from raynas.record.history import History
from raynas.record.journal import Journal
from raynas.search.search import Search
from trials.trial import AnyEvaluator, Estimator


def _say_nothing(message: str, important: bool = True) -> None:
    """Tell nobody."""


@dataclass
class Session:
    """One process's work on a run, from its start to its end.

    Attributes:
        plan: what is to be done.
        journal: open.
        search: has taken the path that the journal describes.
        resources: of one trial.
        recorded: versions and hardware, for `run.yaml`.
        say: tells the user a sentence; one that is not important only now and then.
        problems: what could not be done and leaves the run whole; raised at the end.
        started: when the call began, on the monotonic clock.
    """

    plan: Plan
    journal: Journal
    search: Search
    resources: Resources
    recorded: dict[str, Any] = field(default_factory=dict)
    say: Callable[..., None] = _say_nothing
    problems: list[RaynasError] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> RunFolder:
        """Return the run folder."""
        return self.plan.folder

    @property
    def history(self) -> History:
        """Return what has happened so far."""
        return self.search.history

    @cached_property
    def data(self) -> Any:
        """Return a reference to the data, which are put into the object store once."""
        return ray.put(self.plan.data)

    @property
    def job(self) -> Job:
        """Return what all trials of the run share."""
        return self.job_of(self.plan.epochs)

    def job_of(
        self, epochs: int, evaluator: AnyEvaluator | None = None, threads: int | None = None
    ) -> Job:
        """Return what trainings share that have epochs of their own, and perhaps more.

        Args:
            epochs: of each.
            evaluator: None: the run's.
            threads: None: those of a trial.
        """
        plan = self.plan
        return Job(
            plan.space, evaluator or plan.evaluator, self.data, epochs, self.folder,
            threads or self.resources.threads, plan.config.snapshots, self.resources,
        )  # fmt: skip

    @property
    def spent(self) -> float:
        """Return the seconds that the run has taken, in all calls."""
        return self.history.earlier_seconds + time.monotonic() - self.started

    def record(self, event: Event) -> None:
        """Write an event that is no step of the search to the journal."""
        self.journal.append(event)

    def pool(self, estimator: Estimator, **options: Any) -> EstimatorPool:
        """Return a pool of actors that hold an estimator."""
        resources = self.resources
        return EstimatorPool(
            estimator, self.plan.space, self.data, self.plan.config.seed,
            resources.concurrent, resources.cpus, resources.gpus, **options,
        )  # fmt: skip

    def write_plan(self) -> None:
        """Write the resolved arguments to `run.yaml`."""
        self.plan.write(self.recorded, len(self.history.evaluations))
