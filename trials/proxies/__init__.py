"""Zero-cost proxies: scores of untrained networks from one mini-batch; higher is better.

    from trials.proxies import naswot
    naswot.score(network, images)

Every proxy is a function of a network (`nn.Module`), images (`batch x channels x height x width`)
and, where it needs them, labels (`batch`). It is deterministic, leaves the network as it was found
and gives -inf for a network that cannot be ranked. What several proxies say of a set of networks
`trials.proxies.aggregate` makes into one score of each.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from search_spaces.naming import Table

if TYPE_CHECKING:  # each is imported when it is asked for
    from trials.proxies import (
        fisher,
        grad_norm,
        jacov,
        layers,
        naswot,
        snip,
        swap,
        synflow,
        vkdnw,
        zico,
    )

__all__ = [
    "PROXIES",
    "Score",
    "fisher",
    "grad_norm",
    "jacov",
    "layers",
    "naswot",
    "snip",
    "swap",
    "synflow",
    "vkdnw",
    "zico",
]

#: (network, images, labels) to a number
Score = Callable[..., float]

PROXIES: Table[Score] = Table(
    {
        "naswot": "trials.proxies.naswot:score",
        "synflow": "trials.proxies.synflow:score",
        "snip": "trials.proxies.snip:score",
        "grad_norm": "trials.proxies.grad_norm:score",
        "fisher": "trials.proxies.fisher:score",
        "jacov": "trials.proxies.jacov:score",
        "zico": "trials.proxies.zico:score",
        "swap": "trials.proxies.swap:score",
        "vkdnw": "trials.proxies.vkdnw:score",
        "az_expressivity": "trials.proxies.az_nas:expressivity",
        "az_progressivity": "trials.proxies.az_nas:progressivity",
        "az_trainability": "trials.proxies.az_nas:trainability",
        "layers": "trials.proxies.layers:score",
        "params": "trials.proxies.counts:params",
        "macs": "trials.proxies.counts:macs",
    }
)
