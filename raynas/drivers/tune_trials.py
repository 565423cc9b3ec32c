"""The driver of trainings: one Ray Tune trial an architecture."""

from typing import Any, ClassVar

from ray import tune

from raynas.drivers.driver import Driver
from raynas.drivers.session import Session
from raynas.drivers.trainable import TrialActor
from raynas.drivers.tune_adapter import Trials, fit
from raynas.errors import StorageError
from raynas.record.events import Status
from raynas.record.full_disks import full_disk
from raynas.search.search import Search


class TuneTrials(Driver):
    """Evaluates in Tune trials, on actors that serve one trial after another."""

    def run(self, session: Session) -> None:
        """See `Driver`.

        Raises:
            KeyboardInterrupt: when the user interrupts Tune, which ends quietly then.
        """
        trainable = tune.with_parameters(TrialActor, job=session.job)
        fit(session, trainable, Evaluations(session.search))


class Evaluations(Trials):
    """The evaluations that a search suggests.

    Args:
        search: begun.
    """

    key: ClassVar[str] = "evaluation"

    def __init__(self, search: Search):
        self.search = search
        self._failure: StorageError | None = None

    @property
    def exhausted(self) -> bool:
        """See `Trials`."""
        return self.search.exhausted

    @property
    def over(self) -> bool:
        """See `Trials`."""
        return self.search.over() is not None

    @property
    def failure(self) -> StorageError | None:
        """See `Trials`."""
        return self._failure

    @property
    def left(self) -> list[int]:
        """See `Trials`."""
        return [evaluation.index for evaluation in self.search.history.running]

    def suggest(self) -> dict[str, Any] | None:
        """Return what an evaluation is, for its actor."""
        evaluation = self.search.suggest()
        if evaluation is None:
            return None
        return {
            "evaluation": evaluation.index,
            "architecture": evaluation.notation,
            "seed": self.search.seed_of(evaluation.index),
            "reported": evaluation.epochs,
        }

    def epochs(self, number: int) -> int:
        """See `Trials`."""
        return self.search.evaluations[number].epochs

    def report(self, number: int, result: dict[str, Any]) -> bool:
        """See `Trials`."""
        # Tune flattens nested results with a slash.
        metrics = {k[8:]: v for k, v in result.items() if k.startswith("metrics/")}
        return self.search.report(number, metrics)

    def end(self, number: int, status: Status, reason: str | None = None) -> None:
        """See `Trials`; a trial whose checkpoint a full disk did not take ends them all."""
        if full_disk(reason or "") is not None:
            self._failure = StorageError(str(reason))
        elif self._failure is None:
            self.search.finish(number, status, reason)
