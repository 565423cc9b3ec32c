"""DARTS: a learns on the validation loss, w on the training loss, in turns.

Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search (ICLR 2019), algorithm 1:
min over a of L_val(w*(a), a), where w*(a) = argmin over w of L_tr(w, a), with one step of w for
the argmin: w' = w - xi grad_w L_tr(w, a).

1. a <- a - eta_a grad_a L_val(w', a)      (xi = 0, w' = w: first order; else second order)
2. w <- w - eta_w grad_w L_tr(w, a)
"""

from dataclasses import dataclass
from typing import ClassVar

from trials.differentiable.problem import Batch, Problem, Tensors
from trials.differentiable.rule import Rule
from trials.differentiable.unrolled import unrolled_gradient, unrolled_weights


@dataclass(frozen=True)
class Darts(Rule):
    """The bilevel update.

    Args:
        second_order: look one step of w ahead, with xi = the present learning rate of w; five
            passes of a step instead of two.
    """

    second_order: bool = False

    name: ClassVar[str] = "darts"

    def step(self, problem: Problem, train: Batch, validation: Batch) -> None:
        """Move a, then w (algorithm 1)."""
        problem.update_a(self.gradient(problem, train, validation))
        problem.update_w(train)

    def gradient(self, problem: Problem, train: Batch, validation: Batch) -> Tensors:
        """Compute the gradient of the validation loss in a."""
        if not self.second_order:
            return problem.gradient_a(validation)
        unrolled = unrolled_weights(problem, train)
        return unrolled_gradient(problem, unrolled, validation, train)

    @property
    def precise(self) -> bool:
        """True for the second order."""
        return self.second_order
