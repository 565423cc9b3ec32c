"""The contract of a stage of a run."""

from abc import ABC, abstractmethod
from typing import ClassVar

from raynas.drivers.session import Session


class Stage(ABC):
    """One step of a run; stages know the session, and nothing of one another.

    A run that was killed goes on at the first stage that is not done, and each can be run again
    alone.
    """

    name: ClassVar[str]

    @abstractmethod
    def done(self, session: Session) -> bool:
        """Return whether there is nothing left to do, from the history and the run folder."""

    @abstractmethod
    def run(self, session: Session) -> None:
        """Do it, or what is left of it."""
