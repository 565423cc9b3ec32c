"""Fisher information of the channels.

Theis, Korshunova, Tejani, Huszár: Faster Gaze Prediction with Dense Networks and Fisher Pruning
(2018), equation 3; Turner et al.: BlockSwap (ICLR 2020), equation 1; summed over the network as in
Abdelfattah et al. (ICLR 2021).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from trials.proxies.gradients import labelled, rankable, weights
from trials.proxies.preserving import untouched

_LAYERS = {functional.conv1d, functional.conv2d, functional.conv3d, functional.linear}


def score(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Compute sum over channels c of (1 / 2N) sum_n (sum_ij a_ncij g_ncij)^2; higher is better.

    a is the output of a convolution or a linear layer, g the gradient there of the mean
    cross-entropy, N the number of images, i and j the position in the image.

    Args:
        network: maps images to logits; left as it was found.
        images: `batch x channels x height x width`.
        labels: `batch` class numbers.

    Returns:
        -inf where the sum is not finite.

    Raises:
        InvalidArgument: without labels, or for a network without trainable weights.
    """
    labels = labelled("fisher", images, labels)
    outputs = _Outputs()
    with untouched(network, images.device), torch.enable_grad():
        network.train()
        weights(network)  # raises where there are none
        with outputs:
            logits = network(images.clone())
        loss = functional.cross_entropy(logits, labels)
        gradients = torch.autograd.grad(loss, outputs.seen, allow_unused=True)
    total = torch.zeros((), dtype=torch.float64, device=images.device)
    for a, g in zip(outputs.seen, gradients, strict=True):
        if g is not None:
            products = (a.detach() * g).flatten(2).sum(2) if a.ndim > 2 else a.detach() * g
            total += products.square().sum() / (2 * len(products))
    return rankable(total)


class _Outputs(TorchFunctionMode):
    """Keeps the outputs of convolutions and linear layers, module or function."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _LAYERS and output.requires_grad:
            self.seen.append(output)
            return output.clone()  # what follows may write into it
        return output
