"""Zero-cost proxies: scores of untrained networks from one mini-batch; higher is better.

    from trials.proxies import naswot
    naswot.score(network, images)

Every proxy is a function of a network (`nn.Module`), images (`batch x channels x height x width`)
and, where it needs them, labels (`batch`). It is deterministic, leaves the network as it was found
and gives -inf for a network that cannot be ranked.
"""

from collections.abc import Callable

from trials.proxies import counts, fisher, grad_norm, jacov, naswot, snip, synflow, zico

__all__ = ["PROXIES", "Score", "fisher", "grad_norm", "jacov", "naswot", "snip", "synflow", "zico"]

#: (network, images, labels) to a number
Score = Callable[..., float]

PROXIES: dict[str, Score] = {
    "naswot": naswot.score,
    "synflow": synflow.score,
    "snip": snip.score,
    "grad_norm": grad_norm.score,
    "fisher": fisher.score,
    "jacov": jacov.score,
    "zico": zico.score,
    "params": counts.params,
    "macs": counts.macs,
}
