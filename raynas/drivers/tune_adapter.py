"""What runs as Ray Tune trials, and what Tune sees of it: a searcher, a scheduler and a callback.

Tune calls all three from the driver's main thread. Everything that matters is done by `Trials`;
Tune's own snapshots and restore are not used (they lose finished trials and the scheduler).
"""

import logging
import os
import signal
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raynas.cluster import Resources
from raynas.drivers.concurrency import Concurrency
from raynas.drivers.session import Session
from raynas.errors import StorageError
from raynas.record.events import Placed, Status
from raynas.record.folder import RunFolder
from trials.places import is_local

_TUNES_SIGNALS = (signal.SIGINT, signal.SIGUSR1)
_ANSWER_SECONDS = 5.0  # that an actor has to say where it is
_WORKER_DEATHS = 3  # without an epoch between them, before a trial counts as failed


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
    def over(self) -> bool:
        """Return whether all that runs ends now, whatever it has come to."""
        return False

    @property
    def failure(self) -> StorageError | None:
        """Return why what trials come to cannot be kept, where it cannot."""
        return None

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
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures come as results
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1000"  # `_Searcher` suggests no more than run
    with _tunes_folder(session.folder) as folder, _own_signals():
        try:
            _tuner(session, trainable, trials, folder).fit()
        finally:
            if (failure := trials.failure or session.journal.failure) is not None:
                raise failure  # what Tune has made of it says less
    if not trials.over and (not trials.exhausted or trials.left):
        raise KeyboardInterrupt  # Tune ends quietly on the first Ctrl-C


def _tuner(session: Session, trainable: Any, trials: Trials, folder: Path) -> tune.Tuner:
    """Return Tune, told to run the trials and to keep its own files in a folder."""
    resources, key = session.resources, trials.key  # Tune pickles what names the folders
    return tune.Tuner(
        tune.with_resources(trainable, _bundles(resources)),
        tune_config=tune.TuneConfig(
            search_alg=_Searcher(
                trials, Concurrency(resources, session.plan.config.max_concurrent)
            ),
            scheduler=_Scheduler(trials),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config[key]:05d}",
        ),
        run_config=tune.RunConfig(
            name=f"{len(list(folder.glob('*'))):03d}",
            storage_path=str(folder),
            stop=_Over(session, trials),
            callbacks=[_Callback(session, trials)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=_WORKER_DEATHS),
            verbose=0,
        ),
    )


@contextmanager
def _tunes_folder(folder: RunFolder) -> Iterator[Path]:
    """Yield where Tune's own files lie: on this machine, as nothing that counts is in them."""
    if is_local(folder.path):
        yield folder.tune
        return
    with tempfile.TemporaryDirectory(prefix="raynas-tune-", ignore_cleanup_errors=True) as path:
        yield Path(path)


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
    """Hands Tune what there is to run, as much as may run now."""

    def __init__(self, trials: Trials, concurrency: Concurrency):
        super().__init__()
        self.trials, self.concurrency = trials, concurrency
        self._running: set[str] = set()

    def suggest(  # type: ignore[override]  # the base forgot FINISHED
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Return the configuration of the next trial."""
        if len(self._running) >= self.concurrency():
            return None
        configuration = self.trials.suggest()
        if configuration is not None:
            self._running.add(trial_id)
        elif self.trials.exhausted:
            return Searcher.FINISHED
        return configuration

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Let another trial run; the scheduler has heard what became of this one."""
        self._running.discard(trial_id)

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
        trial.run_metadata.num_failures = 0  # of a long trial many machines may be taken away
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


class _Over(tune.Stopper):
    """Has Tune stop all trials when the search is over, or nothing can be recorded any more."""

    def __init__(self, session: Session, trials: Trials):
        self.session, self.trials = session, trials

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: the scheduler stops single trials."""
        return False

    def stop_all(self) -> bool:
        """Return whether all trials end; Tune asks ten times a second."""
        failure = self.trials.failure or self.session.journal.failure
        return self.trials.over or failure is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Callback(tune.Callback):
    """Tells where trials run, and of those that Tune gave up."""

    def __init__(self, session: Session, trials: Trials):
        self.session, self.trials = session, trials
        self._nodes: dict[object, str] = {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Record where a trial runs, also one that goes on after its actor died."""
        resources, key = self.session.resources, self.trials.key
        node = self._node(trial.temporary_state.ray_actor)
        self.session.record(Placed(key, trial.config[key], node, *resources.of_trial))

    def _node(self, actor: Any) -> str:
        """Return the node of an actor, which is asked once for all trials that it serves."""
        known = self._nodes.get(actor)
        if known is None:
            try:
                answer = actor.get_auto_filled_metrics.remote(debug_metrics_only=True)
                known = str(ray.get(answer, timeout=_ANSWER_SECONDS)["hostname"])
            except ray.exceptions.RayError:  # it has died since, or hangs
                return ""
            self._nodes[actor] = known
        return known

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
