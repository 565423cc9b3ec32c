"""Collapse: how a search shows that it ends in skip connections, and words for it.

Zela et al.: Understanding and Robustifying Differentiable Architecture Search (ICLR 2020): before
the derived cell fills with skip connections, the largest eigenvalue of the Hessian of the
validation loss in the architecture parameters grows; section 5 stops when its average over five
epochs has grown by a third within four. It grows in the first epochs of any search too, and one
epoch's is noise: as the authors' code does, averages of before the tenth epoch do not count.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from search_spaces import Architecture, SearchSpace
from search_spaces.cells.space import CellSpace

#: what spaces call an operation that passes its input on
SKIPS = ("skip_connect", "skip", "identity", "Identity")
#: and one that gives nothing
NONES = ("none",)

_MANY = 0.5  # share of skip connections from which on a cell is said to have collapsed
_UNDECIDED = 0.98  # entropy above which the mixtures have hardly moved
_GROWTH = 4 / 3  # of the eigenvalue within _WINDOW epochs: 1 / 0.75 of Zela et al.
_WINDOW = 4  # epochs
_AVERAGED = 5  # epochs
_FROM = 10  # the first epoch that may be in the middle of an average


def operation_share(space: SearchSpace, arch: Architecture, names: Collection[str]) -> float:
    """Return the share of some operations among those of an architecture, 0..1."""
    if isinstance(space, CellSpace):
        genotype = space.to_genotype(arch)
        cells = (genotype.normal, genotype.reduction)
        derived = [name for cell in cells for name, _ in cell.edges]
    else:
        chosen = zip(space.decisions, arch.choices, strict=True)
        derived = [str(d.choices[c]) for d, c in chosen if d.kind == "operation"]
    return sum(name in names for name in derived) / len(derived) if derived else 0.0


def entropy(mixture: Sequence[Tensor]) -> float:
    """Return the mean entropy of the slots' weights over its maximum: 1 undecided, 0 decided."""
    shares = [
        float(torch.special.entr(weights.detach().double()).sum()) / math.log(len(weights))
        for weights in mixture
        if len(weights) > 1
    ]
    return sum(shares) / len(shares) if shares else 0.0


def largest_eigenvalue(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    iterations: int,
    generator: torch.Generator,
) -> float:
    """Find the largest eigenvalue of the Hessian of a loss by power iteration.

    Power iteration finds the one of the largest magnitude; where that is negative, it is
    repeated on the Hessian shifted by it.

    Args:
        loss: computes a scalar that can be differentiated twice in the parameters.
        parameters: that the Hessian is in.
        iterations: products of Hessian and vector, for each of both.
        generator: of the first vector, on the CPU.
    """
    gradient = torch.autograd.grad(loss(), parameters, create_graph=True, materialize_grads=True)
    flat = torch.cat([g.flatten() for g in gradient])

    def product(v: Tensor) -> Tensor:
        parts = torch.autograd.grad(flat, parameters, v, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    start = torch.randn(len(flat), generator=generator).to(flat)
    value = _power(product, start, iterations)
    if value < 0:
        shift = value
        value = shift + _power(lambda v: product(v) - shift * v, start, iterations)
    return value


def _power(product: Callable[[Tensor], Tensor], v: Tensor, iterations: int) -> float:
    value = 0.0
    for _ in range(iterations):
        v = v / v.norm()
        moved = product(v)
        value = float(v @ moved)
        if not moved.norm():
            break
        v = moved
    return value


def collapse(epochs: Sequence[Mapping[str, float]]) -> str:
    """Say in plain words whether a search looks collapsed, and why; nothing where it does not.

    Args:
        epochs: what `GradientSearch.step` returned, epoch by epoch.
    """
    if not epochs:
        return ""
    first, last = epochs[0], epochs[-1]
    reasons = []
    if last["skip_share"] >= _MANY:
        reasons.append(
            f"{last['skip_share']:.0%} of the derived operations are skip connections"
            f" ({first['skip_share']:.0%} after the first epoch): a shallow network that trains"
            " fast with shared weights and is seldom good when trained alone"
        )
    if last["none_share"] >= _MANY:
        reasons.append(
            f"{last['none_share']:.0%} of the derived operations are 'none': hardly anything is"
            " left of the cell, perhaps no way from its input to its output"
        )
    values = [epoch["eigenvalue"] for epoch in epochs if "eigenvalue" in epoch]
    starts = range(_FROM - 1 - _AVERAGED // 2, len(values) - _AVERAGED + 1)
    averages = [sum(values[i : i + _AVERAGED]) / _AVERAGED for i in starts]
    pairs = enumerate(zip(averages, averages[_WINDOW:], strict=False))
    grown = next(((i, x, y) for i, (x, y) in pairs if y > _GROWTH * x > 0), None)
    if grown:
        number, before, after = grown
        reasons.append(
            f"the largest eigenvalue of the validation Hessian grew from {before:.3g} to"
            f" {after:.3g} within {_WINDOW} epochs, as averages over {_AVERAGED} (by epoch"
            f" {starts[number + _WINDOW] + _AVERAGED}): the optimum is a sharp one, and what is"
            " derived from it loses accuracy"
        )
    if not reasons:
        return ""
    text = "This search looks collapsed: " + "; ".join(reasons) + "."
    if last["entropy"] > _UNDECIDED:
        text += (
            f" The mixtures are still almost even (entropy {last['entropy']:.2f} of 1), so that the"
            " choice rests on small differences; more epochs or a higher architecture learning rate"
            " decide it."
        )
    return text
