"""GDAS: every pass runs one operation of each edge, drawn by the Gumbel trick.

Dong, Yang: Searching for a Robust Neural Architecture in Four GPU Hours (CVPR 2019), equations 3
to 6: p_k is proportional to exp((a_k + u_k) / tau), u_k ~ Gumbel(0, 1); the operation with the
largest p runs, with the weight h = onehot - stop_gradient(p) + p, which is 1 in the forward pass
and has the gradient of p in the backward pass (straight-through). tau falls linearly.

1. w <- w - eta_w grad_w L_tr(w, h)
2. a <- a - eta_a grad_a L_val(w, h')

each with a draw of its own. With `lambda_` it is MiLeNAS on GDAS (He et al., CVPR 2020, equation
10), whose update of a is that of `milenas.py`.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional

from search_spaces.errors import InvalidArgument
from trials.differentiable.milenas import check_lambda, mixed_level
from trials.differentiable.problem import Batch, Path, Problem
from trials.differentiable.rule import Rule


@dataclass(frozen=True)
class GDAS(Rule):
    """The update by sampled operations.

    Args:
        lambda_: weight of the validation loss beside the training loss in the update of a, which
            makes it MiLeNAS on GDAS; None: the validation loss alone (GDAS).
        temperature: tau in the first epoch.
        final_temperature: tau in the last one.
    """

    lambda_: Annotated[float, Ge(0)] | None = None
    temperature: PositiveFloat = 10.0
    final_temperature: PositiveFloat = 1.0

    name: ClassVar[str] = "gdas"

    def __post_init__(self) -> None:
        """Refuse a negative lambda, and temperatures that are not positive."""
        if self.lambda_ is not None:
            check_lambda(self.lambda_)
        for option in ("temperature", "final_temperature"):
            if not 0 < getattr(self, option) < float("inf"):
                raise InvalidArgument(f"{option}={getattr(self, option)} is not positive.")

    def step(self, problem: Problem, train: Batch, validation: Batch) -> None:
        """Move w, then a; each pass runs a path drawn for it."""
        problem.update_w(train, self.path(problem))
        if self.lambda_ is None:
            gradient = problem.gradient_a(validation, self.path(problem))
        else:
            of_train = problem.gradient_a(train, self.path(problem))
            drawn = self.path(problem)
            gradient = mixed_level(of_train, problem, validation, self.lambda_, drawn)
        problem.update_a(gradient)

    def tau(self, epoch: int, epochs: int) -> float:
        """Return the temperature of an epoch, counted from 0."""
        progress = epoch / (epochs - 1) if epochs > 1 else 0.0
        return self.temperature + (self.final_temperature - self.temperature) * min(progress, 1.0)

    def path(self, problem: Problem) -> Path:
        """Draw one operation for each slot."""
        tau = self.tau(problem.epoch, problem.epochs)
        drawn = [straight_through(alpha, tau, problem.generator) for alpha in problem.a]
        return Path([weights for weights, _ in drawn], [choice for _, choice in drawn])


def straight_through(alpha: Tensor, tau: float, generator: torch.Generator) -> tuple[Tensor, int]:
    """Draw a choice by the Gumbel trick.

    Args:
        alpha: the logits of the choices, 1-D.
        tau: the temperature.
        generator: what is drawn from, on the CPU, so that devices draw the same.

    Returns:
        One-hot weights with the gradient of the softmax of (alpha + Gumbel) / tau; the choice.
    """
    # -log of an exponential variable is one of Gumbel's; float64 has no zero among them.
    noise = -torch.empty(len(alpha), dtype=torch.float64).exponential_(generator=generator).log()
    p = torch.softmax((alpha + noise.to(alpha)) / tau, 0)
    hard = functional.one_hot(p.argmax(), len(p)).to(p)
    return hard - p.detach() + p, int(hard.argmax())
