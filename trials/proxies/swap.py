"""SWAP: how many different patterns the units of a network make of a few images.

Peng, Song, Fayek, Ciesielski, Chang: SWAP-NAS, Sample-Wise Activation Patterns for Ultra-Fast NAS
(ICLR 2024), section 3. Let A be the matrix of images x rectified units, true where a unit
is on; the score is the number of distinct columns of A. (The rows are what NASWOT compares.)

Where we differ from the authors' code: it sees modules of the class ReLU with an input of four
dimensions; we see every rectifier that reaches the output (as `naswot` does). The factor by which
the paper prefers networks of some size is left out: its mu and sigma are chosen by hand for each
search space.
"""

import math

import numpy as np
from torch import Tensor, nn

from trials.proxies.initialization import reinitialize, standard
from trials.proxies.preserving import untouched
from trials.proxies.rectifiers import Layer, live_layers

_IMAGES = 16  # more patterns than 2^16 cannot be told apart, and few networks have more units
_INITIALIZATIONS = 32


def score(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Count the distinct columns of A, the mean of 32 initializations; higher is better.

    Weights are drawn from N(0, 1) with a seed of their own: those that the network has play no
    part. Batch normalization is in training mode.

    Args:
        network: maps `batch x channels x height x width` to logits; left as it was found.
        images: `batch x channels x height x width`, of which the first 16 are used.
        labels: not used.

    Returns:
        -inf where a live rectifier's input is not finite.

    Raises:
        InvalidArgument: for a network without rectifiers.
    """
    total = 0
    with untouched(network, images.device):
        for _ in range(_INITIALIZATIONS):
            reinitialize(network, standard)
            layers = [layer for layer, _ in live_layers(network, images[:_IMAGES])]
            if not all(layer.finite for layer in layers):
                return -math.inf
            total += patterns(layers)
    return total / _INITIALIZATIONS


def patterns(layers: list[Layer]) -> int:
    """Count the distinct columns of codes, `images x units`, of at most 16 images."""
    seen = np.zeros(2**_IMAGES, bool)
    for layer in layers:
        codes = layer.codes.cpu().numpy()
        if codes.dtype != bool:
            codes = np.unpackbits(codes, axis=1, count=layer.units)
        columns = np.zeros(layer.units, np.uint16)
        for image, row in enumerate(codes):
            columns |= row.astype(np.uint16) << np.uint16(image)
        seen[columns] = True
    return int(seen.sum())
