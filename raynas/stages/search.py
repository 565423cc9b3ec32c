"""The stage that searches."""

from typing import ClassVar

from raynas.drivers import DRIVERS
from raynas.drivers.session import Session
from raynas.errors import SearchFailed
from raynas.search.faults import of_the_machine
from raynas.stages.stage import Stage


class SearchStage(Stage):
    """Has the evaluator's driver evaluate architectures until the search has enough."""

    name: ClassVar[str] = "search"

    def done(self, session: Session) -> bool:
        """See `Stage`."""
        search = session.search
        return search.exhausted and search.failure is None and search.best is not None

    def run(self, session: Session) -> None:
        """Have the driver that the evaluator names carry out the search.

        Raises:
            SearchFailed: when the search came to nothing.
        """
        search = session.search
        if not search.exhausted:
            DRIVERS[session.plan.driver]().run(session)
        why = search.cut_short()
        if why is not None:
            session.say(f"{why}: the search ends after {search.finished} evaluations.")
        note = search.admission.note(len(search.evaluations), session.plan.config.samples)
        if note and not search.expired():
            session.say(note)
        traces = f"The tracebacks are in {session.folder.checkpoints}."
        if search.failure is not None:
            remedy = (
                "Mend it, then the same command tries them again."
                if of_the_machine(search.failure)
                else "Mend it and start again under another name."
            )
            raise SearchFailed(
                f"The first evaluations all failed for the same reason: {search.failure}."
                f" {remedy} {traces}"
            )
        if not search.evaluations:
            raise SearchFailed(
                f"search={session.plan.config.search!r} asked for nothing"
                f" (constraint={session.plan.config.constraint!r})."
            )
        if search.best is None and why is not None:
            raise SearchFailed(f"{why}, before any evaluation had done an epoch: allow more.")
        if search.best is None:
            reasons = sorted({e.reason or "" for e in search.evaluations})
            raise SearchFailed(f"Every evaluation failed: {'; '.join(reasons)}. {traces}")
