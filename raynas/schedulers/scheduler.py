"""The contract of a scheduler: which trials go on after an epoch. Pure rules, without Ray."""

from abc import ABC, abstractmethod
from collections.abc import Collection

from search_spaces import Architecture, SearchSpace


class Scheduler(ABC):
    """Told every result, answers whether that trial goes on.

    The life of a scheduler:

        scheduler.check(space)               before anything starts
        scheduler.start(9)                   once: trials have at most 9 epochs
        scheduler.begin(0, space, arch)      once for each evaluation, before its first report
        scheduler.report(0, 1, 0.91)         its value after the first epoch; True: it goes on

    A scheduler is a function of these calls, in this order: replaying them restores it. Over a
    searcher with a driver of its own it decides over that driver's searches, and `begin` is not
    called: a search is of no one architecture.
    """

    #: whether it may end a trial before its last epoch
    stops: bool = True
    epochs: int = 0
    #: whether trials that it has stopped may be told to go on later
    promotes: bool = False
    #: whether one that it has stopped may be told to go on in the end, to see what that has cost
    audits: bool = False
    #: number of evaluations with fewer of which it lets none go on to the end
    fewest_samples: int = 1
    #: whether it decides by what the architectures are, and so needs `begin`
    needs_architectures: bool = False

    def check(self, space: SearchSpace) -> None:  # noqa: B027  most go with any
        """Refuse a space with which this cannot work, before anything starts.

        Raises:
            InvalidArgument: saying why, and the remedy.
        """

    def start(self, epochs: int) -> None:
        """Learn the largest number of epochs of a trial."""
        self.epochs = epochs

    def begin(  # noqa: B027  most decide by values alone
        self, evaluation: int, space: SearchSpace, architecture: Architecture
    ) -> None:
        """Learn what an evaluation is of, when it starts for the first time."""

    @abstractmethod
    def report(self, evaluation: int, epochs: int, value: float) -> bool:
        """Return whether the trial of this evaluation, at `value` after `epochs`, goes on."""

    def promotable(self) -> int | None:
        """Return the evaluation that was stopped and should go on now, before new ones, if any."""
        return None

    def promote(self) -> int | None:
        """Let the evaluation that is `promotable` go on, and return it."""
        return None

    def auditable(self) -> int | None:
        """Return the evaluation that was stopped and should go on when all else is done, if any."""
        return None

    def start_audit(self) -> int | None:
        """Let the evaluation that is `auditable` go on, and return it."""
        return None

    def may_go_on(self, samples: int) -> Collection[int] | None:
        """Return what it has stopped and may still let go on; None: any of what it has stopped.

        The checkpoints of the others may be removed, so what it does not return at one time must
        not be `promotable` or `auditable` at a later one.

        Args:
            samples: how many evaluations there will be, at most.
        """
        return None if self.promotes or self.audits else ()

    def forget(self, evaluations: Collection[int]) -> None:  # noqa: B027  most let none go on
        """Learn that the checkpoints of some are gone, so that these can never go on.

        None of them is in `may_go_on`, unless there are to be more samples than it was told.
        """
