"""What runs as Ray Tune trials, and what Tune sees of it: a searcher, a scheduler and a callback.

Tune calls all three from the driver's main thread. Everything that matters is done by `Trials`;
Tune's own snapshots and restore are not used (they lose finished trials and the scheduler).
"""

import logging
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raynas.cluster import Resources
from raynas.drivers.session import Session
from raynas.record.events import Status

_TUNES_SIGNALS = (signal.SIGINT, signal.SIGUSR1)
_WORKER_DEATHS = 3  # before a trial whose worker keeps dying counts as failed


class Trials(ABC):
    """What runs as trials, each by its number.

    A result has the number of the `epoch` and what that came to, or the `status` and the `reason`
    of a failure.
    """

    #: the key of a trial's configuration that has its number
    key: ClassVar[str]

    @property
    @abstractmethod
    def exhausted(self) -> bool:
        """Return whether no further trial will be suggested."""

    @property
    @abstractmethod
    def left(self) -> list[int]:
        """Return the numbers of the trials that have begun, or are to begin, and not ended."""

    @abstractmethod
    def suggest(self) -> dict[str, Any] | None:
        """Return the configuration of the next trial; None when there is none, now or ever."""

    @abstractmethod
    def epochs(self, number: int) -> int:
        """Return how many epochs of a trial are recorded."""

    @abstractmethod
    def report(self, number: int, result: dict[str, Any]) -> bool:
        """Record the next epoch of a trial and return whether it goes on."""

    @abstractmethod
    def end(self, number: int, status: Status, reason: str | None = None) -> None:
        """Record the end of a trial."""


def fit(session: Session, trainable: Any, trials: Trials) -> None:
    """Run trials on Tune until they are exhausted.

    Args:
        session: of the run.
        trainable: what a trial is; its actors serve one after another.
        trials: what there is to run.

    Raises:
        KeyboardInterrupt: when the user interrupts Tune, which ends quietly then.
    """
    resources, key = session.resources, trials.key  # Tune pickles what names the folders
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures come as results
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.concurrent)
    tuner = tune.Tuner(
        tune.with_resources(trainable, _bundles(resources)),
        tune_config=tune.TuneConfig(
            search_alg=_Searcher(trials),
            scheduler=_Scheduler(trials),
            num_samples=-1,
            max_concurrent_trials=resources.concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config[key]:05d}",
        ),
        run_config=tune.RunConfig(
            name=f"{len(list(session.folder.tune.glob('*'))):03d}",
            storage_path=str(session.folder.tune),
            callbacks=[_Callback(trials)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=_WORKER_DEATHS),
            verbose=0,
        ),
    )
    with _own_signals():
        tuner.fit()
    if not trials.exhausted or trials.left:
        raise KeyboardInterrupt  # Tune ends quietly on the first Ctrl-C


def _bundles(resources: Resources) -> dict[str, float] | tune.PlacementGroupFactory:
    """Return what Tune reserves for a trial: a bundle for each process, on several nodes too."""
    one = {"cpu": resources.cpus, "gpu": resources.gpus}
    if resources.workers == 1:
        return one
    bundle = {key.upper(): amount for key, amount in one.items()}
    return tune.PlacementGroupFactory([bundle] * resources.workers, strategy="PACK")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put back the handlers that Tune leaves behind, which swallow the next Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where Tune sets none, and nobody could put any back
        return
    handlers = {number: signal.getsignal(number) for number in _TUNES_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Searcher(Searcher):
    """Hands Tune what there is to run."""

    def __init__(self, trials: Trials):
        super().__init__()
        self.trials = trials

    def suggest(  # type: ignore[override]  # the base forgot FINISHED
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Return the configuration of the next trial."""
        configuration = self.trials.suggest()
        if configuration is None and self.trials.exhausted:
            return Searcher.FINISHED
        return configuration

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the scheduler has heard it."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the journal is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it into a snapshot that nobody reads


class _Scheduler(FIFOScheduler):
    """Passes every result on, and tells Tune what to do."""

    def __init__(self, trials: Trials):
        super().__init__()  # type: ignore[no-untyped-call]
        self.trials = trials

    def on_trial_result(self, tune_controller: object, trial: Trial, result: dict[str, Any]) -> str:
        """Take a result after which the trial could go on."""
        number = trial.config[self.trials.key]
        if self._report(number, result):
            return str(TrialScheduler.CONTINUE)
        self.trials.end(number, Status.STOPPED)
        return str(TrialScheduler.STOP)

    def on_trial_complete(
        self, tune_controller: object, trial: Trial, result: dict[str, Any]
    ) -> None:
        """Take the last result of a trial: of its last epoch, of its failure, or of its stop."""
        number = trial.config[self.trials.key]
        if number not in self.trials.left:
            return  # stopped by our own decision
        if "status" in result:
            self.trials.end(number, Status(result["status"]), result["reason"])
        else:
            self._report(number, result)
            self.trials.end(number, Status.COMPLETED)

    def _report(self, number: int, result: dict[str, Any]) -> bool:
        if result["epoch"] <= self.trials.epochs(number):
            return True  # an actor that was started anew repeats what is known
        return self.trials.report(number, result)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Callback(tune.Callback):
    """Tells of trials that Tune gave up."""

    def __init__(self, trials: Trials):
        self.trials = trials

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """End a trial whose actor died, as did those that Tune started in its place.

        (The scheduler's hook of this name is also called before each new attempt.)
        """
        lines = [line for line in str(trial.get_error() or "").splitlines() if line.strip()]
        reason = f"worker died: {lines[-1].strip() if lines else 'no reason known'}"
        self.trials.end(trial.config[self.trials.key], Status.FAILED, reason)

    def __getstate__(self) -> dict[str, Any]:
        return {}
