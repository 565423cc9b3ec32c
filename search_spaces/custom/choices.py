"""Choice blocks: an existing `torch.nn.Module` becomes a search space by replacing a few layers.

A network class uses the blocks in its constructor. `from_module` runs the constructor once to
see which decisions it makes, and again for every architecture, then with the choices of that
architecture. Outside of that, each block takes its first choice, so the class works alone too.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from search_spaces.architecture import Architecture, Kind
from search_spaces.custom.user_space import UserSpace
from search_spaces.errors import InvalidArgument
from search_spaces.weight_sharing.supernet import Mixture, Supernet

_MAX_NETWORKS = 64  # of a supernet, one for each combination of integers

#: (input shape, number of classes) to a network with Choice blocks
Network = Callable[[Sequence[int], int], nn.Module]


@dataclass
class _Constructor:
    """One run of a network's constructor: what it is told, and what it asks.

    With `shared` it makes blocks that hold all their choices, and keeps them in `blocks`.
    """

    config: Mapping[str, Any] | None = None
    shared: bool = False
    decisions: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    blocks: dict[str, "_Block"] = field(default_factory=dict)

    def choose(self, name: str, choices: Sequence[Any], kind: Kind) -> Any:
        if name in self.decisions:
            raise InvalidArgument(f"name={name!r}: two choices have this name; give each its own.")
        self.decisions[name], self.kinds[name] = tuple(choices), kind
        if self.config is None:
            return choices[0]
        if self.config.get(name, self) not in choices:
            raise InvalidArgument(
                f"name={name!r}: which decisions there are, or what can be chosen, depends on"
                " another choice. Construct every Choice block in every case, and use it or not."
            )
        return self.config[name]


_running: ContextVar[_Constructor | None] = ContextVar("_running", default=None)


@contextmanager
def _constructing(constructor: _Constructor) -> Iterator[None]:
    token = _running.set(constructor)
    try:
        yield
    finally:
        _running.reset(token)


class _Block(nn.Module):
    """A Choice block that is a module; in a supernet it holds all its choices.

    Attributes:
        path: in a supernet, the index of the choice that runs, or the weights of all of them.
    """

    path: int | Tensor = 0
    choice_name: str = ""
    kind: ClassVar[Kind]

    def _chosen(self, name: str, choices: Sequence[Any]) -> Any:
        """The choice that is made for this block; None where all are kept."""
        chosen = _choose(name, choices, self.kind)
        constructor = _running.get()
        if constructor is None or not constructor.shared:
            return chosen
        constructor.blocks[name] = self
        self.choice_name = name
        return None

    def _along_path(self, choices: int, value: Callable[[int], Any]) -> Any:
        """The value of the choice on the path, or the weighted sum of all values."""
        if isinstance(self.path, int):
            return value(self.path)
        total = self.path[0] * value(0)
        for i in range(1, choices):
            total = total + self.path[i] * value(i)
        return total


def _choose(name: str, choices: Sequence[Any], kind: Kind) -> Any:
    if not choices:
        raise InvalidArgument(f"choice {name!r}: nothing to choose from.")
    constructor = _running.get()
    return constructor.choose(name, choices, kind) if constructor else choices[0]


class IntegerChoice(int):
    """An integer out of several: channels, a kernel size, a number of repetitions.

    It is an `int` and can be used as one.

    Args:
        name: of the decision.
        options: what can be chosen.
    """

    def __new__(cls, name: str, options: Sequence[int]) -> "IntegerChoice":
        """The chosen option."""
        return super().__new__(cls, _choose(name, tuple(options), "size"))

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """Pickle as the plain number."""
        return int, (int(self),)


class LayerChoice(_Block):
    """One layer out of several, all of which take and give the same shapes.

    Args:
        name: of the decision.
        layers: {label: layer}; a layer is a module, or a function without arguments that
            returns one (then only the chosen one is made).
    """

    kind: ClassVar[Kind] = "operation"

    def __init__(self, name: str, layers: Mapping[str, nn.Module | Callable[[], nn.Module]]):
        super().__init__()
        chosen = self._chosen(name, tuple(layers))
        kept = list(layers.values()) if chosen is None else [layers[chosen]]
        made = [layer if isinstance(layer, nn.Module) else layer() for layer in kept]
        self.layer = nn.ModuleList(made) if chosen is None else made[0]

    def forward(self, *inputs: Any) -> Any:
        """What the chosen layer gives."""
        if not isinstance(self.layer, nn.ModuleList):
            return self.layer(*inputs)
        layers = self.layer
        return self._along_path(len(layers), lambda i: layers[i](*inputs))


class InputChoice(_Block):
    """Some of several tensors of the same shape; their sum where more than one is taken.

    Args:
        name: of the decision.
        inputs: how many tensors there are.
        take: how many of them to choose.
    """

    kind: ClassVar[Kind] = "wiring"

    def __init__(self, name: str, inputs: int, take: int = 1):
        super().__init__()
        if not 1 <= take <= inputs:
            raise InvalidArgument(f"choice {name!r}: take={take} is not in 1..{inputs}.")
        choices = tuple(itertools.combinations(range(inputs), take))
        self.taken: tuple[int, ...] | None = self._chosen(name, choices)
        self.choices = choices

    def forward(self, *inputs: Tensor) -> Tensor:
        """Tensors of one shape to one of that shape."""
        if self.taken is not None:
            return _sum([inputs[i] for i in self.taken])
        total: Tensor = self._along_path(
            len(self.choices), lambda k: _sum([inputs[i] for i in self.choices[k]])
        )
        return total


def _sum(values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


@dataclass(frozen=True)
class _Builder:
    network: Network

    def __call__(
        self, config: Mapping[str, Any], input_shape: Sequence[int], num_classes: int
    ) -> nn.Module:
        # The caller may have gradients switched off; they tell which layers are unused.
        with torch.inference_mode(False), torch.enable_grad():
            return self._build(config, input_shape, num_classes)

    def _build(
        self, config: Mapping[str, Any], input_shape: Sequence[int], num_classes: int
    ) -> nn.Module:
        constructor = _Constructor(config)
        with _constructing(constructor):
            module = self.network(input_shape, num_classes)
        if constructor.decisions.keys() != config.keys():
            missing = ", ".join(config.keys() - constructor.decisions.keys())
            raise InvalidArgument(
                f"network: the choices {missing} were not made this time. Construct every Choice"
                " block in every case, and use it or not."
            )
        return _without_unused(module, input_shape)

    def supernet(
        self, space: UserSpace, input_shape: Sequence[int], num_classes: int, affine: bool
    ) -> "ChoiceSupernet":
        return ChoiceSupernet(space, self.network, input_shape, num_classes, affine)


def _blocks(network: nn.Module) -> list[_Block]:
    """The blocks of a supernet's network, copies that its constructor made too."""
    return [m for m in network.modules() if isinstance(m, _Block) and m.choice_name]


