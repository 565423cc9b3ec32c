"""What Ray Tune sees of a `Search`: a searcher, a scheduler and a callback.

Tune calls all three from the driver's main thread. Everything that matters is done by `Search`;
Tune's own snapshots and restore are not used (they lose finished trials and the scheduler).
"""

from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raynas.record.events import Status
from raynas.search.search import Search


class TuneSearcher(Searcher):
    """Hands Tune the evaluations that a `Search` suggests."""

    def __init__(self, search: Search):
        super().__init__()
        self.search = search

    def suggest(  # type: ignore[override]  # the base forgot FINISHED
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Return the configuration of the next trial; see `TrialActor`."""
        evaluation = self.search.suggest()
        if evaluation is None:
            return Searcher.FINISHED if self.search.exhausted else None
        return {
            "evaluation": evaluation.index,
            "architecture": evaluation.notation,
            "seed": self.search.seed_of(evaluation.index),
            "reported": evaluation.epochs,
        }

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


class TuneScheduler(FIFOScheduler):
    """Tells a `Search` every result, and Tune its decision."""

    def __init__(self, search: Search):
        super().__init__()  # type: ignore[no-untyped-call]
        self.search = search

    def on_trial_result(self, tune_controller: object, trial: Trial, result: dict[str, Any]) -> str:
        """Take a result after which the trial could go on."""
        index = trial.config["evaluation"]
        if self._report(index, result):
            return str(TrialScheduler.CONTINUE)
        self.search.finish(index, Status.STOPPED)
        return str(TrialScheduler.STOP)

    def on_trial_complete(
        self, tune_controller: object, trial: Trial, result: dict[str, Any]
    ) -> None:
        """Take the last result of a trial: of its last epoch, of its failure, or of its stop."""
        index = trial.config["evaluation"]
        if self.search.evaluations[index].status is not Status.RUNNING:
            return  # stopped by our own decision
        if "status" in result:
            self.search.finish(index, Status(result["status"]), result["reason"])
        else:
            self._report(index, result)
            self.search.finish(index, Status.COMPLETED)

    def _report(self, index: int, result: dict[str, Any]) -> bool:
        if result["epoch"] <= self.search.evaluations[index].epochs:
            return True  # an actor that was started anew repeats what is known
        # Tune flattens nested results with a slash.
        metrics = {k[8:]: v for k, v in result.items() if k.startswith("metrics/")}
        return self.search.report(index, metrics)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TuneCallback(tune.Callback):
    """Tells a `Search` of trials that Tune gave up."""

    def __init__(self, search: Search):
        self.search = search

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Finish a trial whose actor died, as did those that Tune started in its place.

        (The scheduler's hook of this name is also called before each new attempt.)
        """
        lines = [line for line in str(trial.get_error() or "").splitlines() if line.strip()]
        reason = f"worker died: {lines[-1].strip() if lines else 'no reason known'}"
        self.search.finish(trial.config["evaluation"], Status.FAILED, reason)

    def __getstate__(self) -> dict[str, Any]:
        return {}
