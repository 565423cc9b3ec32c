"""NA-DARTS: DARTS on the aggregate of the validation losses of a neighborhood.

Wang, Cao, Li, Kitani: Neighborhood-Aware Neural Architecture Search (BMVC 2021): an architecture
whose neighbors are good too is a flat minimum. Neighbors are differentiable functions of a, and
gradients flow through them:

1. a <- a - eta_a grad_a g({L_val(w, a'_i)}),  a'_i = a'_i(a) for i = 1..n, and a itself
2. w <- w - eta_w grad_w L_tr(w, a)

The paper's text says that a neighbor moves the distribution of one edge, within total-variation
distance d; how, is our choice: an edge e and an operation o are drawn, p'_e = (1 - m) p_e + m
onehot(o), whose distance from p_e is m (1 - p_e[o]) <= m. With m = 1 the operation of the edge is
replaced; no gradient flows through that edge then, but through all others. The n neighbors are
different ones. Without neighbors this is DARTS of the first order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

import torch
from annotated_types import Interval
from pydantic import NonNegativeInt
from torch import Tensor
from torch.nn import functional

from search_spaces.errors import InvalidArgument
from trials.differentiable.problem import Batch, Path, Problem, Tensors
from trials.differentiable.rule import Rule

Aggregate = Literal["mean", "median", "worst"]


@dataclass(frozen=True)
class NADarts(Rule):
    """The update by neighborhoods.

    Args:
        neighbors: n, how many are drawn for each step; each costs a pass.
        aggregate: g, of the losses of the neighbors and the architecture itself: `mean`,
            `median` or `worst`, the largest.
        distance: m, how far the distribution of an edge is moved towards one operation, above 0
            and up to 1.
    """

    neighbors: NonNegativeInt = 2
    aggregate: Aggregate = "mean"
    distance: Annotated[float, Interval(gt=0, le=1)] = 1.0

    name: ClassVar[str] = "na-darts"

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if self.neighbors < 0:
            raise InvalidArgument(f"neighbors={self.neighbors} is negative.")
        if self.aggregate not in get_args(Aggregate):
            raise InvalidArgument(
                f"aggregate={self.aggregate!r} is not one of {', '.join(get_args(Aggregate))}."
            )
        if not 0 < self.distance <= 1:
            raise InvalidArgument(f"distance={self.distance} is not above 0 and at most 1.")

    def step(self, problem: Problem, train: Batch, validation: Batch) -> None:
        """Move a, then w, as DARTS does."""
        problem.update_a(self.gradient(problem, validation))
        problem.update_w(train)

    def gradient(self, problem: Problem, validation: Batch) -> Tensors:
        """Compute the gradient of g in a: the sum of dg/dL_i grad_a L_i, one L_i at a time."""
        values, gradients = zip(
            *(
                problem.value_and_gradient(validation, Path(mixture), problem.a)
                for mixture in self._neighborhood(problem)
            ),
            strict=True,
        )
        factors = slopes(torch.stack(values).double().cpu(), self.aggregate).tolist()
        return [
            torch.stack([f * g for f, g in zip(factors, column, strict=True)]).sum(0)
            for column in zip(*gradients, strict=True)
        ]

    def _neighborhood(self, problem: Problem) -> Iterator[Tensors]:
        """Yield the mixture of a, then those of its neighbors, each in a graph of its own."""
        mixture = problem.relaxation
        places = [(e, o) for e, p in enumerate(mixture) for o in range(len(p)) if len(p) > 1]
        yield mixture
        if self.neighbors:
            order = torch.randperm(len(places), generator=problem.generator)
            for i in order[: self.neighbors].tolist():
                edge, operation = places[i]
                yield neighbor(problem.relaxation, edge, operation, self.distance)


def neighbor(mixture: Tensors, edge: int, operation: int, distance: float) -> Tensors:
    """Return p with p'_e = (1 - m) p_e + m onehot(o) in the place of p_e.

    Args:
        mixture: p, one distribution for each edge.
        edge: e.
        operation: o, its index.
        distance: m.
    """
    p = mixture[edge]
    onehot = functional.one_hot(torch.tensor(operation, device=p.device), len(p)).to(p)
    return [*mixture[:edge], (1 - distance) * p + distance * onehot, *mixture[edge + 1 :]]


def slopes(values: Tensor, aggregate: Aggregate) -> Tensor:
    """Return dg/dL_i, how much each of the losses counts.

    Args:
        values: the losses, 1-D.
        aggregate: g; between two middle ones the median is their mean, and of equal worst ones
            only the first counts.
    """
    if aggregate == "mean":
        return torch.full_like(values, 1 / len(values))
    order = torch.sort(values, stable=True, descending=True).indices
    n = len(values)
    middle = [order[0]] if aggregate == "worst" else order[(n - 1) // 2 : n // 2 + 1]
    result = torch.zeros_like(values)
    result[torch.as_tensor(middle)] = 1 / len(middle)
    return result