class ChoiceSupernet(Supernet):
    """The network of `from_module` with all choices in it.

    Slots are the LayerChoice and InputChoice blocks. Weights of different shapes are not shared:
    there is one network for each combination of the IntegerChoice values. Layers, in the sense
    of `Supernet.layers`, are the network's direct submodules in the order of construction.

    Args:
        space: of the network.
        network: see `from_module`.
        input_shape: (channels, height, width) of one image.
        num_classes: number of logits.
        affine: whether batch normalization in the LayerChoice blocks has scale and shift.

    Raises:
        InvalidArgument: when there are too many combinations of IntegerChoice values.
    """

    def __init__(
        self,
        space: UserSpace,
        network: Network,
        input_shape: Sequence[int],
        num_classes: int,
        affine: bool,
    ):
        super().__init__(space)
        made = _Constructor(shared=True)
        with _constructing(made):
            network(input_shape, num_classes)
        self.slots = tuple(d for d in space.decisions if d.name in made.blocks)
        integers = [d for d in space.decisions if d.name not in made.blocks]
        combinations = list(itertools.product(*(d.choices for d in integers)))
        if len(combinations) > _MAX_NETWORKS:
            raise InvalidArgument(
                f"space={space.name!r}: {len(combinations)} combinations of IntegerChoice values,"
                f" each of which needs weights of its own; at most {_MAX_NETWORKS} are made. Use"
                " fewer, or LayerChoice, whose weights are shared."
            )
        self._integers = [d.name for d in integers]
        self._numbers = {values: i for i, values in enumerate(combinations)}
        self.networks = nn.ModuleList()
        for values in combinations:
            config = {d.name: d.choices[0] for d in space.decisions}
            made = _Constructor(
                config | dict(zip(self._integers, values, strict=True)), shared=True
            )
            with _constructing(made):
                module = network(input_shape, num_classes)
            for block in _blocks(module):
                for name, layer in block.named_children():
                    setattr(block, name, self._with_shared_norms(layer, affine))
            self.networks.append(self._with_shared_norms(module, None))
            if any(is_lazy(p) for p in module.parameters()):  # whose shapes are not known yet
                every = {d.name: torch.ones(len(d.choices)) for d in self.slots}
                with torch.no_grad():
                    self._run(len(self.networks) - 1, torch.rand(2, *input_shape), every)
        self.layers = max(len(list(net.children())) for net in self.networks) - 1

    def child(self, x: Tensor, arch: Architecture) -> Tensor:
        """The network of the architecture's integers, its blocks set to the architecture."""
        config = self.space.to_config(arch)
        number = self._numbers[tuple(config[name] for name in self._integers)]
        paths = {slot.name: slot.choices.index(config[slot.name]) for slot in self.slots}
        return self._run(number, x, paths)

    def mixed(self, x: Tensor, mixture: Mixture) -> Tensor:
        """All choices of every block; only where there is no IntegerChoice."""
        if len(self.networks) > 1:
            raise InvalidArgument(
                f"mixture: {', '.join(self._integers)} cannot be mixed; use LayerChoice instead of"
                " IntegerChoice."
            )
        paths = {slot.name: w for slot, w in zip(self.slots, mixture, strict=True)}
        return self._run(0, x, paths)

    def _run(self, number: int, x: Tensor, paths: Mapping[str, int | Tensor]) -> Tensor:
        blocks = _blocks(self.networks[number])
        for block in blocks:
            block.path = paths[block.choice_name]
        try:
            logits: Tensor = self.networks[number](x)
        finally:
            for block in blocks:
                block.path = 0  # a mixture's weights are not kept
        return logits

    def modules_after(self, layer: int) -> list[nn.Module]:
        """See `Supernet`; the last of the direct submodules is always among them."""
        found: list[nn.Module] = []
        for net in self.networks:
            parts = list(net.children())
            found += parts[min(layer + 1, len(parts) - 1) :]
        return found


