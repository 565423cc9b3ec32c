"""The driver of differentiable searches: they run as Tune trials, then what they derived.

Every search is one Tune trial. After each epoch what it has derived is an evaluation of the run,
if it is new. When all searches have ended, the best of each model size are evaluated as the
evaluator has it, trained alone, say; the other evaluations end without.
"""

from collections.abc import Iterable
from typing import Any, cast

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher as TuneSearcher

from raynas.cluster import Resources
from raynas.config.resolve import Plan
from raynas.drivers.driver import Driver
from raynas.drivers.search_actor import SearchActor, SearchJob
from raynas.drivers.session import Session
from raynas.drivers.tune_trials import fit
from raynas.errors import SearchFailed
from raynas.record.events import Searched, SearchEnded, Status
from raynas.searchers.gradients import Gradients, best_of_each_size
from trials.differentiable.collapse import collapse
from trials.trial import Role, derived_seed


class GradientSearches(Driver):
    """Runs the searches of a `Gradients`, then has the evaluator's own driver go on."""

    def check(self, plan: Plan, resources: Resources) -> None:
        """Refuse searches that cannot be made of this space and these data.

        Raises:
            InvalidArgument: saying why.
            DataError: where the data are too few, or of one class.
        """
        for recipe in cast(Gradients, plan.searcher).recipes:
            recipe.check(plan.space, plan.data)
        _evaluators(plan.evaluator.driver).check(plan, resources)

    def run(self, session: Session) -> None:
        """See `Driver`.

        Raises:
            SearchFailed: when no search has derived anything.
            KeyboardInterrupt: when the user interrupts Tune, which ends quietly then.
        """
        searcher = cast(Gradients, session.search.searcher)
        searches = Searches(session, searcher)
        session.folder.searches.mkdir(exist_ok=True)
        searches.run()
        history = session.history
        if not history.searches:
            reasons = sorted({str(e.reason) for e in history.searches_ended.values()})
            raise SearchFailed(
                f"All searches failed: {'; '.join(reasons)}. Mend it and start again under another"
                f" name. The tracebacks are in {session.folder.searches}."
            )
        epochs = [
            event for number in sorted(history.searches) for event in history.searches[number]
        ]
        best = best_of_each_size(session.search.space, epochs)
        session.search.choose([e.architecture for e in best], session.plan.config.samples)
        if not session.search.exhausted:
            _evaluators(session.plan.evaluator.driver).run(session)


def _evaluators(name: str) -> Driver:
    """Return the driver of an evaluator."""
    from raynas.drivers import DRIVERS  # which names this module too

    return DRIVERS[name]()


class Searches:
    """The searches of a run that have not ended.

    Args:
        session: of the run.
        searcher: what runs, and how often.
    """

    def __init__(self, session: Session, searcher: Gradients):
        self.session, self.searcher = session, searcher

    @property
    def left(self) -> list[int]:
        """Return the numbers of those that have not ended."""
        ended = self.session.history.searches_ended
        return [number for number in range(self.searcher.searches) if number not in ended]

    def run(self) -> None:
        """Run them; whatever they report is in the journal before anything else happens.

        Raises:
            KeyboardInterrupt: when the user interrupts Tune, which ends quietly then.
        """
        session = self.session
        job = SearchJob(
            session.plan.space, self.searcher.recipes, session.data, self.searcher.epochs,
            session.folder, session.resources.threads,
        )  # fmt: skip
        for number in self.left:  # which only lack the word that they have ended
            epochs = session.history.searches.get(number, [])
            if number in session.search.searches_stopping:
                self.end(number, Status.STOPPED)
            elif len(epochs) >= self.searcher.epochs:
                self.end(number, Status.COMPLETED)
        if not self.left:
            return
        fit(
            session,
            "search",
            tune.with_parameters(SearchActor, job=job),
            _Searcher(self, self.left),
            _Scheduler(self),
            _Callback(self),
        )
        if self.left:
            raise KeyboardInterrupt  # Tune ends quietly on the first Ctrl-C

    def configuration(self, number: int) -> dict[str, Any]:
        """Return what a search is, for its actor."""
        return {
            "search": number,
            "seed": derived_seed(self.session.search.seed, Role.SEARCHES, number),
            "reported": len(self.session.history.searches.get(number, [])),
        }

    def report(self, number: int, result: dict[str, Any]) -> bool:
        """Record an epoch and return whether the search goes on."""
        done = len(self.session.history.searches.get(number, []))
        if result["epoch"] <= done:
            return True  # an actor that was started anew repeats what is known
        event = Searched(number, result["epoch"], **result["of_epoch"][0])
        goes_on = self.session.search.derive(event)
        accuracy = event.metrics["architecture_accuracy"]
        self.session.say(
            f"search {number}: epoch {event.epoch}/{self.searcher.epochs}, search accuracy"
            f" {accuracy:.2%}, {event.architecture}",
            important=False,
        )
        return goes_on

    def end(self, number: int, status: Status, reason: str | None = None) -> None:
        """Record the end of a search; say how, and whether it looks collapsed."""
        self.session.search.commit(SearchEnded(number, status, reason))
        epochs = self.session.history.searches.get(number, [])
        why = f" ({reason})" if reason else ""
        self.session.say(f"search {number}: {status.value}{why} after {len(epochs)} epochs")
        warning = collapse([event.metrics for event in epochs])
        if warning:
            self.session.say(f"search {number}: {warning}")


class _Searcher(TuneSearcher):
    """Hands Tune the searches that have not ended, one after the other."""

    def __init__(self, searches: Searches, numbers: Iterable[int]):
        super().__init__()
        self.searches, self.numbers = searches, list(numbers)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if not self.numbers:
            return TuneSearcher.FINISHED
        return self.searches.configuration(self.numbers.pop(0))

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
    """Tells the searches every result, and Tune their decision."""

    def __init__(self, searches: Searches):
        super().__init__()  # type: ignore[no-untyped-call]
        self.searches = searches

    def on_trial_result(self, tune_controller: object, trial: Trial, result: dict[str, Any]) -> str:
        number = trial.config["search"]
        if self.searches.report(number, result):
            return str(TrialScheduler.CONTINUE)
        self.searches.end(number, Status.STOPPED)
        return str(TrialScheduler.STOP)

    def on_trial_complete(
        self, tune_controller: object, trial: Trial, result: dict[str, Any]
    ) -> None:
        number = trial.config["search"]
        if number not in self.searches.left:
            return  # stopped by our own decision
        if "status" in result:
            self.searches.end(number, Status(result["status"]), result["reason"])
        else:
            self.searches.report(number, result)
            self.searches.end(number, Status.COMPLETED)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Callback(tune.Callback):
    """Tells the searches of those whose actors keep dying."""

    def __init__(self, searches: Searches):
        self.searches = searches

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        lines = [line for line in str(trial.get_error() or "").splitlines() if line.strip()]
        reason = f"worker died: {lines[-1].strip() if lines else 'no reason known'}"
        self.searches.end(trial.config["search"], Status.FAILED, reason)

    def __getstate__(self) -> dict[str, Any]:
        return {}
