"""The gradient in a through one step of w: what second-order rules share.

Liu, Simonyan, Yang: DARTS (ICLR 2019), equations 5 to 8.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trials.differentiable.problem import Batch, Path, Problem, Tensors, added

#: R of the finite difference, whose step is R / norm of its direction (DARTS, section 2.3)
_RADIUS = 0.01


def unrolled_weights(problem: Problem, train: Batch) -> Tensors:
    """Compute w' = w - xi (momentum * buffer + grad_w L_tr(w, a) + weight_decay * w).

    One step of SGD as the optimizer would take it (but for clipping); equation 6 of DARTS and
    its code, which takes momentum and weight decay along.
    """
    path = Path(problem.relaxation).detached()
    _, gradient = problem.value_and_gradient(train, path, problem.w)
    (group,) = problem.weights.optimizer.param_groups
    with torch.no_grad():
        moved = []
        for p, g in zip(problem.w, gradient, strict=True):
            step = g + group["weight_decay"] * p
            buffer = problem.weights.optimizer.state[p].get("momentum_buffer")
            if buffer is not None:
                step = step + group["momentum"] * buffer
            moved.append(p - problem.xi * step)
    return moved


def unrolled_gradient(
    problem: Problem, unrolled: Sequence[Tensor], outer: Batch, train: Batch
) -> Tensors:
    """Compute the gradient in a of the outer loss L(w'(a), a).

    grad_a L(w', a) - xi * H, where H = grad^2_{a,w} L_tr(w, a) . grad_{w'} L(w', a) comes from a
    finite difference (equations 7 and 8 of DARTS).

    Args:
        problem: w and a.
        unrolled: w'.
        outer: the mini-batch of the outer loss.
        train: the mini-batch that w' came from.
    """
    path = Path(problem.relaxation)
    with problem.at(unrolled):
        _, both = problem.value_and_gradient(outer, path, [*problem.a, *problem.w])
    direct, direction = both[: len(problem.a)], both[len(problem.a) :]
    return added(direct, hessian_product(problem, train, direction), -problem.xi)


def hessian_product(problem: Problem, train: Batch, direction: Sequence[Tensor]) -> Tensors:
    """Compute grad^2_{a,w} L_tr(w, a) . direction by a central difference (eq. 8 of DARTS).

    Args:
        problem: w and a.
        train: the mini-batch of L_tr.
        direction: one tensor for each of w.

    Returns:
        [grad_a L_tr(w + e v, a) - grad_a L_tr(w - e v, a)] / 2e with e = .01 / ||v||; zeros for a
        direction without length.
    """
    norm = float(torch.linalg.vector_norm(torch.stack([g.norm() for g in direction])))
    if not norm:
        return [torch.zeros_like(alpha) for alpha in problem.a]
    epsilon = _RADIUS / norm
    sides = []
    for e in (epsilon, -epsilon):
        with torch.no_grad():
            moved = added(problem.w, direction, e)
        with problem.at(moved):
            sides.append(problem.gradient_a(train))
    return [(plus - minus) / (2 * epsilon) for plus, minus in zip(*sides, strict=True)]
