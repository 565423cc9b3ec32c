"""Weight sharing: one network that holds the weights of every architecture of a space.

A supernet has *slots* (an edge, a layer), each with one module for every choice. `forward(x,
architecture)` runs only the modules of that architecture, its path; `forward(x, mixture)` runs
all of them and adds their outputs up with the weights given, for differentiable search.

Bender et al.: Understanding and Simplifying One-Shot Architecture Search (ICML 2018); Guo et al.:
Single Path One-Shot NAS (ECCV 2020); Liu et al.: DARTS (ICLR 2019) for the mixture.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.errors import InvalidArgument
from search_spaces.space import SearchSpace
from search_spaces.weight_sharing.shared_norm import Normalization, SharedNorm, is_replaced

#: for each slot of a supernet one weight per choice, a 1-D tensor
Mixture = Sequence[Tensor]


class Supernet(nn.Module, ABC):
    """The shared weights of a space's architectures.

    Attributes:
        space: whose architectures it holds.
        slots: what can be chosen where: the meaning of a mixture.
        layers: how many layers it has from the input to the output, the stem and the classifier
            aside; the unit of `trials.weight_sharing.Sharing.prefix`.
        normalization: how its batch normalization works outside of training.
    """

    slots: tuple[Decision, ...]
    layers: int

    def __init__(self, space: SearchSpace):
        super().__init__()
        self.space = space
        self.normalization = Normalization()

    def forward(self, x: Tensor, path: Architecture | Mixture) -> Tensor:
        """Map images, `batch x channels x height x width`, to logits, `batch x classes`.

        Args:
            x: the images.
            path: an architecture, of which only the modules run; or a mixture: for each slot
                the weights of its choices.

        Raises:
            InvalidArchitecture: for an architecture of another space.
            InvalidArgument: for a mixture that does not fit the slots.
        """
        if isinstance(path, Architecture):
            return self.child(x, self.space.check(path))
        if not isinstance(path, Sequence) or not all(isinstance(w, Tensor) for w in path):
            raise InvalidArgument(f"path={path!r:.80} is neither an Architecture nor a mixture.")
        return self.mixed(x, self.check(path))

    def check(self, mixture: Mixture) -> Mixture:
        """Return `mixture` itself.

        Raises:
            InvalidArgument: when it does not fit the slots.
        """
        shapes = [tuple(weights.shape) for weights in mixture]
        if shapes != [(len(slot.choices),) for slot in self.slots]:
            expected = ", ".join(f"{slot.name} {len(slot.choices)}" for slot in self.slots)
            raise InvalidArgument(
                f"mixture: weights of shapes {shapes}; give one 1-D tensor for each slot:"
                f" {expected}."
            )
        return mixture

    def derive(self, mixture: Mixture) -> Architecture:
        """Return the architecture that a mixture comes down to; the inverse of a path.

        Default: the strongest choice of each slot, where the slots are the space's decisions
        ("none" too, where a space has it among its choices). Of equally strong ones it is the
        first.

        Raises:
            InvalidArgument: for a mixture that does not fit the slots.
        """
        return self.space.architecture([strongest(weights) for weights in self.check(mixture)])

    @abstractmethod
    def child(self, x: Tensor, arch: Architecture) -> Tensor:
        """Compute `forward` of an architecture."""

    @abstractmethod
    def mixed(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Compute `forward` of a mixture."""

    @abstractmethod
    def modules_after(self, layer: int) -> list[nn.Module]:
        """List the modules behind the first `layer` layers, the classifier among them."""

    def _with_shared_norms(
        self, module: nn.Module, affine: bool | None, replaced: dict[int, nn.Module] | None = None
    ) -> nn.Module:
        """Replace the batch normalization of `module`; `affine` None leaves scale and shift.

        `replaced` has what was put in the place of which module, for those that are there twice.
        """
        replaced = {} if replaced is None else replaced
        if id(module) in replaced:
            return replaced[id(module)]
        replaced[id(module)] = module
        if is_replaced(module):
            norm = SharedNorm.like(
                module, self.normalization, module.affine if affine is None else affine
            )
            replaced[id(module)] = replaced[id(norm)] = norm
            return norm
        for name, part in module._modules.items():  # named_children() gives each only once
            if part is not None:
                setattr(module, name, self._with_shared_norms(part, affine, replaced))
        return module


