"""The driver of differentiable searches: they run as Tune trials, then what they derived.

Every search is one Tune trial. After each epoch what it has derived is an evaluation of the run,
if it is new. When all searches have ended, the best of each model size are evaluated as the
evaluator has it, trained alone, say; the other evaluations end without.
"""

from typing import Any, ClassVar, cast

from ray import tune

from raynas.cluster import Resources
from raynas.config.resolve import Plan
from raynas.drivers.driver import Driver
from raynas.drivers.search_actor import SearchActor, SearchJob
from raynas.drivers.session import Session
from raynas.drivers.tune_adapter import Trials, fit
from raynas.errors import SearchFailed
from raynas.record.events import Searched, SearchEnded, Status
from raynas.searchers.gradients import Gradients, best_of_each_size
from trials.differentiable.collapse import collapse
from trials.places import make_folder
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
        make_folder(session.folder.searches)
        searches = Searches(session, searcher)
        if searches.left:
            job = SearchJob(
                session.plan.space, searcher.recipes, session.data, searcher.epochs,
                session.folder, session.resources.threads,
            )  # fmt: skip
            fit(session, tune.with_parameters(SearchActor, job=job), searches)
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


class Searches(Trials):
    """The differentiable searches of a run.

    Args:
        session: of the run.
        searcher: what runs, and how often.
    """

    key: ClassVar[str] = "search"

    def __init__(self, session: Session, searcher: Gradients):
        self.session, self.searcher = session, searcher
        for number in self.left:  # which only lack the word that they have ended
            if number in session.search.searches_stopping:
                self.end(number, Status.STOPPED)
            elif self.epochs(number) >= searcher.epochs:
                self.end(number, Status.COMPLETED)
        self._waiting = self.left

    @property
    def exhausted(self) -> bool:
        """See `Trials`."""
        return not self._waiting

    @property
    def left(self) -> list[int]:
        """See `Trials`."""
        ended = self.session.history.searches_ended
        return [number for number in range(self.searcher.searches) if number not in ended]

    def suggest(self) -> dict[str, Any] | None:
        """Return what a search is, for its actor."""
        if not self._waiting:
            return None
        number = self._waiting.pop(0)
        return {
            "search": number,
            "seed": derived_seed(self.session.search.seed, Role.SEARCHES, number),
            "reported": self.epochs(number),
        }

    def epochs(self, number: int) -> int:
        """See `Trials`."""
        return len(self.session.history.searches.get(number, []))

    def report(self, number: int, result: dict[str, Any]) -> bool:
        """See `Trials`."""
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
