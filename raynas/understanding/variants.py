"""Variants of published cells: adapted, with random operations, with random connections.

Shu, Wang, Cai: Understanding Architectures Learnt by Cell-based NAS (ICLR 2020), sections 3.3 and
6: what of the behavior of cells is due to their operations, and what to their connections.
"""

from raynas.errors import InvalidArgument
from search_spaces.cells.genotypes import named


def variants(name: str, number: int = 3) -> list[str]:
    """Return the names of cells and of their variants, the cells themselves first.

    Args:
        name: of published cells, see `search_spaces.cells.genotypes.named`.
        number: of variants with random operations, and of those with random connections; with the
            seeds 1 to 10 they are those of the paper.

    Raises:
        UnknownName: when there are no such cells.
        InvalidArgument: for a negative number.
    """
    named(name)
    if number < 0:
        raise InvalidArgument(f"variants={number} must not be negative.")
    seeds = range(1, number + 1)
    return [
        name, f"{name}_ADAPT", *(f"{name}_OPS{seed}" for seed in seeds),
        *(f"{name}_CONN{seed}" for seed in seeds),
    ]  # fmt: skip
