"""The contract of a rule: how one step of a search moves weights and architecture parameters."""

from abc import ABC, abstractmethod
from typing import ClassVar

from trials.differentiable.problem import Batch, Path, Problem


class Rule(ABC):
    """One update of w and a from a pair of mini-batches, as a paper gives it.

    A rule is a frozen dataclass: its options, and no state. What it draws comes from
    `Problem.generator`, so that a search that goes on from a checkpoint draws the same.
    """

    #: the name in `trials.differentiable.RULES`
    name: ClassVar[str]

    @abstractmethod
    def step(self, problem: Problem, train: Batch, validation: Batch) -> None:
        """Move w once and a once.

        Args:
            problem: w, a and their loss; in production a `GradientSearch`.
            train: a mini-batch of the half of the training data that w learns on.
            validation: a mini-batch of the other half, which a learns on.
        """

    def path(self, problem: Problem) -> Path:
        """Return what runs in a pass of this rule: the mixture, unless overridden."""
        return Path(problem.relaxation)

    @property
    def precise(self) -> bool:
        """Tell whether gradients need float32: differences of them drown in less."""
        return False