def from_module(name: str, network: Network) -> UserSpace:
    """The space of a network that is written with Choice blocks.

    Args:
        name: what the space is called in run folders.
        network: the network's class, or a function, called with the input shape (channels,
            height, width) and the number of classes. It must construct the same Choice blocks
            in the same way each time. Layers whose parameters cannot influence its output in
            evaluation mode (the layer before an input that is not taken) are removed from it.

    Raises:
        InvalidArgument: when the network has no Choice block, or two of the same name.

    Example:
        >>> from torch import nn
        >>> class Net(nn.Sequential):
        ...     def __init__(self, input_shape, num_classes):
        ...         width = IntegerChoice("width", (8, 16))
        ...         super().__init__(
        ...             nn.Conv2d(input_shape[0], width, 3),
        ...             LayerChoice("activation", {"relu": nn.ReLU, "silu": nn.SiLU}),
        ...             nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
        >>> space = from_module("net", Net)
        >>> [space.to_string(arch) for arch in space][1]
        'width=8,activation=silu'
    """
    constructor = _Constructor()
    with _constructing(constructor):
        network((3, 32, 32), 10)
    if not constructor.decisions:
        raise InvalidArgument(
            f"network: {name} constructs no Choice block. Use LayerChoice, InputChoice or"
            " IntegerChoice for what shall be searched."
        )
    builder = _Builder(network)
    return UserSpace(
        name,
        constructor.decisions,
        builder,
        supernet=builder.supernet,
        kinds=constructor.kinds,
    )


def _without_unused(module: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """`module`, layers whose parameters cannot influence its output replaced by identities.

    A layer stays where its absence would change or break the network.
    """
    training = module.training
    module.eval()
    images = torch.rand(2, *input_shape)
    expected = module(images)
    expected.sum().backward()
    unused = [
        name
        for name, layer in module.named_modules()
        if name
        and any(True for _ in layer.parameters())
        and all(parameter.grad is None for parameter in layer.parameters())
    ]
    module.zero_grad(set_to_none=True)
    removed: list[str] = []
    for name in unused:
        if any(name.startswith(f"{outer}.") for outer in removed):
            continue
        parent, _, attribute = name.rpartition(".")
        owner, layer = module.get_submodule(parent), module.get_submodule(name)
        setattr(owner, attribute, nn.Identity())
        if _same(module, images, expected):
            removed.append(name)
        else:
            setattr(owner, attribute, layer)
    return module.train(training)


def _same(module: nn.Module, images: Tensor, expected: Tensor) -> bool:
    try:
        with torch.no_grad():
            return torch.allclose(module(images), expected)
    except (RuntimeError, TypeError, AttributeError):
        return False
