"""What the choices of a mixture add up to, with the work that they have in common done once.

All edges out of one node read the same value, so of what stands on them much is the same:

- ReLU and pooling have no weights: each kind is computed once for a value, not once an edge.
- Batch normalization without scale and shift gives the same for the same input. So a pooling
  and its normalization are one value for all edges; each edge keeps its own running statistics.
- A weight of the mixture is multiplied into the scale of the normalization that ends a choice:
  no pass over the output for it, neither forward nor backward.
- A convolution of dilation 2 and stride 2 reads only every second pixel, and is one of dilation 1
  there. One of dilation 2 and stride 1 is one of dilation 1 on each quarter of the pixels; those
  are taken *apart* once for all edges, and put together after their choices are added up. A CPU
  computes that several times faster (oneDNN has no fast code for a dilated depthwise backward).
- Choices of the same layers can be *stacked*: their channels lie side by side, and a layer of all
  of them is one grouped convolution or one normalization. That saves calls, which is what counts
  on a GPU; on a CPU it pays only where a stack is small, as others fall out of its cache.

Weights stay the parameters of each choice's own module; a stack of them is made for each batch.
Hooks of modules inside a choice are not called.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.weight_sharing.shared_norm import SharedNorm

_SMALL = 1 << 15  # numbers of a value; up to that a CPU spends its time on calls


#: of each layer all but its weights; None where that is not known
Kinds = tuple[tuple[object, ...] | None, ...]
Pixels = Literal["all", "quarters", "second"]


class Choice(NamedTuple):
    """What one choice of a slot adds to a value.

    Args:
        step: the number of that value.
        weight: (slot, choice), the place of its weight in the mixture.
        name: of its module; "" where it passes on what it reads.
    """

    step: int
    weight: tuple[int, int]
    name: str


@dataclass(frozen=True)
class Bundle:
    """Choices that read the same value and whose layers differ in nothing but their weights.

    Args:
        choices: one or several.
        kinds: what their layers compute; empty where one passes on what it reads; (None,) for a
            module of which nothing is known.
        pixels: on which their layers can be computed: all at a time; each quarter on its own;
            or only every second one, as the first convolution reads no others.
    """

    choices: tuple[Choice, ...]
    kinds: Kinds
    pixels: Pixels

    @property
    def weights(self) -> list[tuple[int, int]]:
        """(slot, choice) of each choice."""
        return [choice.weight for choice in self.choices]


def bundled(choices: Iterable[Choice], operations: nn.ModuleDict) -> list[Bundle]:
    """Put choices that read the same value, and have the same kinds of layers, together."""
    bundles: list[Bundle] = []
    together: dict[Kinds, list[Choice]] = {}
    for choice in choices:
        layers = _layers(operations[choice.name]) if choice.name else []
        kinds = tuple(_kind(layer) for layer in layers)
        if None in kinds:
            bundles.append(Bundle((choice,), (None,), "all"))
        else:
            together.setdefault(kinds, []).append(choice)
    for same, members in together.items():
        layers = _layers(operations[members[0].name]) if same else []
        bundles.append(Bundle(tuple(members), same, _pixels(layers)))
    return bundles


def _layers(module: nn.Module) -> list[nn.Module]:
    """List what a module computes one after the other."""
    if type(module).forward is not nn.Sequential.forward:
        return [module]
    return [layer for part in module.children() for layer in _layers(part)]


def _kind(layer: nn.Module) -> tuple[object, ...] | None:
    """Describe all of a layer but its weights; None where that is not known."""
    forward = type(layer).forward
    if isinstance(layer, SharedNorm):
        known = layer.track_running_stats and layer.momentum is not None
        return (SharedNorm, layer.num_features, layer.eps, layer.affine) if known else None
    if isinstance(layer, nn.Conv2d) and forward is nn.Conv2d.forward:
        known = layer.bias is None and not isinstance(layer.padding, str)
        return (nn.Conv2d, str(layer)) if known and layer.padding_mode == "zeros" else None
    if forward in (nn.ReLU.forward, nn.ReLU6.forward):
        return None if layer.inplace else (forward,)
    if forward in (nn.MaxPool2d.forward, nn.AvgPool2d.forward):
        return (forward, str(layer))
    return None


def _pixels(layers: Sequence[nn.Module]) -> Pixels:
    """Return the pixels on which layers can be computed; see `Bundle`."""
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    if not any(_is_thin(conv) for conv in convs):
        return "all"
    pools = any(isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) for layer in layers)
    strided = [conv.stride == (2, 2) for conv in convs]
    if _is_thin(convs[0]) and strided[0] and not any(strided[1:]) and not pools:
        return "second"
    keep = (c.stride == (1, 1) and (c.kernel_size == (1, 1) or _is_thin(c)) for c in convs)
    return "quarters" if all(keep) and not pools else "all"


def _is_thin(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution reads only every second pixel for one that it writes."""
    even = all(not isinstance(padding, str) and padding % 2 == 0 for padding in conv.padding)
    return conv.dilation == (2, 2) and even


