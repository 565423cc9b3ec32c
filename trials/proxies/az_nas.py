"""AZ-NAS: what becomes of the images on their way through the blocks of a network.

Lee, Ham: AZ-NAS, Assembling Zero-Cost Proxies for Network Architecture Search (CVPR 2024),
section 3. h_0 is what enters the first block, h_1, h_2, ... what the blocks give: four dimensions,
batch x channels x height x width. Three numbers are taken of them, each a proxy; the paper's score
is the `rank_aggregate` of the three and of the MACs, among the networks that are compared.

Blocks are the modules that have modules of their own, of those that the network is a sequence (or
list, or dict) of: the cells and residual blocks of NAS-Bench-201, 17 of them. Where that makes
fewer than two maps, the network is taken for a plain sequence of convolutions: h_0 is what the
first one gives.

Where we differ from the authors' code: images are those given, not normal noise. Eigenvalues that
rounding made negative are 0, so that they do not spoil the sum.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from search_spaces.errors import InvalidArgument
from trials.proxies.gradients import rankable
from trials.proxies.initialization import kaiming, reinitialize
from trials.proxies.preserving import untouched

_IMAGES = 64
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def expressivity(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Compute E = sum_i e_i, how evenly the channels of all h_i are used; higher is better.

    e_i is the `spread` of h_i. Weights are He's normal ones with a seed of their own: those that
    the network has play no part. Batch normalization is in training mode.

    Args:
        network: maps `batch x channels x height x width` to logits; left as it was found.
        images: `batch x channels x height x width`, of which the first 64 are used.
        labels: not used.

    Returns:
        -inf where some h_i is constant or not finite.

    Raises:
        InvalidArgument: for a network with fewer than two h_i.
    """
    return rankable(sum(_spreads(network, images)))


def progressivity(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Compute P = min_i (e_i - e_(i-1)), the smallest gain of a block; higher is better.

    Arguments, result and errors are those of `expressivity`.
    """
    e = _spreads(network, images)
    gains = [after - before for before, after in itertools.pairwise(e)]
    return rankable(min(gains)) if all(map(math.isfinite, gains)) else -math.inf


def trainability(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Compute T = mean_i t_i, how well the blocks keep the size of gradients; higher is better.

    g is of the shape of h_i, of random signs; u = g dh_i / dh_(i-1), zeros where a block does not
    read what the one before gives; t_i is their `preservation`. Arguments and errors are those of
    `expressivity`.

    Returns:
        -inf where a block passes the gradients on as they are, or one is not finite.
    """
    signs = torch.Generator().manual_seed(0)
    with untouched(network, images.device), torch.enable_grad():
        maps = _maps(network, images)
        t = []
        for before, after in itertools.pairwise(maps):
            g = torch.randint(0, 2, after.shape, generator=signs).to(after) * 2 - 1
            u = None
            if after.requires_grad:
                (u,) = torch.autograd.grad(after, before, g, retain_graph=True, allow_unused=True)
            t.append(preservation(torch.zeros_like(before) if u is None else u, g))
    return rankable(sum(t) / len(t))


def spread(h: Tensor) -> float:
    """Compute e = -sum_k w_k ln(w_k + 1e-8), w the eigenvalues of the covariance, made to sum to 1.

    Args:
        h: `batch x channels x height x width`; the covariance is that of the channels, over the
            others.

    Returns:
        NaN where h is constant or not finite.
    """
    rows = h.detach().transpose(0, 1).flatten(1)
    covariance = torch.cov(rows, correction=0).double().reshape(len(rows), len(rows))
    if not torch.isfinite(covariance).all():
        return math.nan
    w = torch.linalg.eigvalsh(covariance).clamp(min=0)
    w = w / w.sum()
    return float(-(w * (w + 1e-8).log()).sum())


def preservation(u: Tensor, g: Tensor) -> float:
    """Compute t = 2 - s - 1 / (s + 1e-6), s the largest singular value of M; 0 is the best.

    M = u^T g / (batch height width) relates the channels before a block to those after it. Where
    the block lowers the resolution, u's pixels that come together count as channels.

    Args:
        u: gradients before the block, `batch x channels x height x width`.
        g: gradients after it, of this form.

    Returns:
        -inf where u equals g: the block does nothing.
    """
    if u.shape == g.shape and torch.equal(u, g):
        return -math.inf
    (height, width), (h, w) = u.shape[2:], g.shape[2:]
    factor = max(-(-height // h), -(-width // w))
    u = functional.pad(u, (0, w * factor - width, 0, h * factor - height))
    u = functional.pixel_unshuffle(u, factor)
    m = u.transpose(0, 1).flatten(1) @ g.transpose(0, 1).flatten(1).T / (g.numel() / g.shape[1])
    if not torch.isfinite(m).all():
        return math.nan
    s = float(torch.linalg.matrix_norm(m.double(), 2))
    return 2 - s - 1 / (s + 1e-6)


def _spreads(network: nn.Module, images: Tensor) -> list[float]:
    with untouched(network, images.device), torch.no_grad():
        return [spread(h) for h in _maps(network, images)]


def _maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Run a network with new weights, return h_0, h_1, ...; within `untouched`."""
    network.train()
    reinitialize(network, kaiming)
    for parameter in network.parameters():
        parameter.requires_grad_(False)  # only gradients between maps are wanted
    seen: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, inputs: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or output.ndim != 4:
            return None
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_()
        seen.append((module, output))
        return output.clone()  # what follows may write into it

    parts = set(_parts(network))
    convolutions = {module for module in network.modules() if isinstance(module, _ConvNd)}
    for module in parts | convolutions:
        module.register_forward_hook(keep)
    network(images[:_IMAGES].clone())
    maps = _of_blocks([(part, h) for part, h in seen if part in parts])
    if len(maps) < 2:
        maps = [h for module, h in seen if module in convolutions]
    if len(maps) < 2:
        raise InvalidArgument(
            f"{type(network).__name__} has {len(maps)} maps of batch x channels x height x width"
            " after its blocks or convolutions; az_nas needs at least two. Choose another proxy."
        )
    return maps


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield what a network is made of: its children, and those of containers among them."""
    for child in module.children():
        if isinstance(child, _CONTAINERS):
            yield from _parts(child)
        else:
            yield child


def _of_blocks(seen: list[tuple[nn.Module, Tensor]]) -> list[Tensor]:
    """Return what the blocks gave, and first what came before them; nothing without blocks."""
    blocks = [i for i, (part, _) in enumerate(seen) if next(part.children(), None) is not None]
    before = [i - 1 for i in blocks[:1] if i]
    return [seen[i][1] for i in before + blocks]
