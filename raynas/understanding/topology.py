"""The width and depth of cells: of what was evaluated, and of everything that a space has.

Shu, Wang, Cai: Understanding Architectures Learnt by Cell-based NAS (ICLR 2020), section 3; the
measures themselves are those of `CellGraph`.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

import search_spaces
from raynas.errors import InvalidArgument, UnknownName
from raynas.record.results import Result, load
from search_spaces import Architecture, SearchSpace
from search_spaces.cells.space import CELLS, CellSpace
from search_spaces.naming import construct
from trials import EVALUATORS

_ENUMERATED = 20_000  # architectures or wirings, at most; else they are drawn
_DRAWN = 4_000
_DIGITS = 4  # of a width: fractions of nodes do not add up to the last bit


@dataclass(frozen=True)
class Population:
    """The widths and depths of the cells of a space, as its own uniform draws have them.

    Every architecture counts once, also where several compute the same function.

    Attributes:
        shapes: `cell`, `width` (in units of a node's channels), `depth` (in edges), `share`, one
            row for each that occurs.
        drawn: number of architectures drawn; None where everything was enumerated.
        enumerated: number of architectures, or of wirings of one cell, that were enumerated.
    """

    shapes: pd.DataFrame
    drawn: int | None
    enumerated: int = 0

    @property
    def source(self) -> str:
        """Say where the shares come from, and how exact they are."""
        if self.drawn is None:
            return f"exact shares of the space, from an enumeration ({self.enumerated:,})"
        error = 196 * 0.5 / self.drawn**0.5
        return (
            f"shares of the space estimated from {self.drawn:,} uniform draws (95 % interval: at"
            f" most ±{error:.1f} percentage points)"
        )


def population(space: SearchSpace) -> Population:
    """Return how often each width and depth occurs in a space.

    Exact where there are at most 20,000 architectures, and for cells in which only the wiring
    matters (those of DARTS, without the operation `none`), if one has at most as many wirings;
    else from 4,000 draws of `SearchSpace.sample` with a fixed seed. The last few spaces are kept.

    Raises:
        InvalidArgument: when the space has no cells as graphs.
    """
    check_cells(space)
    return _cached(space) if isinstance(space, Hashable) else _population(space)


def topology(
    of: str | Path | Result | Iterable[Architecture | str], space: SearchSpace | None = None
) -> pd.DataFrame:
    """Return the width and depth of every cell of architectures.

    Args:
        of: a run folder, what `raynas.run` returns, or architectures.
        space: of the architectures; None: the one of the run, if it has a name.

    Returns:
        One row for each architecture and cell: `architecture`, `cell` (`normal`, `reduction`),
        `width` (in units of a node's channels), `depth` (in edges); of a run also `evaluation`,
        `status` and `epochs`.

    Raises:
        InvalidArgument: when the space has no cells as graphs, or none is given.
    """
    if isinstance(of, str | Path | Result):
        result = of if isinstance(of, Result) else load(of)
        trials = result.trials[["evaluation", "architecture", "status", "epochs"]]
        table = measured(list(trials["architecture"]), space or space_of_run(result, "topology"))
        return table.merge(trials.drop(columns="architecture"), on="evaluation")
    if space is None:
        raise InvalidArgument("space=None: architectures alone do not tell; give their space.")
    return measured(list(of), space).drop(columns="evaluation")


def shapes(space: SearchSpace, arch: Architecture) -> dict[str, tuple[float, int]]:
    """Return {cell: (width, depth)} of an architecture; empty where the space has no cells."""
    return {
        cell: (round(graph.width(), _DIGITS), graph.depth())
        for cell, graph in space.cell_graphs(arch).items()
    }


def has_cells(space: SearchSpace) -> bool:
    """Return whether the architectures of a space have cells as graphs."""
    return bool(space.cell_graphs(space.sample(np.random.default_rng(0))))


def check_cells(space: SearchSpace) -> None:
    """Refuse a space without cells.

    Raises:
        InvalidArgument: saying what can be used instead.
    """
    if not has_cells(space):
        raise InvalidArgument(
            f"space: the architectures of {space.name} have no cells as graphs, so no width and no"
            " depth. They can be grouped by macs or params."
        )


def space_of_run(result: Result, call: str) -> SearchSpace:
    """Return the space of a run: of a table's, the part that the table covers.

    Args:
        result: the run.
        call: the function that needs it, for the message.

    Raises:
        UnknownName: for a space of the user's own.
    """
    try:
        space = search_spaces.get(str(result.config["space"]))
    except UnknownName as error:
        raise UnknownName(f"{error} Give the run's own space: {call}(run, space=...).") from None
    evaluate = str(result.config["evaluate"])
    if evaluate.partition(":")[0] != "table":
        return space
    return construct("evaluate", evaluate, EVALUATORS).restricted(space)


def measured(architectures: Sequence[Architecture | str], space: SearchSpace) -> pd.DataFrame:
    """Return the table of `topology`, and the place of each architecture as `evaluation`.

    Raises:
        InvalidArgument: when the space has no cells as graphs.
    """
    check_cells(space)
    rows = []
    for index, given in enumerate(architectures):
        arch = space.from_string(given) if isinstance(given, str) else space.check(given)
        text = space.to_string(arch)
        rows += [(index, text, cell, *shape) for cell, shape in shapes(space, arch).items()]
    return pd.DataFrame(rows, columns=["evaluation", "architecture", "cell", "width", "depth"])


def _population(space: SearchSpace) -> Population:
    if space.size <= _ENUMERATED:
        return _counted((shapes(space, arch) for arch in space), drawn=None)
    if isinstance(space, CellSpace) and "none" not in space.choices:
        wirings = list(_wirings(space))
        if wirings:
            return _counted((shapes(space, arch) for arch in wirings), drawn=None)
    rng = np.random.default_rng(0)
    return _counted((shapes(space, space.sample(rng)) for _ in range(_DRAWN)), drawn=_DRAWN)


def _wirings(space: CellSpace) -> Iterator[Architecture]:
    """Yield an architecture for every wiring of a cell, both of its cells wired so.

    Nothing where there are too many. Both cells of these spaces have the same wirings.
    """
    wiring = {
        cell: [
            i
            for i, decision in enumerate(space.decisions)
            if decision.kind == "wiring" and decision.name.startswith(cell)
        ]
        for cell in CELLS
    }
    sizes = [len(space.decisions[i].choices) for i in wiring[CELLS[0]]]
    if np.prod(sizes, dtype=float) > _ENUMERATED:
        return
    choices = [0] * len(space.decisions)
    for chosen in np.ndindex(*sizes):
        for indices in wiring.values():
            for i, choice in zip(indices, chosen, strict=True):
                choices[i] = choice
        yield Architecture(space.name, tuple(choices))


def _counted(every: Iterable[dict[str, tuple[float, int]]], drawn: int | None) -> Population:
    counts: Counter[tuple[str, float, int]] = Counter(
        (cell, *shape) for shaped in every for cell, shape in shaped.items()
    )
    number = sum(count for (cell, *_), count in counts.items() if cell == "normal")
    table = pd.DataFrame(
        [(*key, count / number) for key, count in sorted(counts.items())],
        columns=["cell", "width", "depth", "share"],
    )
    return Population(table, drawn, 0 if drawn else number)


_cached = lru_cache(maxsize=16)(_population)
