"""VKDNW: how evenly the data determine the weights of an untrained network.

Tybl, Neumann: Training-free Neural Architecture Search through Variance of Knowledge of Deep
Network Weights (CVPR 2025), section 3. Let theta be one element of each of the first 128 parameter
tensors, F = mean over the images of J^T S J the Fisher information of theta, where J is
d logits / d theta (classes x 128) and S = diag(p) - p p^T of the class probabilities p. V is the
entropy of the deciles of F's singular values; networks are ranked by (layers, V).

Where we differ from the authors' code: it multiplies J by L instead of L^T, S = L L^T, which is not
the Fisher information. They add V to the number of layers, which is the order of the pairs only
where numbers of layers differ by more than ln 9; we divide V by ln 10 first. They draw normal
images, we take those given. And V does not depend on the scale of F, however small.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from trials.proxies import layers
from trials.proxies.gradients import weights
from trials.proxies.initialization import kaiming, reinitialize
from trials.proxies.preserving import untouched

_IMAGES = 64
_PARAMETERS = 128
_SMOOTHING = 0.05
_DECILES = 9
_BATCH_NORM = inspect.signature(functional.batch_norm)
_CONVOLUTIONS = {functional.conv1d, functional.conv2d, functional.conv3d}


def score(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Compute layers + V / ln 10, whose order is that of (layers, V); higher is better.

    Weights are He's normal ones with a seed of their own: those that the network has play no part.
    Batch normalization is in evaluation mode and has not seen any image, so it is the identity.
    One backward pass is needed for each class.

    Args:
        network: maps `batch x channels x height x width` to logits; left as it was found.
        images: `batch x channels x height x width`, of which the first 64 are used.
        labels: not used.

    Returns:
        -inf where F is not finite.

    Raises:
        InvalidArgument: for a network without trainable weights.
    """
    depth = layers.score(network, images)
    weights(network)  # raises where there are none
    information = fisher(*jacobian(network, images[:_IMAGES]))
    if not torch.isfinite(information).all():
        return -math.inf
    v = entropy(torch.linalg.svdvals(information))
    return depth + v / math.log(_DECILES + 1)


def entropy(s: Tensor) -> float:
    """Compute V = -sum_k w_k ln(w_k + 1e-10), w = q / sum q, q_k = quantile(s, k / 10), k = 1..9.

    Args:
        s: singular values, in any order.

    Returns:
        0..ln 9; 0 where all deciles are 0.
    """
    levels = torch.arange(1, _DECILES + 1, dtype=s.dtype, device=s.device) / (_DECILES + 1)
    q = torch.quantile(s, levels)
    if q.sum() == 0:
        return 0.0
    w = q / q.sum()
    return float(-(w * (w + 1e-10).log()).sum())


def fisher(logits: Tensor, j: Tensor) -> Tensor:
    """Compute F, the mean over the images of J^T S J, parameters x parameters.

    p is smoothed: .95 softmax(logits) + .05 / classes.

    Args:
        logits: images x classes.
        j: J, images x classes x parameters.
    """
    classes = logits.shape[1]
    p = (1 - _SMOOTHING) * torch.softmax(logits, 1) + _SMOOTHING / classes
    s = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return (j.mT @ s @ j).mean(0)


