"""The rank aggregate: many proxies into one score, on the ground of their ranks alone.

Lee, Ham: AZ-NAS, Assembling Zero-Cost Proxies for Network Architecture Search (CVPR 2024),
section 3. The logarithm punishes a network that is bad by one proxy more than it rewards one that
is good by another. Nothing is fitted: all proxies weigh the same, and higher is better in each.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from search_spaces.errors import InvalidArgument

#: published aggregates: what each is made of, by the names in `PROXIES`
AGGREGATES: dict[str, tuple[str, ...]] = {
    "az_nas": ("az_expressivity", "az_progressivity", "az_trainability", "macs"),
    "vkdnw_agg": ("vkdnw", "jacov", "az_expressivity", "az_trainability", "macs"),
}


def rank_aggregate(
    scores: Mapping[str, Sequence[float] | NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Compute sum over the proxies of ln(rank / m), for each of n networks; higher is better.

    m is the number of networks that all proxies can rank; rank 1 is the worst of these, ties get
    the mean of their ranks. So the aggregate is relative to the networks it is taken over, and has
    to be taken again when another one comes.

    Args:
        scores: {proxy: its n scores}, in one order of the networks.

    Returns:
        n numbers of at most 0; -inf for a network to which any proxy gives -inf or NaN.

    Raises:
        InvalidArgument: without proxies, or where they score different numbers of networks.
    """
    if len({len(column) for column in scores.values()}) != 1:
        lengths = {name: len(column) for name, column in scores.items()}
        raise InvalidArgument(
            f"scores={lengths} (number of scores by each proxy): give at least one proxy, and one"
            " score of each network by every proxy."
        )
    columns = np.array([np.asarray(column, float) for column in scores.values()])
    ranked = (~np.isnan(columns) & (columns > -math.inf)).all(axis=0)
    totals = np.full(columns.shape[1], -math.inf)
    if ranked.any():
        totals[ranked] = np.log(rankdata(columns[:, ranked], axis=1) / ranked.sum()).sum(axis=0)
    return totals
