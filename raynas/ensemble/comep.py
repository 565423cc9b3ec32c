"""COMEP: choose the members of an ensemble greedily, by diversity against relevance.

Bian et al.: Sub-Architecture Ensemble Pruning in Neural Architecture Search (arXiv 1910.00370),
section III; `raynas.ensemble.information` has TDAC, `raynas.ensemble.domep` the same on many
machines.
"""

from collections.abc import Sequence

import numpy as np

from raynas.ensemble.information import Floats
from raynas.errors import InvalidArgument

_DIGITS = 10  # of a gain; what differs less is equal, and the first member wins


def comep(tdac: Floats, size: int, rng: np.random.Generator) -> list[int]:
    """Choose `size` members greedily and return them in the order of choosing.

    The first is drawn; then that one is added for which the sum of TDAC with all that were chosen
    is largest (differences of 1e-10 are none, then the first of them is taken).

    Args:
        tdac: of every pair, `members x members`; see `tdac_matrix`.
        size: how many to choose.
        rng: draws the first.

    Raises:
        InvalidArgument: for a size that is not in 1..members.
    """
    if not 1 <= size <= len(tdac):
        raise InvalidArgument(f"size={size}: give 1 to {len(tdac)}, the number of members.")
    chosen = [int(rng.integers(len(tdac)))]
    gains = np.zeros(len(tdac))
    while len(chosen) < size:
        gains += tdac[chosen[-1]]
        gains[chosen[-1]] = -np.inf
        chosen.append(int(np.argmax(gains.round(_DIGITS))))
    return chosen


def tdas(tdac: Floats, chosen: Sequence[int]) -> float:
    """Return TDAS of a set of members: half the sum of TDAC over all its ordered pairs.

    Args:
        tdac: of every pair, `members x members`; see `tdac_matrix`.
        chosen: the set.
    """
    return float(tdac[np.ix_(chosen, chosen)].sum() / 2)