def jacobian(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logits, images x classes, and J, images x classes x parameters, in float64.

    A parameter is the first element of one of the first 128 trainable tensors, in module order.
    """
    if images.ndim == 4:
        try:  # which takes less than half the time on a CPU
            return _jacobian(network, images.clone(memory_format=torch.channels_last))
        except RuntimeError:  # perhaps a `view` that wants the usual order in memory
            pass
    return _jacobian(network, images.clone())


def _jacobian(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    with untouched(network, images.device), torch.enable_grad():
        network.eval()
        reinitialize(network, kaiming)
        trainable = [p for p in network.parameters() if p.requires_grad]
        thetas = [p.requires_grad_(False) for p in trainable][:_PARAMETERS]
        linear = _Layers(thetas, len(images))
        with linear:
            logits = network(images.clone())
        j = torch.zeros(*logits.shape, len(thetas), dtype=torch.float64, device=images.device)
        for c in range(logits.shape[1]):
            gradients = _gradients(logits[:, c].sum(), [layer.output for layer in linear.seen])
            for layer, g in zip(linear.seen, gradients, strict=True):
                for k, factor in layer.factors:
                    j[:, c, k] += (layer.first(g) * factor).flatten(1).sum(1)
        others = [k for k in range(len(thetas)) if k not in linear.met]
        if others:
            j[:, :, others] = _one_by_one(network, images, [thetas[k] for k in others])
    return logits.detach().double(), j


class _Layer(NamedTuple):
    """The output of a layer that is linear in its parameters.

    Attributes:
        output: what it gave.
        channels: dimension of the channels.
        factors: (index of a parameter, derivative of the output's first channel with respect to
            the parameter's first element, which acts on no other channel).
    """

    output: Tensor
    channels: int
    factors: list[tuple[int, Tensor | float]]

    def first(self, gradient: Tensor) -> Tensor:
        """Return the first channel."""
        return gradient.narrow(self.channels, 0, 1)


class _Layers(TorchFunctionMode):
    """Sees convolutions, linear layers and batch normalization in evaluation mode.

    The gradient at the output tells every image's derivatives with respect to the parameters, where
    that at the parameters is the sum of all images.

    Attributes:
        seen: the layers that ran.
        met: indices of their parameters.
    """

    def __init__(self, parameters: Sequence[Tensor], images: int) -> None:
        super().__init__()
        self.images = images
        self.indices = {id(p): k for k, p in enumerate(parameters)}
        self.seen: list[_Layer] = []
        self.met: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if not isinstance(output, Tensor) or output.shape[:1] != (self.images,):
            return output
        if func in _CONVOLUTIONS and len(args) > 2 and not kwargs:
            x, weight, bias, *geometry = args
            tap = torch.zeros_like(weight[:1, :1])
            tap.view(-1)[0] = 1
            return self._kept(output, 1, weight, bias, func(x[:, :1], tap, None, *geometry[:3]))
        if func is functional.linear and len(args) > 2:
            x, weight, bias = args
            return self._kept(output, -1, weight, bias, x[..., :1])
        if func is functional.batch_norm:
            given = _BATCH_NORM.bind(*args, **(kwargs or {})).arguments
            if not given.get("training"):
                weight, bias = given.get("weight"), given.get("bias")
                first = {name: given[name][..., :1] for name in ("running_mean", "running_var")}
                bare = {"input": given["input"][:, :1], **first, "weight": None, "bias": None}
                return self._kept(output, 1, weight, bias, func(**{**given, **bare}))
        return output

    def _kept(
        self,
        output: Tensor,
        channels: int,
        weight: Tensor | None,
        bias: Tensor | None,
        factor: Tensor,
    ) -> Tensor:
        """Keep a layer, whose weight has this factor, if its parameters are wanted."""
        pairs: list[tuple[Tensor | None, Tensor | float]] = [(weight, factor.detach()), (bias, 1.0)]
        factors = [(self.indices[id(p)], f) for p, f in pairs if id(p) in self.indices]
        if not factors:
            return output
        if not output.requires_grad:
            output.requires_grad_()
        self.seen.append(_Layer(output, channels, factors))
        self.met.update(k for k, _ in factors)
        return output.clone()  # what follows may write into it


def _one_by_one(network: nn.Module, images: Tensor, thetas: Sequence[Tensor]) -> Tensor:
    """Compute J of parameters of any kind, image by image; zeros where none plays a part."""
    for theta in thetas:
        theta.requires_grad_()
    logits = network(images[:1].clone())
    used = logits.requires_grad and any(
        g is not None for g in torch.autograd.grad(logits.sum(), thetas, allow_unused=True)
    )
    if not used:
        return torch.zeros(len(images), logits.shape[1], len(thetas)).to(images.device).double()
    rows = []
    for image in images:
        logits = network(image[None].clone())[0]
        firsts = [[g.flatten()[0] for g in _gradients(logit, thetas)] for logit in logits]
        rows.append(torch.stack([torch.stack(row) for row in firsts]))
    return torch.stack(rows).double()


def _gradients(output: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the gradients, zeros where an input plays no part; the graph is kept."""
    if not output.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return torch.autograd.grad(
        output, inputs, retain_graph=True, allow_unused=True, materialize_grads=True
    )
