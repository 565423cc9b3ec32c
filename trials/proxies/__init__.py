"""Zero-cost proxies: scores of untrained networks from one mini-batch; higher is better.

    from trials.proxies import naswot
    naswot.score(network, images)

Every proxy is a function of a network (`nn.Module`), images (`batch x channels x height x width`)
and, where it needs them, labels (`batch`). It is deterministic, leaves the network as it was found
and gives -inf for a network that cannot be ranked. Wherever the name of a proxy is taken, such a
function of the user's own, or an object that is called like one, may be given too. What several
proxies say of a set of networks `trials.proxies.aggregate` makes into one score of each.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from search_spaces.errors import InvalidArgument
from search_spaces.naming import Table, lookup

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
    "check_proxy",
    "fisher",
    "grad_norm",
    "jacov",
    "layers",
    "naswot",
    "proxy_name",
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

#: what else is called so where scores stand: columns of `raynas.score`, the metric of trainings
_TAKEN = ("architecture", "reason", "val_accuracy")


def check_proxy(argument: str, proxy: str | Score) -> Score:
    """Return the function that a proxy's name stands for, or that was given itself.

    Args:
        argument: whose value `proxy` is.
        proxy: a name of `PROXIES`, or a function of network, images and labels.

    Raises:
        UnknownName: for a name that is not there.
        InvalidArgument: for what is neither a name nor a function, or a function whose own name is
            taken.
    """
    if isinstance(proxy, str):
        return lookup(argument, proxy, PROXIES)
    if not callable(proxy) or isinstance(proxy, type):
        raise InvalidArgument(
            f"{argument}={proxy!r} is neither a proxy's name nor a function of network, images and"
            f" labels. Known names: {', '.join(PROXIES)}."
        )
    name = proxy_name(proxy)
    if name in _TAKEN or (name in PROXIES and PROXIES[name] is not proxy):
        raise InvalidArgument(
            f"{argument}: the scores of a function called {name!r} could be taken for something"
            " else: give it another name."
        )
    return proxy


def proxy_name(proxy: str | Score) -> str:
    """Return what the scores of a proxy are called: its name, the function's or the type's."""
    name = proxy if isinstance(proxy, str) else getattr(proxy, "__name__", type(proxy).__name__)
    return name.strip("<>")
