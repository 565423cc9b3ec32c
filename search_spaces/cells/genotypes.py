"""Cells in the notation of DARTS, and the published ones by name.

Cells: Shu, Wang, Cai: Understanding Architectures Learnt by Cell-based NAS (ICLR 2020), which
collects those of NASNet, AmoebaNet, ENAS, DARTS and SNAS and adds adapted forms and random
variants; He et al.: MiLeNAS (CVPR 2020), tables 1 and 2.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from search_spaces.cells.cell import Cell, loose_ends
from search_spaces.errors import UnknownName
from search_spaces.naming import closest
from search_spaces.notation import Scanner

_SHORT = {
    "skip": "skip_connect",
    "avg3": "avg_pool_3x3",
    "max3": "max_pool_3x3",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "sep7": "sep_conv_7x7",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
    "7x1": "conv_7x1_1x7",
}
#: the operations of the random-operation variants, in the order in which they are drawn
_DRAWN = ("max3", "avg3", "skip", "sep3", "sep5", "dil3", "dil5")
#: normal cell, reduction cell: operation and source of each node's two edges. The output joins
#: all nodes of 4-node cells and the loose ends of 5-node cells, unless a third entry says which
#: nodes of the reduction cell.
_PUBLISHED: dict[str, tuple[str, ...]] = {
    "NASNet": (
        "sep5 1 sep3 0  sep5 0 sep3 0  avg3 1 skip 0  avg3 0 avg3 0  sep3 1 skip 1",
        "sep5 1 sep7 0  max3 1 sep7 0  avg3 1 sep5 0  skip 3 avg3 2  sep3 2 max3 1",
    ),
    "AmoebaNet": (
        "avg3 0 max3 1  sep3 0 sep5 2  sep3 0 avg3 3  sep3 1 skip 1  skip 0 avg3 1",
        "avg3 0 sep3 1  max3 0 sep7 2  sep7 0 avg3 1  max3 0 max3 1  7x1 0 sep3 5",
    ),
    "ENAS": (
        "sep3 1 skip 1  sep5 1 skip 0  avg3 0 sep3 1  sep3 0 avg3 1  sep5 1 avg3 0",
        "sep5 0 avg3 1  sep3 1 avg3 1  sep3 1 avg3 1  sep5 4 avg3 1  sep3 5 sep5 0",
    ),
    "ENAS_ADAPT": (
        "sep3 0 skip 1  sep5 0 skip 0  avg3 0 sep3 1  sep3 0 avg3 1  sep5 0 avg3 1",
        "sep5 0 avg3 1  sep3 0 avg3 1  sep3 0 avg3 1  sep5 0 avg3 1  sep3 0 sep5 1",
        "2 3 6",
    ),
    "DARTS_V1": (
        "sep3 1 sep3 0  skip 0 sep3 1  skip 0 sep3 1  sep3 0 skip 2",
        "max3 0 max3 1  skip 2 max3 0  max3 0 skip 2  skip 2 avg3 0",
    ),
    "DARTS_V2": (
        "sep3 0 sep3 1  sep3 0 sep3 1  sep3 1 skip 0  skip 0 dil3 2",
        "max3 0 max3 1  skip 2 max3 1  max3 0 skip 2  skip 2 max3 1",
    ),
    "SNAS": (
        "sep3 0 sep3 1  skip 0 dil3 1  skip 0 skip 1  skip 0 sep3 1",
        "max3 0 max3 1  skip 2 max3 1  max3 1 skip 2  dil5 2 max3 0",
    ),
    "r101_e50_48_n7r3": (
        "sep3 1 sep3 0  dil3 0 sep3 1  skip 0 sep3 1  sep3 0 sep5 1",
        "dil3 0 sep3 1  skip 2 max3 0  skip 2 dil5 3  skip 2 max3 0",
    ),
    "r118_e100_92_n4r1": (
        "skip 0 sep3 1  sep3 0 sep3 1  skip 0 sep3 1  skip 0 skip 1",
        "max3 0 max3 1  max3 0 sep3 2  avg3 1 skip 2  skip 2 max3 0",
    ),
    "V2_r2_e100": (
        "sep3 0 sep3 1  skip 0 sep3 1  skip 0 skip 1  skip 0 sep5 1",
        "max3 0 max3 1  max3 0 skip 2  skip 2 avg3 0  avg3 0 skip 2",
    ),
    "v2_r5_e200": (
        "sep3 0 skip 1  skip 0 skip 2  sep3 0 skip 2  max3 0 skip 2",
        "max3 0 max3 1  avg3 0 max3 1  max3 0 skip 2  max3 0 skip 2",
    ),
}
_ALIASES = {"DARTS": "DARTS_V2", "SNAS_MILD": "SNAS"}


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell."""

    normal: Cell
    reduction: Cell

    def __str__(self) -> str:
        """Write `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, ...], ...)`."""
        return (
            f"Genotype(normal={list(self.normal.edges)}, normal_concat={list(self.normal.concat)},"
            f" reduce={list(self.reduction.edges)}, reduce_concat={list(self.reduction.concat)})"
        )

    def adapt(self) -> "Genotype":
        """Return both cells in their widest and shallowest form (`Cell.adapt`)."""
        return Genotype(self.normal.adapt(), self.reduction.adapt())

    def random_operations(self, seed: int) -> "Genotype":
        """Draw the operations of all edges anew, uniformly (section 3.3 of the paper).

        The normal cell's operations are drawn first, from numpy's legacy generator, so that the
        seeds 1 to 10 give the published variants.
        """
        stream = np.random.RandomState(seed)

        def drawn(cell: Cell) -> Cell:
            indices = stream.choice(len(_DRAWN), len(cell.edges))
            operations = (_SHORT[_DRAWN[i]] for i in indices)
            sources = (source for _, source in cell.edges)
            return replace(cell, edges=tuple(zip(operations, sources, strict=True)))

        return Genotype(drawn(self.normal), drawn(self.reduction))

    def random_connections(self, seed: int) -> "Genotype":
        """Draw the sources of all edges anew: any earlier node, twice the same too.

        Drawn slot by slot, normal and reduction cell in turns, as the published variants.
        """
        stream = np.random.RandomState(seed)
        normal, reduction = [], []
        slots = zip(self.normal.edges, self.reduction.edges, strict=True)
        for i, ((first, _), (second, _)) in enumerate(slots):
            normal.append((first, int(stream.choice(2 + i // 2, 1)[0])))
            reduction.append((second, int(stream.choice(2 + i // 2, 1)[0])))
        return Genotype(
            replace(self.normal, edges=tuple(normal)),
            replace(self.reduction, edges=tuple(reduction)),
        )


_SUFFIX = re.compile("ADAPT|(OPS|CONN)([0-9]{1,9})")


def published() -> list[str]:
    """List the names of the published cells, without the suffixes that `named` understands."""
    return [*_PUBLISHED, *_ALIASES]


def named(name: str) -> Genotype:
    """Return the published cells of this name.

    A suffix asks for a variant: `_ADAPT` for the adapted form, `_OPS7` for the operations and
    `_CONN7` for the connections drawn with the seed 7.

    Raises:
        UnknownName: when there are no such cells (the closest match is suggested).
    """
    base, suffixes = str(name), []
    while _ALIASES.get(base, base) not in _PUBLISHED:
        base, _, suffix = base.rpartition("_")
        suffixes.append(suffix)
        if not base or not _SUFFIX.fullmatch(suffix):
            raise UnknownName(
                f"genotype={str(name)[:80]!r} is unknown. {closest(str(name), published())} Known:"
                f" {', '.join(published())}; each also with the suffix _ADAPT, _OPS<seed>,"
                " _CONN<seed>."
            )
    normal, reduction, *concat = _PUBLISHED[_ALIASES.get(base, base)]
    cell = _cell(reduction)
    if concat:
        cell = replace(cell, concat=tuple(map(int, concat[0].split())))
    genotype = Genotype(_cell(normal), cell)
    for suffix in reversed(suffixes):
        genotype = _varied(genotype, suffix)
    return genotype


def _varied(genotype: Genotype, suffix: str) -> Genotype:
    """Return the variant that one suffix asks for."""
    match = _SUFFIX.fullmatch(suffix)
    assert match is not None
    if suffix == "ADAPT":
        return genotype.adapt()
    variant = Genotype.random_operations if match[1] == "OPS" else Genotype.random_connections
    return variant(genotype, int(match[2]))


def _cell(text: str) -> Cell:
    words = text.split()
    edges = tuple((_SHORT[op], int(i)) for op, i in zip(words[::2], words[1::2], strict=True))
    sources = [source for _, source in edges]
    if len(edges) == 8:
        return Cell(edges, (2, 3, 4, 5))
    return Cell(edges, loose_ends(list(zip(sources[::2], sources[1::2], strict=True))))


def read_genotype(scanner: Scanner, operations: Collection[str], nodes: int) -> Genotype:
    """Read what `str(Genotype)` writes; `range(2, 6)` may stand for a list of nodes.

    Args:
        scanner: where to read.
        operations: the operations that may occur.
        nodes: intermediate nodes of each cell.

    Raises:
        InvalidArchitecture: pointing at the position.
    """
    scanner.literal("Genotype(")
    cells = []
    for field in ("normal", "reduce"):
        scanner.literal(f"{field}=")
        edges = []
        for i in range(2 * nodes):
            scanner.literal("," if i else "[")
            scanner.literal("(")
            quote = "'" if scanner.accept("'") else '"'
            if quote == '"':
                scanner.literal(quote)
            operation = scanner.one_of(operations)
            scanner.literal(quote)
            scanner.literal(",")
            edges.append((operation, scanner.integer(most=1 + i // 2)))
            scanner.literal(")")
        scanner.literal("]")
        scanner.literal(",")
        scanner.literal(f"{field}_concat=")
        cells.append(Cell(tuple(edges), _concat(scanner, nodes)))
        scanner.literal("," if field == "normal" else ")")
    scanner.end()
    return Genotype(*cells)


def _concat(scanner: Scanner, nodes: int) -> tuple[int, ...]:
    if scanner.accept("range("):
        first = scanner.integer(2, nodes + 1)
        scanner.literal(",")
        last = scanner.integer(first + 1, nodes + 2)
        scanner.literal(")")
        return tuple(range(first, last))
    scanner.literal("[")
    concat = [scanner.integer(2, nodes + 1)]
    while scanner.accept(","):
        concat.append(scanner.integer(2, nodes + 1))
    scanner.literal("]")
    return tuple(concat)