class Sums:
    """The sums over all choices that read one value, for each slot that they belong to.

    Args:
        x: the value, `batch x channels x height x width`.
        operations: the modules by name.
    """

    def __init__(self, x: Tensor, operations: nn.ModuleDict):
        self.x, self.operations = x, operations
        self.stacked = x.device.type != "cpu" or x.numel() <= _SMALL
        self.quartered = not self.stacked and x.ndim == 4 and not any(n % 2 for n in x.shape[2:])
        self._once: dict[tuple[object, ...], Tensor] = {}  # what the first layers give
        self._sums: dict[int, Tensor] = {}
        self._apart: dict[int, Tensor] = {}  # the same of quarters of the pixels

    def add(self, bundle: Bundle, weights: Sequence[Tensor]) -> None:
        """Add the outputs of a bundle's choices, each times its weight."""
        choices = bundle.choices
        if bundle.kinds == (None,):
            output = self.operations[choices[0].name](self.x)
            return self._put(choices, [weights[0] * output])
        chains = [_layers(self.operations[c.name]) if c.name else [] for c in choices]
        first = next((i for i, kind in enumerate(bundle.kinds) if _has_state(kind)), len(chains[0]))
        pixels = "all" if bundle.pixels == "quarters" and not self.quartered else bundle.pixels
        x = self._shared(chains[0][:first], bundle.kinds[:first], pixels)
        rest = [chain[first:] for chain in chains]
        norms = [norm for layers in rest for norm in layers if _same_for_all(norm, layers)]
        if norms:
            x, rest = _normalized(x, norms, 1), [[]] * len(choices)
        if rest[0] and self.stacked and len(choices) > 1:
            return self._put(choices, _stacked(x, rest, weights, pixels))
        outputs = (_in_turn(x, r, w, pixels) for r, w in zip(rest, weights, strict=True))
        return self._put(choices, outputs, pixels)

    def finished(self) -> dict[int, Tensor]:
        """Return {number of a value: its sum}."""
        for step, quarters in self._apart.items():
            self._put([Choice(step, (0, 0), "")], [_put_together(quarters)])
        return self._sums

    def _shared(self, layers: Sequence[nn.Module], kinds: Kinds, pixels: Pixels) -> Tensor:
        """Compute layers that have no weights, each once."""
        x = self.x
        for i, layer in enumerate(layers, start=1):
            if kinds[:i] not in self._once:
                self._once[kinds[:i]] = layer(x)
            x = self._once[kinds[:i]]
        if pixels == "all":
            return x
        if (*kinds, pixels) not in self._once:
            some = _take_apart(x) if pixels == "quarters" else x[:, :, ::2, ::2]
            self._once[(*kinds, pixels)] = some
        return self._once[(*kinds, pixels)]

    def _put(
        self, choices: Sequence[Choice], outputs: Iterable[Tensor], pixels: Pixels = "all"
    ) -> None:
        sums = self._apart if pixels == "quarters" else self._sums
        for choice, output in zip(choices, outputs, strict=True):
            before = sums.get(choice.step)
            sums[choice.step] = output if before is None else before + output


def _has_state(kind: tuple[object, ...] | None) -> bool:
    return kind is not None and kind[0] in (nn.Conv2d, SharedNorm)


def _same_for_all(layer: nn.Module, layers: Sequence[nn.Module]) -> TypeGuard[SharedNorm]:
    """Tell whether a layer is the only one, and normalizes the same for every slot."""
    alone = len(layers) == 1 and isinstance(layer, SharedNorm)
    return alone and layer.training and not layer.affine


def _in_turn(x: Tensor, layers: Sequence[nn.Module], weight: Tensor, pixels: Pixels) -> Tensor:
    """Compute layers one after the other, and multiply by a weight."""
    for i, layer in enumerate(layers):
        if isinstance(layer, SharedNorm) and i == len(layers) - 1:
            return _normalized(x, [layer], 1, [weight])
        if isinstance(layer, nn.Conv2d):
            x = _convolved(x, layer.weight, layer, layer.groups, pixels)
        else:
            x = layer(x)
    return weight * x


