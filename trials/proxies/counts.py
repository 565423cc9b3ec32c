"""The sizes of a network as proxies: parameters and multiply-accumulates."""

from torch import Tensor, nn

from search_spaces.counting import count_macs, count_params
from trials.proxies.preserving import untouched


def params(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Count the trainable parameters; images and labels are not used."""
    return float(count_params(network))


def macs(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Count the multiply-accumulate operations of one image; only the shape of the images counts.

    Args:
        network: maps `batch x ...` to logits; left as it was found.
        images: `batch x channels x height x width`.
        labels: not used.
    """
    with untouched(network, images.device):
        return float(count_macs(network, images.shape[1:]))
