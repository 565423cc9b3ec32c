"""Single-level search: w and a learn on the same training loss.

He et al.: MiLeNAS (CVPR 2020), equation 4, where it is the baseline that overfits a:
min over w, a of L_tr(w, a).

1. w <- w - eta_w grad_w L_tr(w, a)
2. a <- a - eta_a grad_a L_tr(w, a)
"""

from dataclasses import dataclass
from typing import ClassVar

from trials.differentiable.problem import Batch, Problem
from trials.differentiable.rule import Rule


@dataclass(frozen=True)
class SingleLevel(Rule):
    """The single-level update; MiLeNAS with lambda = 0."""

    name: ClassVar[str] = "single-level"

    def step(self, problem: Problem, train: Batch, validation: Batch) -> None:
        """Move w, then a, both by the training batch."""
        problem.update_w(train)
        problem.update_a(problem.gradient_a(train))
