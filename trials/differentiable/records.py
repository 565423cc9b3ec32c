"""Model sizes: what a search has found, the best of each size, and when it may stop.

He et al.: MiLeNAS (CVPR 2020), sections 3.3 and 5: after every epoch the architecture is derived
and the best of each model size is kept; the search stops when the size has fallen to the expected
one. So a search gives a small Pareto set. The authors' code tests for equality and stops before
the epoch is recorded; here a size that jumps over the expected one stops too, recorded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search_spaces import Architecture, SearchSpace
from search_spaces.cells.operations import CONVOLUTIONS
from search_spaces.cells.space import CELLS, CellSpace
from search_spaces.errors import InvalidArgument

Size = tuple[int, ...]


@dataclass(frozen=True)
class Record:
    """The best architecture of one size.

    Args:
        epoch: after which it was derived, counted from 1.
        architecture: what was derived.
        accuracy: of the search network on the half of the architecture parameters, 0..1.
    """

    epoch: int
    architecture: Architecture
    accuracy: float


def keep_best(records: dict[Size, Record], size: Size, new: Record) -> None:
    """Put a record in the place of one of its size that is less accurate; of equals the first."""
    if size not in records or new.accuracy > records[size].accuracy:
        records[size] = new


def size_names(space: SearchSpace) -> tuple[str, ...]:
    """Name the numbers of a size: convolutions of both cells, or parameters."""
    if isinstance(space, CellSpace):
        return tuple(f"{cell}_convolutions" for cell in CELLS)
    return ("params",)


def model_size(
    space: SearchSpace, arch: Architecture, input_shape: Sequence[int], num_classes: int
) -> Size:
    """Measure an architecture: MiLeNAS's (n, r) for cells, (parameters,) elsewhere.

    n and r are the numbers of edges of the normal and of the reduction cell whose operation is a
    convolution; operations count, not the convolutions that these are made of.
    """
    if not isinstance(space, CellSpace):
        return (space.params(arch, input_shape, num_classes),)
    genotype = space.to_genotype(arch)
    return tuple(
        sum(operation in CONVOLUTIONS for operation, _ in cell.edges)
        for cell in (genotype.normal, genotype.reduction)
    )


def is_reached(size: Size, expected: Size | None) -> bool:
    """Tell whether no number of a size is above the expected one."""
    return expected is not None and all(x <= y for x, y in zip(size, expected, strict=True))


def check_expected(
    space: SearchSpace, expected: Sequence[int], input_shape: Sequence[int], num_classes: int
) -> None:
    """Refuse an expected size that no architecture has, with which a search stops never or at once.

    Raises:
        InvalidArgument: saying which sizes there are.
    """
    names = size_names(space)
    if len(expected) != len(names):
        raise InvalidArgument(
            f"expected_size={tuple(expected)}: the size of an architecture of {space.name!r} is"
            f" {len(names)} number{'s' * (len(names) > 1)}: {', '.join(names)}."
        )
    low, high = _range(space, input_shape, num_classes)
    for name, value, least, most in zip(names, expected, low, high, strict=True):
        if not least <= value <= most:
            raise InvalidArgument(
                f"expected_size={tuple(expected)}: no architecture of {space.name!r} has {name}"
                f" {value}; give {least} to {most}."
            )


def _range(space: SearchSpace, input_shape: Sequence[int], num_classes: int) -> tuple[Size, Size]:
    """Find the smallest and the largest size.

    For parameters by changing one decision at a time, which is exact where each decision adds
    parameters of its own, as the operations of all built-in spaces do.
    """
    if isinstance(space, CellSpace):
        most = 2 * space.nodes if set(space.choices) & set(CONVOLUTIONS) else 0
        return (0, 0), (most, most)

    def params(arch: Architecture) -> int:
        return space.params(arch, input_shape, num_classes)

    first = next(iter(space))
    ends = []
    for pick in (min, max):
        arch = first
        for decision in space.variable():
            arch = pick(_changed(space, arch, decision), key=params)
        ends.append((params(arch),))
    return ends[0], ends[1]


def _changed(space: SearchSpace, arch: Architecture, decision: int) -> Iterable[Architecture]:
    """List an architecture with every choice of one decision, as far as that is valid."""
    choices = range(len(space.decisions[decision].choices))
    return [a for c in choices if space.is_valid(a := space.replaced(arch, decision, c))]
