"""MiLeNAS: a learns on the training loss and lambda times the validation loss.

He, Ye, Shen, Zhang: MiLeNAS: Efficient Neural Architecture Search via Mixed-Level Reformulation
(CVPR 2020), equations 6 to 8: min over a, w of L_tr(w*(a), a) + lambda L_val(w*(a), a), where
w*(a) = argmin over w of L_tr(w, a). lambda = 0 is the single-level, lambda -> infinity the
bilevel problem.

First order:
1. w <- w - eta_w grad_w L_tr(w, a)
2. a <- a - eta_a (grad_a L_tr(w, a) + lambda grad_a L_val(w, a))

Second order: 2. with w' = w - xi grad_w L_tr(w, a) and, for each of both losses L,
   grad_a L(w', a) - xi grad^2_{a,w} L_tr(w, a) . grad_{w'} L(w', a)
   in the place of grad_a L(w, a). In the paper's equation for it lambda stands before the training
   term; here it is the weight of the validation term in both, as in the problem that they solve.
   The paper's equation with lambda is ours with 1 / lambda times lambda, a factor that Adam does
   not see; all its results are with lambda = 1.

The authors' code moves a before w; "simultaneous" is our variant of the first order, in which
one backward pass of the training batch serves both: both gradients are those at the old (w, a).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

from annotated_types import Ge

from search_spaces.errors import InvalidArgument
from trials.differentiable.problem import Batch, Path, Problem, Tensors, added
from trials.differentiable.rule import Rule
from trials.differentiable.unrolled import unrolled_gradient, unrolled_weights

Order = Literal["w-then-a", "a-then-w", "simultaneous"]


@dataclass(frozen=True)
class MiLeNAS(Rule):
    """The mixed-level update.

    Args:
        lambda_: weight of the validation loss beside the training loss, 0 or more.
        second_order: look one step of w ahead in both losses; the paper found it slower and
            worse than the first order.
        order: `w-then-a` as in the paper; `a-then-w` as in its code; `simultaneous`: one
            backward pass of the training batch for both, with the first order only.
    """

    lambda_: Annotated[float, Ge(0)] = 1.0
    second_order: bool = False
    order: Order = "w-then-a"

    name: ClassVar[str] = "milenas"

    def __post_init__(self) -> None:
        """Refuse a negative lambda, and what does not go together."""
        check_lambda(self.lambda_)
        if self.order not in get_args(Order):
            raise InvalidArgument(
                f"order={self.order!r} is not one of {', '.join(get_args(Order))}."
            )
        if self.second_order and self.order == "simultaneous":
            raise InvalidArgument(
                "order='simultaneous' is of the first order: it looks no step ahead. Choose"
                " second_order=False, or another order."
            )

    def step(self, problem: Problem, train: Batch, validation: Batch) -> None:
        """Move w and a in the order chosen."""
        if self.order == "simultaneous":
            self._simultaneous(problem, train, validation)
            return
        if self.order == "w-then-a":
            problem.update_w(train)
        problem.update_a(self.gradient(problem, train, validation))
        if self.order == "a-then-w":
            problem.update_w(train)

    def gradient(self, problem: Problem, train: Batch, validation: Batch) -> Tensors:
        """Compute the gradient of L_tr + lambda L_val in a."""
        if not self.second_order:
            gradient = problem.gradient_a(train)
            return mixed_level(gradient, problem, validation, self.lambda_)
        unrolled = unrolled_weights(problem, train)
        gradient = unrolled_gradient(problem, unrolled, train, train)
        if not self.lambda_:
            return gradient
        of_validation = unrolled_gradient(problem, unrolled, validation, train)
        return added(gradient, of_validation, self.lambda_)

    def _simultaneous(self, problem: Problem, train: Batch, validation: Batch) -> None:
        path = Path(problem.relaxation)
        _, both = problem.value_and_gradient(train, path, [*problem.a, *problem.w], training=True)
        of_a, of_w = both[: len(problem.a)], both[len(problem.a) :]
        gradient = mixed_level(of_a, problem, validation, self.lambda_)
        problem.update_w_by(of_w)
        problem.update_a(gradient)

    @property
    def precise(self) -> bool:
        """True for the second order."""
        return self.second_order


def mixed_level(
    of_train: Tensors,
    problem: Problem,
    validation: Batch,
    lambda_: float,
    path: Path | None = None,
) -> Tensors:
    """Compute grad_a L_tr + lambda grad_a L_val from the first of both; no pass for lambda = 0."""
    if not lambda_:
        return of_train
    return added(of_train, problem.gradient_a(validation, path), lambda_)


def check_lambda(lambda_: float) -> None:
    """Refuse a weight of the validation loss that is negative or no number.

    Raises:
        InvalidArgument: saying so.
    """
    if not 0 <= lambda_ < float("inf"):
        raise InvalidArgument(
            f"lambda_={lambda_}: the weight of the validation loss is a number, 0 (single-level) or"
            " more; the bilevel limit is the rule 'darts'."
        )
