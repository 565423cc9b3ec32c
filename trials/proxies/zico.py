"""ZiCo: gradients that are large, and the same on every mini-batch.

Li, Yang, Bhardwaj, Marculescu: ZiCo, Zero-shot NAS via Inverse Coefficient of Variation on
Gradients (ICLR 2023), equation 15.
"""

import torch
from torch import Tensor, nn

from search_spaces.errors import InvalidArgument
from trials.proxies.gradients import labelled, loss_gradients, rankable


def score(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Compute the sum over the layers l of ln sum_(w in l) E|g_w| / std|g_w|; higher is better.

    g_w is the gradient of the mean cross-entropy at the weight w; mean and standard deviation go
    over two mini-batches, the halves of the images. Weights whose |g_w| does not vary are left
    out, and layers that have no others.

    Args:
        network: maps images to logits; left as it was found.
        images: `batch x channels x height x width`; of an odd number the last one is left out.
        labels: `batch` class numbers.

    Returns:
        -inf where the sum is not finite, or no gradient varies.

    Raises:
        InvalidArgument: without labels, for a batch of less than 4, or for a network without
            trainable weights.
    """
    labels = labelled("zico", images, labels)
    half = len(images) // 2
    if half < 2:
        raise InvalidArgument(f"a batch of {len(images)} is too small: zico needs at least 4.")
    parts = [
        loss_gradients(network, images[start : start + half], labels[start : start + half])
        for start in (0, half)
    ]
    terms = [
        _layer(a.abs(), b.abs())
        for a, b in zip(*parts, strict=True)
        if a is not None and b is not None
    ]
    terms = [term for term in terms if term > 0]
    return rankable(torch.stack(terms).log().sum()) if terms else float("-inf")


def _layer(a: Tensor, b: Tensor) -> Tensor:
    """Sum up mean over standard deviation of the pairs (a, b), two tensors of one shape."""
    mean, std = (a + b).double() / 2, (a - b).abs().double() / 2
    varies = std > 0
    return (mean[varies] / std[varies]).sum()
