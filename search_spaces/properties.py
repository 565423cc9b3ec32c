"""Properties of architectures: the numbers by which they are grouped, limited or compared.

Width and depth are those of Shu, Wang, Cai: Understanding Architectures Learnt by Cell-based NAS
(ICLR 2020), section 3; see `CellGraph`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.errors import InvalidArgument
from search_spaces.naming import lookup
from search_spaces.space import SearchSpace

#: a number of an architecture of a space
Property = Callable[[SearchSpace, Architecture], float]
#: {name: the cell that it measures}
_OF_CELLS = {
    "width": "normal",
    "depth": "normal",
    "reduction_width": "reduction",
    "reduction_depth": "reduction",
}
_COUNTS = ("params", "macs")
#: the names of properties
PROPERTIES = (*_OF_CELLS, *_COUNTS)


def measure(
    of: str | Property,
    space: SearchSpace,
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
) -> Callable[[Architecture], float]:
    """Return the function that measures a property of the architectures of a space.

    Args:
        of: `width` (in units of a node's channels) or `depth` (in edges) of the normal cell,
            `reduction_width` or `reduction_depth`, `params`, `macs`, or a function of space and
            architecture.
        space: of the architectures.
        input_shape: (channels, height, width) of the images, for `params` and `macs`.
        num_classes: likewise.

    Raises:
        UnknownName: for another name.
        InvalidArgument: when the architectures of the space have no such cell.
    """
    if not isinstance(of, str):
        return lambda arch: float(of(space, arch))
    lookup("property", of, dict.fromkeys(PROPERTIES))
    if of in _COUNTS:
        count = space.params if of == "params" else space.macs
        return lambda arch: float(count(arch, input_shape, num_classes))
    cell = _OF_CELLS[of]
    _require_cell(of, cell, space)
    of_graph = space.width if of.endswith("width") else space.depth
    return lambda arch: float(of_graph(arch, cell))


def _require_cell(of: str, cell: str, space: SearchSpace) -> None:
    cells = space.cell_graphs(space.sample(np.random.default_rng(0)))
    if cell not in cells:
        has = f"only {' and '.join(cells)} cells" if cells else "no cells as graphs"
        raise InvalidArgument(
            f"property={of!r}: the architectures of {space.name} have {has}, so no {of}. Use"
            f" {' or '.join(_COUNTS)}, or a function of space and architecture."
        )
