"""Jacobian covariance: how differently the images act on the output.

Mellor, Turner, Storkey, Crowley: Neural Architecture Search without Training (the first version of
arXiv 2006.04647; the published one is `naswot`), equations 1-5.
"""

import torch
from torch import Tensor, nn

from trials.proxies.gradients import rankable
from trials.proxies.preserving import untouched

_K = 1e-5  # the paper's k


def score(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Compute -sum_i (log(v_i + k) + 1 / (v_i + k)), k = 1e-5; higher is better.

    v are the eigenvalues of the correlation matrix of the rows of J, where row n is the gradient
    of the sum of all logits with respect to image n.

    Args:
        network: maps images to logits; left as it was found.
        images: `batch x channels x height x width`.
        labels: not used.

    Returns:
        -inf where J has a row without variation, or is not finite.
    """
    with untouched(network, images.device), torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        network.train()
        (jacobian,) = torch.autograd.grad(network(leaf.clone()).sum(), leaf)
    correlation = torch.corrcoef(jacobian.flatten(1).double())
    if not torch.isfinite(correlation).all():
        return float("-inf")
    v = torch.linalg.eigvalsh(correlation).clamp(min=0)
    return rankable(-((v + _K).log() + 1 / (v + _K)).sum())
