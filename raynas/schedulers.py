"""Schedulers: which trials go on after an epoch. Pure rules, without Ray.

Ray Tune's own ASHA forgets its rungs when the driver dies; these are replayed from the journal.
"""

from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge
from pydantic import PositiveInt


class Scheduler(ABC):
    """Told every result, answers whether that trial goes on.

    `start(epochs)` is called once, before the first `report`. A scheduler is a function of
    what was reported, in that order: replaying the reports restores it.
    """

    epochs: int = 0

    def start(self, epochs: int) -> None:
        """Learn the largest number of epochs of a trial."""
        self.epochs = epochs

    @abstractmethod
    def report(self, evaluation: int, epochs: int, value: float) -> bool:
        """Whether the trial of this evaluation, at `value` after `epochs` epochs, goes on."""


@dataclass
class Fifo(Scheduler):
    """Every trial runs to its end."""

    def report(self, evaluation: int, epochs: int, value: float) -> bool:
        """Always."""
        return True


@dataclass
class Asha(Scheduler):
    """Asynchronous successive halving, the stopping variant.

    Li et al.: A System for Massively Parallel Hyperparameter Tuning (MLSys 2020). Rung k stands
    at r * eta^k epochs. A trial that reaches a rung is recorded there and goes on if it is among
    the best 1/eta of all that have reached it so far, at least the best one; no rung waits to be
    complete. (The paper's variant pauses trials and promotes them later; stopping needs no
    paused state and is what Ray Tune and Optuna do.)

    Args:
        grace: epochs that every trial gets, r.
        reduction: eta; 1 trial of `reduction` passes a rung.
    """

    grace: PositiveInt = 1
    reduction: Annotated[int, Ge(2)] = 4
    #: {epochs: all values recorded at this rung, rising}
    rungs: dict[int, list[float]] = field(default_factory=dict, init=False, repr=False)

    def start(self, epochs: int) -> None:
        """Set up the rungs below the largest number of epochs."""
        super().start(epochs)
        rung = self.grace
        while rung < epochs:
            self.rungs[rung] = []
            rung *= self.reduction

    def report(self, evaluation: int, epochs: int, value: float) -> bool:
        """Whether `value` is among the best 1/eta at its rung; always between rungs."""
        rung = self.rungs.get(epochs)
        if rung is None:
            return True
        insort(rung, value)
        survivors = max(1, len(rung) // self.reduction)
        return value >= rung[-survivors]


SCHEDULERS: dict[str, Callable[..., Scheduler]] = {"asha": Asha, "fifo": Fifo}
