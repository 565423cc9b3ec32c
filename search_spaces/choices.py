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
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.errors import InvalidArgument
from search_spaces.user_space import UserSpace

#: (input shape, number of classes) to a network with Choice blocks
Network = Callable[[Sequence[int], int], nn.Module]


@dataclass
class _Constructor:
    """One run of a network's constructor: what it is told, and what it asks."""

    config: Mapping[str, Any] | None = None
    decisions: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def choose(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self.decisions:
            raise InvalidArgument(f"name={name!r}: two choices have this name; give each its own.")
        self.decisions[name] = tuple(choices)
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


def _choose(name: str, choices: Sequence[Any]) -> Any:
    if not choices:
        raise InvalidArgument(f"choice {name!r}: nothing to choose from.")
    constructor = _running.get()
    return constructor.choose(name, choices) if constructor else choices[0]


class IntegerChoice(int):
    """An integer out of several: channels, a kernel size, a number of repetitions.

    It is an `int` and can be used as one.

    Args:
        name: of the decision.
        options: what can be chosen.
    """

    def __new__(cls, name: str, options: Sequence[int]) -> "IntegerChoice":
        """The chosen option."""
        return super().__new__(cls, _choose(name, tuple(options)))

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """Pickle as the plain number."""
        return int, (int(self),)


class LayerChoice(nn.Module):
    """One layer out of several, all of which take and give the same shapes.

    Args:
        name: of the decision.
        layers: {label: layer}; a layer is a module, or a function without arguments that
            returns one (then only the chosen one is made).
    """

    def __init__(self, name: str, layers: Mapping[str, nn.Module | Callable[[], nn.Module]]):
        super().__init__()
        layer = layers[_choose(name, tuple(layers))]
        self.layer = layer if isinstance(layer, nn.Module) else layer()

    def forward(self, *inputs: Any) -> Any:
        """What the chosen layer gives."""
        return self.layer(*inputs)


class InputChoice(nn.Module):
    """Some of several tensors of the same shape; their sum where more than one is taken.

    Args:
        name: of the decision.
        inputs: how many tensors there are.
        take: how many of them to choose.
    """

    def __init__(self, name: str, inputs: int, take: int = 1):
        super().__init__()
        if not 1 <= take <= inputs:
            raise InvalidArgument(f"choice {name!r}: take={take} is not in 1..{inputs}.")
        self.taken: tuple[int, ...] = _choose(
            name, tuple(itertools.combinations(range(inputs), take))
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """Tensors of one shape to one of that shape."""
        total = inputs[self.taken[0]]
        for i in self.taken[1:]:
            total = total + inputs[i]
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
    return UserSpace(name, constructor.decisions, _Builder(network))


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
