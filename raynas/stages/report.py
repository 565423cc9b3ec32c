"""The stage that reports; with it everything that was asked for is done."""

from typing import ClassVar

from raynas.drivers.session import Session
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
        """Write the report from what the run folder has."""
        plan, search, history = session.plan, session.search, session.history
        winner = search.winner
        assert winner is not None
        write_report(session.folder, plan.config, plan.space, history, winner, plan.data)
        session.record(Complete(len(search.evaluations)))
