"""SNIP: how much the loss depends on the presence of each weight.

Lee, Ajanthan, Torr: SNIP, Single-shot Network Pruning based on Connection Sensitivity (ICLR 2019),
equation 4, summed over the network as in Abdelfattah et al. (ICLR 2021).
"""

import torch
from torch import Tensor, nn

from trials.proxies.gradients import labelled, loss_gradients, rankable, weights


def score(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Compute the sum over the weights w of |w dL/dw|, L the mean cross-entropy; higher is better.

    Args:
        network: maps images to logits; left as it was found.
        images: `batch x channels x height x width`.
        labels: `batch` class numbers.

    Returns:
        -inf where the sum is not finite.

    Raises:
        InvalidArgument: without labels, or for a network without trainable weights.
    """
    gradients = loss_gradients(network, images, labelled("snip", images, labels))
    pairs = zip(weights(network), gradients, strict=True)
    terms = [(w.detach() * g).abs().sum() for w, g in pairs if g is not None]
    return rankable(torch.stack(terms).sum())
