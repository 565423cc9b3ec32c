"""Draws from the neighborhood of an architecture, of whatever size that is."""

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace

_ENUMERATED = 2000  # architectures of a neighborhood that are listed to draw from them
_TRIES = 100  # for each draw from a larger one


def draw_neighbors(
    space: SearchSpace,
    arch: Architecture,
    count: int,
    rng: np.random.Generator,
    distance: int = 1,
    rewire: bool = False,
) -> list[Architecture]:
    """Draw up to `count` distinct neighbors, uniformly without replacement, in random order.

    They are drawn from `space.neighbors(arch, distance, rewire)`.
    """
    decisions = space.variable(rewire)
    others = [len(space.decisions[i].choices) - 1 for i in decisions]
    # sizes[k]: number of architectures with exactly k of the decisions changed
    sizes = np.zeros(distance + 1)
    sizes[0] = 1
    for other in others:
        sizes[1:] = sizes[1:] + other * sizes[:-1]
    if sizes.sum() <= _ENUMERATED:
        near = list(space.neighbors(arch, distance, rewire))
        return [near[i] for i in rng.permutation(len(near))[:count]]
    drawn: dict[Architecture, None] = {}
    for _ in range(_TRIES * count):
        if len(drawn) == count:
            break
        neighbor = _changed(space, arch, decisions, others, sizes, rng)
        if space.is_valid(neighbor):
            drawn[neighbor] = None
    return list(drawn)


def _changed(
    space: SearchSpace,
    arch: Architecture,
    decisions: list[int],
    others: list[int],
    sizes: NDArray[np.float64],
    rng: np.random.Generator,
) -> Architecture:
    """Draw an architecture within a distance, valid or not, each with the same chance."""
    distance = len(sizes) - 1
    left = int(rng.choice(distance, p=sizes[1:] / sizes[1:].sum())) + 1
    # ways[i, k]: ways to change exactly k of the decisions from the i-th on
    ways = np.zeros((len(others) + 1, distance + 1))
    ways[-1, 0] = 1
    for i in reversed(range(len(others))):
        ways[i] = ways[i + 1]
        ways[i, 1:] += others[i] * ways[i + 1, :-1]
    for i, decision in enumerate(decisions):
        if left and rng.random() < others[i] * ways[i + 1, left - 1] / ways[i, left]:
            arch = space.changed(arch, decision, rng)
            left -= 1
    return arch
