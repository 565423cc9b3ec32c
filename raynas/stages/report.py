"""The stage that reports; with it everything that was asked for is done."""

from typing import ClassVar

from raynas.drivers.session import Session
from raynas.errors import StorageError
from raynas.record.events import Complete
from raynas.reports.report import write_report
from raynas.stages.stage import Stage


class ReportStage(Stage):
    """Writes `report.html`."""

    name: ClassVar[str] = "report"

    def done(self, session: Session) -> bool:
        """See `Stage`."""
        return session.history.complete

    def run(self, session: Session) -> None:
        """Write the report from what the run folder has; where it cannot, the next call does."""
        plan, search, history = session.plan, session.search, session.history
        winner = search.winner
        assert winner is not None
        try:
            write_report(session.folder, plan.config, plan.space, history, winner, plan.data)
        except (OSError, StorageError) as error:  # all that it tells of is there
            session.problems.append(StorageError(f"The report cannot be written: {error}"))
            return
        session.record(Complete(len(search.evaluations)))
