"""The contract of a driver: it carries out a search.

To add a way of evaluating is to add a driver and a line in the table of `raynas.drivers`; the
evaluator names it.
"""

from abc import ABC, abstractmethod

from raynas.cluster import Resources
from raynas.config.resolve import Plan
from raynas.drivers.session import Session


class Driver(ABC):
    """Carries out searches of one kind."""

    def check(self, plan: Plan, resources: Resources) -> None:  # noqa: B027  nothing to check
        """Refuse what the cluster cannot hold, before anything starts.

        Raises:
            InvalidArgument: saying what is asked for and what there is.
        """

    @abstractmethod
    def run(self, session: Session) -> None:
        """Evaluate what `session.search` suggests until it is exhausted.

        Every evaluation is reported and finished in the search, also one that fails. May be
        killed at any moment: called again, with the search as the journal has it, it goes on.
        """
