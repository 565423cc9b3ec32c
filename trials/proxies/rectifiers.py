"""Which rectified units are on, for each image, at every rectifier that reaches the output."""

import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from search_spaces.errors import InvalidArgument
from trials.proxies.kernels import FASTER
from trials.proxies.preserving import untouched

aten = torch.ops.aten

Arguments = Sequence[Any]

_PACKED = hasattr(np, "bitwise_count")  # since NumPy 2.0: what packed codes are compared with


def _always(args: Arguments, kwargs: Mapping[str, Any]) -> bool:
    return True


def _from_zero(args: Arguments, kwargs: Mapping[str, Any]) -> bool:
    """Tell whether the lower bound of hardtanh, clamp, clamp_min and threshold is 0."""
    bound = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val", -1))
    return isinstance(bound, (int, float)) and bound == 0


#: operators with a kink at 0, below which a unit is off: function and in-place form
_RECTIFIERS: dict[Any, Callable[[Arguments, Mapping[str, Any]], bool]] = {
    aten.relu.default: _always,
    aten.relu_.default: _always,
    aten.relu6.default: _always,
    aten.relu6_.default: _always,
    aten.leaky_relu.default: _always,
    aten.leaky_relu_.default: _always,
    aten.rrelu_with_noise.default: _always,
    aten.rrelu_with_noise_.default: _always,
    aten._prelu_kernel.default: _always,
    aten.hardtanh.default: _from_zero,
    aten.hardtanh_.default: _from_zero,
    aten.clamp.default: _from_zero,
    aten.clamp_.default: _from_zero,
    aten.clamp_min.default: _from_zero,
    aten.clamp_min_.default: _from_zero,
    aten.threshold.default: _from_zero,
    aten.threshold_.default: _from_zero,
}


@dataclass
class Layer:
    """The codes of one tensor, and the rectifiers that are applied to it.

    Attributes:
        codes: `images x units`, true where a unit is on; on the CPU packed, 8 units in a byte.
        units: rectified units of an image.
        finite: whether all numbers were.
        nodes: the applications, as numbers of operations.
    """

    codes: Tensor
    units: int
    finite: bool
    nodes: list[int] = field(default_factory=list)


def live_layers(network: nn.Module, images: Tensor) -> list[tuple[Layer, int]]:
    """Find the layers of codes of a network in training mode, and the rectifiers of each.

    One forward pass without gradients, in which every operation is seen. It yields the codes
    at all rectifiers; then the operations are followed back from the output, and what does not
    take part in it is left out (also what is cut off from the gradient takes part).

    Args:
        network: maps `batch x ...` to a tensor, or to tensors in lists, tuples or dicts. It is
            left as it was found.
        images: `batch x channels x height x width`.

    Raises:
        InvalidArgument: for an empty batch, a network in which no rectifier reaches the output,
            or one that rectifies a tensor whose first dimension does not hold the images.
    """
    if len(images) == 0:
        raise InvalidArgument("images has no image; give a batch of at least 2.")
    _keep_freed_memory()
    try:
        recorder, output = _recorded(network, images, torch.channels_last)
    except RuntimeError:  # perhaps a `view` that wants the usual order in memory
        recorder, output = _recorded(network, images, torch.contiguous_format)
    alive = recorder.ancestors(output)
    layers = [(layer, len(alive.intersection(layer.nodes))) for layer in recorder.layers]
    layers = [(layer, times) for layer, times in layers if times and layer.units]
    if not layers:
        raise InvalidArgument(
            f"in the network ({type(network).__name__}) no rectifier (ReLU, ReLU6, leaky ReLU, "
            "clamp at 0, ...) reaches the output; there is nothing to score. Choose another proxy."
        )
    return layers


