"""The contract of a scheduler: which trials go on after an epoch. Pure rules, without Ray."""

from abc import ABC, abstractmethod


class Scheduler(ABC):
    """Told every result, answers whether that trial goes on.

    `start(epochs)` is called once, before the first `report`. A scheduler is a function of
    what was reported, in that order: replaying the reports restores it.
    """

    #: whether it may end a trial before its last epoch
    stops: bool = True
    epochs: int = 0
    #: whether trials that it has stopped may be told to go on later
    promotes: bool = False

    def start(self, epochs: int) -> None:
        """Learn the largest number of epochs of a trial."""
        self.epochs = epochs

    @abstractmethod
    def report(self, evaluation: int, epochs: int, value: float) -> bool:
        """Return whether the trial of this evaluation, at `value` after `epochs`, goes on."""

    def promotable(self) -> int | None:
        """Return the evaluation that was stopped and should go on now, before new ones, if any."""
        return None

    def promote(self) -> int | None:
        """Let the evaluation that is `promotable` go on, and return it."""
        return None
