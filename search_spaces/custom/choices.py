"""Choice blocks: an existing `torch.nn.Module` becomes a search space by replacing a few layers.

A network class uses the blocks in its constructor. `module_space.from_module` runs that once to
see which decisions it makes, and again for every architecture, then with the choices of that
architecture. Outside of that, each block takes its first choice, so the class works alone too.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from search_spaces.architecture import Kind
from search_spaces.errors import InvalidArgument


@dataclass
class Constructor:
    """One run of a network's constructor: what it is told, and what it asks.

    With `shared` it makes blocks that hold all their choices, and keeps them in `blocks`.
    """

    config: Mapping[str, Any] | None = None
    shared: bool = False
    decisions: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    blocks: dict[str, "Block"] = field(default_factory=dict)

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


_running: ContextVar[Constructor | None] = ContextVar("_running", default=None)


@contextmanager
def constructing(constructor: Constructor) -> Iterator[None]:
    token = _running.set(constructor)
    try:
        yield
    finally:
        _running.reset(token)


class Sampled(NamedTuple):
    """The index of a choice, of those with these weights; see `Supernet.sampled`."""

    choice: int
    weights: Tensor


class Block(nn.Module):
    """A Choice block that is a module; in a supernet it holds all its choices.

    Attributes:
        path: in a supernet, the index of the choice that runs, or the weights of all of them,
            or both.
        evaluate: in a supernet, how a mixture is computed: at once, or again for the gradients.
    """

    path: int | Tensor | Sampled = 0
    evaluate: Callable[[Callable[[], Any]], Any] | None = None
    choice_name: str = ""
    kind: ClassVar[Kind]

    def _chosen(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the choice that is made for this block; None where all are kept."""
        chosen = _choose(name, choices, self.kind)
        constructor = _running.get()
        if constructor is None or not constructor.shared:
            return chosen
        constructor.blocks[name] = self
        self.choice_name = name
        return None

    def _along_path(self, choices: int, value: Callable[[int], Any]) -> Any:
        """Return the value of the choice on the path, or the weighted sum of all values."""
        path = self.path
        if isinstance(path, int):
            return value(path)
        function = partial(_weighted, path, choices, value)
        return self.evaluate(function) if self.evaluate else function()


def _weighted(path: Tensor | Sampled, choices: int, value: Callable[[int], Any]) -> Any:
    if isinstance(path, Sampled):
        weight = path.weights[path.choice]
        return weight * value(path.choice) + (path.weights.sum() - weight)
    total = path[0] * value(0)
    for i in range(1, choices):
        total = total + path[i] * value(i)
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
        """Return the chosen option."""
        return super().__new__(cls, _choose(name, tuple(options), "size"))

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """Pickle as the plain number."""
        return int, (int(self),)


class LayerChoice(Block):
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
        modules = [layer if isinstance(layer, nn.Module) else layer() for layer in kept]
        self.layer = nn.ModuleList(modules) if chosen is None else modules[0]

    def forward(self, *inputs: Any) -> Any:
        """Run the chosen layer."""
        if not isinstance(self.layer, nn.ModuleList):
            return self.layer(*inputs)
        layers = self.layer
        return self._along_path(len(layers), lambda i: layers[i](*inputs))


class InputChoice(Block):
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
        """Map tensors of one shape to one of that shape."""
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
