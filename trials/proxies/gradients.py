"""Labels, weights and gradients, for the proxies that look at gradients."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.errors import InvalidArgument
from trials.proxies.preserving import untouched


def labelled(proxy: str, images: Tensor, labels: Tensor | None) -> Tensor:
    """Return the labels.

    Raises:
        InvalidArgument: where there are none, or not one for each image.
    """
    if labels is None:
        raise InvalidArgument(f"labels=None: {proxy} needs the class number of each image.")
    if labels.shape != images.shape[:1]:
        raise InvalidArgument(
            f"labels of shape {tuple(labels.shape)} do not fit {len(images)} images;"
            f" {proxy} needs one class number for each."
        )
    return labels


def weights(network: nn.Module) -> list[Tensor]:
    """List the trainable parameters of two or more dimensions: of convolutions, linear layers.

    Biases and normalization are left out, as in Abdelfattah et al.: Zero-Cost Proxies for
    Lightweight NAS (ICLR 2021).

    Raises:
        InvalidArgument: for a network that has none.
    """
    parameters: list[Tensor] = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    if not parameters:
        raise InvalidArgument(f"{type(network).__name__} has no trainable weights to score.")
    return parameters


def loss_gradients(network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor | None]:
    """Compute the gradients of the mean cross-entropy at the `weights`, in training mode.

    Args:
        network: maps images to logits; left as it was found.
        images: `batch x channels x height x width`.
        labels: `batch` class numbers.

    Returns:
        One tensor for each weight, of its shape; None where the weight plays no part.
    """
    with untouched(network, images.device), torch.enable_grad():
        network.train()
        parameters = weights(network)
        loss = functional.cross_entropy(network(images.clone()), labels)
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))


def rankable(value: Tensor | float) -> float:
    """Return the value; -inf, which ranks last, for one that is not finite."""
    number = float(value)
    return number if math.isfinite(number) else -math.inf
