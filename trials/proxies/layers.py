"""The number of weight layers: all that many proxies know.

Tybl, Neumann: Training-free Neural Architecture Search through Variance of Knowledge of Deep
Network Weights (CVPR 2025) show that the number of layers ranks as well as most proxies. Their
code counts parameter tensors, scale and shift of normalizations too; we count weights, so that a
layer counts the same with normalization, with a bias or bare. On NAS-Bench-201, k convolutions in
a cell make 21 + 45 k tensors and 8 + 15 k weight layers: the order is the same.
"""

from torch import Tensor, nn

from trials.proxies.preserving import untouched


def score(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Count the trainable weights of convolutions and linear layers; higher is better.

    Many networks tie; a second proxy has to tell them apart (see `vkdnw`, `aggregate`). What a
    search space builds has no dead layers; of any other network they count.

    Args:
        network: of any kind; it is not run.
        images: not used.
        labels: not used.
    """
    with untouched(network, images.device):
        return float(sum(p.requires_grad and p.ndim > 1 for p in network.parameters()))
