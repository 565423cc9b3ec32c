"""One order of architectures that have been trained for different numbers of epochs."""

from collections.abc import Mapping

from search_spaces import Architecture


def places(curves: Mapping[Architecture, Mapping[int, float]]) -> dict[Architecture, int]:
    """Return the place of each architecture, 0 the worst, by its values after all its epochs.

    From the fewest epochs on, those that have a value then share out the places that they held by
    that value. So an early value says where an architecture is among all, a later one only where it
    is among those that got as far: these may have been chosen for being good, and more epochs raise
    all values. One of which nothing earlier is known comes above all others.

    Args:
        curves: {architecture: {epochs: value}}, the values finite.
    """
    held: dict[Architecture, int] = {}
    for epochs in sorted({max(curve) for curve in curves.values()}):
        reached = [arch for arch, curve in curves.items() if epochs in curve]
        shared = sorted(held[arch] for arch in reached if arch in held)
        shared += range(len(held), len(held) + len(reached) - len(shared))
        reached.sort(key=lambda arch: curves[arch][epochs])
        held.update(zip(reached, shared, strict=True))
    return held