def _recorded(
    network: nn.Module, images: Tensor, memory_format: torch.memory_format
) -> tuple["_Recorder", Any]:
    """Run one forward pass in training mode; return its recorder and its output."""
    fits = images.ndim == 4 or memory_format is torch.contiguous_format
    images = images.detach().clone(memory_format=memory_format if fits else torch.contiguous_format)
    recorder = _Recorder(images)
    with untouched(network, images.device), torch.no_grad():
        if not all(module.training for module in network.modules()):
            network.train()
        for module in network.modules():
            if isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward:
                # It would spend time on its running statistics.
                vars(module)["track_running_stats"] = False
                vars(module)["_buffers"].update(running_mean=None, running_var=None)
        with recorder:
            return recorder, network(images)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation; knows from which other ones it takes its inputs.

    A tensor is known by its storage: so views and in-place operations need no special care. An
    operation that writes into a storage, or looks at a part of it, becomes its new origin.
    """

    def __init__(self, images: Tensor):
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch = len(images)
        self.layers: list[Layer] = []
        self.parents: list[set[int]] = [set()]  # operation 0 gives the images
        self.origin = {_storage(images): 0}
        self.seen: dict[int, tuple[weakref.ref[Tensor], int | None, Layer]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Arguments = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        origin = self.origin
        parents = {origin.get(_storage(tensor), -1) for tensor in _tensors(args, kwargs.values())}
        parents.discard(-1)
        node = len(self.parents)
        if parents and func in _RECTIFIERS and _RECTIFIERS[func](args, kwargs):
            self._layer(args[0]).nodes.append(node)
        output = FASTER.get(func, func)(*args, **kwargs)
        written = [args[i] for i in _written(func) if i < len(args)]
        changed = [_storage(tensor) for tensor in _tensors((output, kwargs.get("out")), written)]
        if parents:
            self.parents.append(parents)
            origin.update(dict.fromkeys(changed, node))
        else:  # it does not depend on the images, though an earlier tenant of the memory may have
            for storage in changed:
                origin.pop(storage, None)
        return output

    def _layer(self, x: Tensor) -> Layer:
        """Return the layer of this tensor: that of the last rectifier when it had the same input.

        Cells often rectify one tensor on several edges; the codes are taken once.
        """
        version = None if x.is_inference() else x._version  # unknown there
        if id(x) in self.seen:
            reference, seen, layer = self.seen[id(x)]
            if reference() is x and version is not None and version == seen:
                return layer
        layer = _coded(x, self.batch)
        self.layers.append(layer)
        self.seen[id(x)] = weakref.ref(x), version, layer
        return layer

    def ancestors(self, output: Any) -> set[int]:
        """Return the operations that take part in `output`, by number."""
        origins = (self.origin.get(_storage(tensor)) for tensor in _tensors((output,)))
        todo = [origin for origin in origins if origin is not None]
        numbers = set(todo)
        while todo:
            new = self.parents[todo.pop()] - numbers
            numbers |= new
            todo += new
        return numbers


def _coded(x: Tensor, batch: int) -> Layer:
    """Return the codes of a tensor before it is rectified: `batch` or `batch * parts` rows."""
    if x.ndim == 0 or len(x) % batch:
        raise InvalidArgument(
            f"a rectifier is applied to a tensor of shape {tuple(x.shape)}, whose first dimension "
            f"does not hold the {batch} images; so they cannot be told apart. Choose another proxy."
        )
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)  # any order of the units will do: this one needs no copy
    x = x.reshape(batch, -1)
    finite = bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())
    units = x.shape[1]
    if _PACKED and x.dtype in (torch.float32, torch.float64) and x.device.type == "cpu":
        return Layer(torch.from_numpy(np.packbits(x.numpy() > 0, axis=1)), units, finite)
    return Layer(x > 0, units, finite)


def _tensors(*groups: Iterable[Any]) -> list[Tensor]:
    """List the tensors in groups of values, also in nested lists, tuples and dicts."""
    tensors: list[Tensor] = []
    for value in itertools.chain(*groups):
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            tensors += _tensors(value)
        elif isinstance(value, dict):
            tensors += _tensors(value.values())
    return tensors


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@cache
def _written(func: Any) -> tuple[int, ...]:
    """Return the positions of the arguments that an operator writes into."""
    arguments = func._schema.arguments
    return tuple(i for i, a in enumerate(arguments) if a.alias_info and a.alias_info.is_write)


@cache
def _keep_freed_memory() -> None:
    """Let the C library serve blocks up to 32 MiB from memory that it has already.

    Activations are about that large, and fetching and zeroing new pages for each costs a third
    of a forward pass. glibc raises its limit (malloc(3), M_MMAP_THRESHOLD) to the size of a
    block that is freed, up to 32 MiB; to other libraries this allocation means nothing.
    """
    torch.empty(2**23 - 2**12, dtype=torch.float32)