def _stacked(
    x: Tensor, chains: Sequence[Sequence[nn.Module]], weights: Sequence[Tensor], pixels: Pixels
) -> tuple[Tensor, ...]:
    """Compute the layers of several choices side by side; return the output of each."""
    count, side_by_side = len(chains), False
    for layers in zip(*chains, strict=True):
        conv = layers[0]
        if not side_by_side and not (isinstance(conv, nn.Conv2d) and conv.groups == 1):
            x, side_by_side = torch.cat([x] * count, dim=1), True
        if isinstance(conv, nn.Conv2d):
            groups = conv.groups * count if side_by_side else conv.groups
            x = _convolved(x, torch.cat([layer.weight for layer in layers]), conv, groups, pixels)
            side_by_side = True
        elif isinstance(conv, SharedNorm):
            last = conv is chains[0][-1]
            x = _normalized(x, layers, count, weights if last else None)
        else:
            x = conv(x)
    outputs = x.chunk(count, dim=1)
    if isinstance(chains[0][-1], SharedNorm):
        return outputs
    return tuple(w * output for w, output in zip(weights, outputs, strict=True))


def _convolved(x: Tensor, weight: Tensor, conv: nn.Conv2d, groups: int, pixels: Pixels) -> Tensor:
    """Convolve some pixels as `conv` does all, but with these weights."""
    padding, stride, dilation = conv.padding, conv.stride, conv.dilation
    if _is_thin(conv) and (pixels == "quarters" or (pixels == "second" and stride == (2, 2))):
        padding, stride, dilation = tuple(int(p) // 2 for p in padding), (1, 1), (1, 1)
    return functional.conv2d(x, weight, None, stride, padding, dilation, groups)


def _normalized(
    x: Tensor, norms: Sequence[SharedNorm], parts: int, weights: Sequence[Tensor] | None = None
) -> Tensor:
    """Normalize in training or by running statistics, and multiply by weights.

    Args:
        x: for each normalization its channels side by side; or, with `parts` = 1, what is the
            input of all of them.
        norms: all have the same options.
        parts: how many normalizations lie side by side.
        weights: of the mixture, one for each part.
    """
    norm = norms[0]
    scale = torch.cat([n.weight for n in norms]) if norm.affine else None
    shift = torch.cat([n.bias for n in norms]) if norm.affine else None
    if weights is not None:
        factor = torch.stack(list(weights)).repeat_interleave(norm.num_features)
        scale = factor if scale is None else factor * scale
        shift = None if shift is None else factor * shift
    if not norm.training:
        mean, var = (torch.cat([s[k] for s in map(_statistics, norms)]) for k in (0, 1))
        return functional.batch_norm(x, mean, var, scale, shift, False, 0.0, norm.eps)
    # A momentum of 1 leaves the statistics of this batch.
    mean, var = (s.repeat(parts) for s in _statistics(norm))
    y = functional.batch_norm(x, mean, var, scale, shift, True, 1.0, norm.eps)
    if norm.mode.tracking:
        _track(norms, mean.chunk(parts), var.chunk(parts))
    return y


def _track(
    norms: Sequence[SharedNorm], means: Sequence[Tensor], variances: Sequence[Tensor]
) -> None:
    """Let running statistics follow those of a batch: each its own part, or all the only one."""
    momentum = norms[0].momentum
    assert momentum is not None
    times = len(norms) // len(means)
    for k, batch in enumerate((means, variances)):
        torch._foreach_lerp_([_statistics(n)[k] for n in norms], [*batch] * times, momentum)
    counts = [n.num_batches_tracked for n in norms if n.num_batches_tracked is not None]
    torch._foreach_add_(counts, 1)


def _statistics(norm: SharedNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _take_apart(x: Tensor) -> Tensor:
    """Put the pixels of even and odd rows and columns along the batch: four images for one."""
    n, c, h, w = x.shape  # in as few steps as there can be; slices would be slow backward
    if x.is_contiguous(memory_format=torch.channels_last):
        y = x.permute(0, 2, 3, 1).view(n, h // 2, 2, w // 2, 2, c).permute(2, 4, 0, 1, 3, 5)
        return y.reshape(4 * n, h // 2, w // 2, c).permute(0, 3, 1, 2)
    y = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(3, 5, 0, 1, 2, 4)
    return y.reshape(4 * n, c, h // 2, w // 2)


def _put_together(quarters: Tensor) -> Tensor:
    """Undo `_take_apart`, and keep the order of the numbers in memory."""
    _, c, h, w = quarters.shape
    if quarters.is_contiguous(memory_format=torch.channels_last):
        y = quarters.permute(0, 2, 3, 1).view(2, 2, -1, h, w, c).permute(2, 3, 0, 4, 1, 5)
        return y.reshape(-1, 2 * h, 2 * w, c).permute(0, 3, 1, 2)
    y = quarters.reshape(2, 2, -1, c, h, w).permute(2, 3, 4, 0, 5, 1)
    return y.reshape(-1, c, 2 * h, 2 * w)
