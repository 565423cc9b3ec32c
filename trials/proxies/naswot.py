"""NASWOT: how well a network tells the images of a batch apart before it is trained.

Mellor, Turner, Storkey, Crowley: Neural Architecture Search without Training (ICML 2021). At
initialization a network of rectifiers gives each image i a binary code c_i: which rectified units
are on. With N_A units in all, K_ij = N_A - hamming(c_i, c_j), and the score is ln |det K|.

Where we differ from the authors' code: it counts every module whose class name contains "ReLU",
so a block of that name and the ReLU in it both (on NAS-Bench-201 that adds about 128 ln 2 to the
scores and leaves the ranking as it is); we count each application of a rectifier once. It finds
dead branches by a backward pass; we follow the operations of the one forward pass back from the
output. Both count what is multiplied by zero; behind a `detach` only we do.
"""

import math
from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trials.proxies.rectifiers import live_layers

_EXACT = 2**20  # units whose signs float32 adds up exactly
_WORDS = 512  # of 64 units each; x 128 images they fit into a core's second-level cache


def score(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Compute ln |det K|; higher is better, scores of equally large batches compare.

    Rectifiers are ReLU, ReLU6, leaky, randomized and parametric ReLU, and clamp, hardtanh and
    threshold at 0, as a module, as a function or in place; a unit is on where its input is
    above 0. Batch normalization is in training mode.

    Args:
        network: maps `batch x channels x height x width` to logits; left as it was found.
        images: `batch x channels x height x width`; the paper takes 128 without augmentation.
        labels: not used.

    Returns:
        -inf where K is singular (equal images, say) or a live rectifier's input is not finite.

    Raises:
        InvalidArgument: for a network without rectifiers.
    """
    layers = live_layers(network, images)
    if not all(layer.finite for layer, _ in layers):
        return -math.inf
    by_times: dict[int, list[Tensor]] = defaultdict(list)
    units = 0
    for layer, times in layers:
        by_times[times].append(layer.codes)
        units += times * layer.units
    distances = sum(times * hamming(torch.cat(codes, 1)) for times, codes in by_times.items())
    return log_determinant(units - np.asarray(distances))


def hamming(codes: Tensor) -> NDArray[np.int64]:
    """Count the units in which the codes of each pair of images differ.

    Args:
        codes: `images x units` bool, or `images x bytes` uint8 of 8 units each.

    Returns:
        `images x images`, exact.
    """
    if codes.dtype == torch.bool:
        agreement = torch.zeros(len(codes), len(codes), dtype=torch.float64, device=codes.device)
        for part in torch.split(codes, _EXACT, dim=1):
            signs = part.to(torch.float32).mul_(2).sub_(1)
            agreement += signs @ signs.T
        return ((codes.shape[1] - agreement) / 2).long().cpu().numpy()
    number, length = codes.shape
    words = np.zeros((number, -(-length // 64) * 8), np.uint64)
    words.view(np.uint8)[:, :length] = codes.numpy()
    distances = np.zeros((number, number), np.int64)
    for start in range(0, words.shape[1], _WORDS):
        block = np.ascontiguousarray(words[:, start : start + _WORDS])
        differ, ones = np.empty_like(block), np.empty(block.shape, np.uint8)
        for i in range(number - 1):
            left = number - 1 - i
            np.bitwise_xor(block[i + 1 :], block[i], out=differ[:left])
            np.bitwise_count(differ[:left], out=ones[:left])
            distances[i, i + 1 :] += np.add.reduce(ones[:left], axis=1, dtype=np.uint16)
    return distances + distances.T


def log_determinant(kernel: NDArray[np.int64]) -> float:
    """Compute ln |det K| of a symmetric, positive semidefinite K; -inf where it is singular."""
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(kernel.astype(np.float64)))
    pivots = factor.diagonal().square()
    rounding = len(kernel) * float(kernel.diagonal().max()) * torch.finfo(torch.float64).eps
    if failed or pivots.min() <= rounding:
        return -math.inf
    return float(pivots.log().sum())