def strongest(weights: Tensor) -> int:
    """Return the index of the largest of some weights, the first of equal ones."""
    values: list[float] = weights.tolist()
    return values.index(max(values))


class Path(nn.Module):
    """One architecture of a supernet as a network of its own: images to logits."""

    def __init__(self, supernet: Supernet, arch: Architecture):
        super().__init__()
        self.supernet, self.arch = supernet, arch

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x channels x height x width` to `batch x classes`."""
        logits: Tensor = self.supernet(x, self.arch)
        return logits


@dataclass(frozen=True)
class Step:
    """One value of a supernet's forward pass.

    Args:
        inputs: numbers of the values before it that it is made of; 0 are the images.
        join: whether several inputs are added or concatenated along the channels.
        slot: the number of the slot that chooses its module; None: always the same one.
        like: the value whose shape the result has where no input is there; None: then this one
            is not there either.
        layer: the number of its layer; the stem has 0.
        modules: for each choice (or the only one) the name of its module; "" where the value is
            passed on as it is, None where nothing comes out.
    """

    inputs: tuple[int, ...]
    join: Literal["sum", "cat"] = "sum"
    slot: int | None = None
    like: int | None = None
    layer: int = 0
    modules: tuple[str | None, ...] = ("",)


@dataclass(frozen=True)
class Call:
    """A computation of a child: a module (or none) on values that are there.

    Calls that are equal compute the same, whatever the child: that is how children share work.

    Args:
        step: the number of its step.
        module: its name in `GraphSupernet.operations`; "" only joins its inputs, "zeros" makes
            zeros of the shape of its input.
        inputs: numbers of calls in the same list; -1 are the images.
        join: see `Step`.
    """

    step: int
    module: str
    inputs: tuple[int, ...]
    join: Literal["sum", "cat"] = "sum"


class GraphSupernet(Supernet):
    """A supernet whose forward pass is a list of steps, so that children can share their work.

    A space makes one by adding steps from the input to the output: `fixed`, `choose`, `joined`.

    Args:
        space: whose architectures it holds.
        slots: what can be chosen where.
        affine: whether batch normalization in the slots has scale and shift.
    """

    def __init__(self, space: SearchSpace, slots: Sequence[Decision], affine: bool = False):
        super().__init__(space)
        self.slots = tuple(slots)
        self.affine = affine
        self.layers = 0
        self.steps: list[Step] = []
        self.operations = nn.ModuleDict()

    # How a space builds one

    images = 0

    def fixed(self, module: nn.Module, value: int, affine: bool | None = None) -> int:
        """Add a module that every architecture has; return the number of its value.

        Args:
            module: what is computed.
            value: number of the value that it reads.
            affine: whether its batch normalization has scale and shift; None: as it is.
        """
        return self._add(Step((value,), layer=self.layers), [module], affine)

    def choose(self, slot: int, modules: Sequence[nn.Module | None], value: int) -> int:
        """Add one module for each choice of a slot (None: nothing comes out); see `fixed`."""
        return self._add(Step((value,), slot=slot, layer=self.layers), modules, self.affine)

    def joined(
        self, values: Sequence[int], join: Literal["sum", "cat"] = "sum", like: int | None = None
    ) -> int:
        """Add or concatenate values; see `Step`."""
        return self._add(Step(tuple(values), join, None, like, self.layers), [], None)

    def begin_layer(self) -> None:
        """Begin the next layer, to which what is added belongs; before the first is the stem."""
        self.layers += 1

    def _add(self, step: Step, modules: Sequence[nn.Module | None], affine: bool | None) -> int:
        number = len(self.steps) + 1
        names: list[str | None] = []
        for choice, module in enumerate(modules):
            if module is None or type(module) is nn.Identity:
                names.append(None if module is None else "")
                continue
            names.append(f"{number}_{choice}")
            self.operations[f"{number}_{choice}"] = self._with_shared_norms(module, affine)
        self.steps.append(replace(step, modules=tuple(names)) if names else step)
        return number

    # How it runs

    def selection(self, arch: Architecture) -> tuple[tuple[int, ...], ...]:
        """List the choices that an architecture takes at every slot: one, several, or none.

        Default: the slots are the space's decisions.
        """
        return tuple((choice,) for choice in arch.choices)

    def calls(
        self, arch: Architecture, numbered: dict[Call, int] | None = None
    ) -> tuple[dict[Call, int], int]:
        """List what an architecture computes.

        Args:
            arch: of the space.
            numbered: calls of other architectures, to which those of this one are added.

        Returns:
            {call: its number}, in an order in which they can be computed, and the number of the
            one that gives the logits.
        """
        numbered = {} if numbered is None else numbered
        selected = self.selection(arch)
        values: list[int | None] = [-1]

        def number(call: Call) -> int:
            return numbered.setdefault(call, len(numbered))

        for i, step in enumerate(self.steps, start=1):
            inputs = self._inputs(i, step, values, number)
            outputs = []
            for choice in (0,) if step.slot is None else selected[step.slot]:
                name = step.modules[choice]
                if inputs and name is not None:
                    alone = not name and len(inputs) == 1
                    outputs.append(inputs[0] if alone else number(Call(i, name, inputs, step.join)))
            if len(outputs) > 1:
                outputs = [number(Call(i, "", tuple(outputs)))]
            values.append(outputs[0] if outputs else None)
        output = values[-1]
        assert output is not None
        return numbered, output

    @staticmethod
    def _inputs(
        i: int, step: Step, values: Sequence[int | None], number: Callable[[Call], int]
    ) -> tuple[int, ...]:
        """List the calls that give a step's inputs, without those where nothing comes."""
        inputs = [values[j] for j in step.inputs]
        present = [value for value in inputs if value is not None]
        like = present[0] if present else None if step.like is None else values[step.like]
        if like is None:
            return ()
        if step.join == "cat":
            zeros = Call(i, "zeros", (like,))
            return tuple(number(zeros) if value is None else value for value in inputs)
        return tuple(present) or (number(Call(i, "zeros", (like,))),)

    def compute(self, call: Call, inputs: Sequence[Tensor]) -> Tensor:
        """Compute the value of a call, from those of its inputs."""
        if call.module == "zeros":
            return inputs[0] * 0
        x = _join(inputs, call.join)
        return self.operations[call.module](x) if call.module else x

    def child(self, x: Tensor, arch: Architecture) -> Tensor:
        """Compute only what the logits need."""
        numbered, output = self.calls(arch)
        values = {-1: x}
        for i, call in needed(numbered, [output]).items():
            values[i] = self.compute(call, [values[j] for j in call.inputs])
        return values[output]

    def mixed(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Run every module of a slot; its outputs are added with the slot's weights."""
        values: list[Tensor] = [x]
        for step in self.steps:
            joined = _join([values[j] for j in step.inputs], step.join)
            outputs = [
                self.operations[name](joined) if name else joined
                for name in step.modules
                if name is not None
            ]
            if step.slot is not None:
                weights = [
                    weight
                    for weight, name in zip(mixture[step.slot], step.modules, strict=True)
                    if name is not None
                ]
                outputs = [w * output for w, output in zip(weights, outputs, strict=True)]
            values.append(_join(outputs, "sum"))
        return values[-1]

    def modules_after(self, layer: int) -> list[nn.Module]:
        """List modules as `Supernet` does; the classifier is the module of the last step."""
        modules: list[nn.Module] = []
        for name, module in self.operations.items():
            number = int(name.partition("_")[0])
            if self.steps[number - 1].layer > layer or number == len(self.steps):
                modules.append(module)
        return modules


def needed(numbered: Mapping[Call, int], outputs: Iterable[int]) -> dict[int, Call]:
    """List the calls that outputs need, by number, in an order in which they can be made."""
    calls = list(numbered)
    required = set(outputs)
    for i in range(len(calls) - 1, -1, -1):
        if i in required:
            required.update(calls[i].inputs)
    return {i: call for i, call in enumerate(calls) if i in required}


def _join(values: Sequence[Tensor], join: Literal["sum", "cat"]) -> Tensor:
    if join == "cat":
        return torch.cat(list(values), dim=1)
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
