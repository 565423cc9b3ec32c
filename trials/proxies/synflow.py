"""SynFlow: the strength of all paths through the network, without any data.

Tanaka, Kunin, Yamins, Ganguli: Pruning Neural Networks without any Data by Iteratively Conserving
Synaptic Flow (NeurIPS 2020), equation 2 and algorithm 1; summed over the network as in Abdelfattah
et al. (ICLR 2021).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from trials.proxies.gradients import rankable, weights
from trials.proxies.preserving import untouched


def score(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Compute ln sum_theta |theta dR/dtheta|, R the sum of the logits of an image of ones.

    All parameters are replaced by their absolute values and batch normalization by the identity;
    the sum goes over the weights. We report its logarithm, for it grows exponentially with depth.

    Args:
        network: maps images to logits; left as it was found.
        images: `batch x channels x height x width`, of which only the shape of one counts.
        labels: not used.

    Returns:
        -inf where no path leads through the network.

    Raises:
        InvalidArgument: for a network without trainable weights.
    """
    with untouched(network, images.device), torch.enable_grad():
        network.train()
        trained = {id(w) for w in weights(network)}
        names = [name for name, p in network.named_parameters() if id(p) in trained]
        absolute = {name: p.detach().abs().double() for name, p in network.named_parameters()}
        thetas = [absolute[name].requires_grad_() for name in names]
        buffers = {
            name: b.double() if b.is_floating_point() else b.clone()
            for name, b in network.named_buffers()
        }
        ones = torch.ones_like(images[:1], dtype=torch.float64)
        with _NoBatchNorm():
            r = functional_call(network, {**absolute, **buffers}, (ones,)).sum()
        gradients = torch.autograd.grad(r, thetas, allow_unused=True)
    pairs = zip(thetas, gradients, strict=True)
    terms = [(theta.detach() * g).abs().sum() for theta, g in pairs if g is not None]
    return rankable(torch.stack(terms).sum().log())


class _NoBatchNorm(TorchFunctionMode):
    """Batch normalization passes its input on."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.batch_norm:
            return args[0]
        return func(*args, **(kwargs or {}))
