"""Weight sharing: one network that holds the weights of every architecture of a space.

A supernet has *slots* (an edge, a layer), each with one module for every choice. `forward(x,
architecture)` runs only the modules of that architecture, its path; `forward(x, mixture)` runs
all of them and adds their outputs up with the weights given, for differentiable search.

Bender et al.: Understanding and Simplifying One-Shot Architecture Search (ICML 2018); Guo et al.:
Single Path One-Shot NAS (ECCV 2020); Liu et al.: DARTS (ICLR 2019) for the mixture.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.errors import InvalidArgument
from search_spaces.space import SearchSpace
from search_spaces.weight_sharing.checkpoint import checkpointed
from search_spaces.weight_sharing.mixture import Bundle, Choice, Sums, bundled
from search_spaces.weight_sharing.shared_norm import Normalization, SharedNorm, is_replaced
from search_spaces.weight_sharing.steps import Call, Step, joined, needed

#: for each slot of a supernet one weight per choice, a 1-D tensor
Mixture = Sequence[Tensor]


class Supernet(nn.Module, ABC):
    """The shared weights of a space's architectures.

    Attributes:
        space: whose architectures it holds.
        slots: what can be chosen where: the meaning of a mixture.
        layers: how many layers it has from the input to the output, the stem and the classifier
            aside; the unit of `trials.WeightSharing.prefix`.
        normalization: how its batch normalization works.
        checkpoint: whether a mixture's forward pass keeps only what goes from layer to layer;
            the rest is computed again for the gradients, which saves memory and costs time.
    """

    slots: tuple[Decision, ...]
    layers: int
    checkpoint: bool = False

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
    def sampled(self, x: Tensor, mixture: Mixture, choices: Sequence[int]) -> Tensor:
        """Compute one choice of each slot, so that all weights of a mixture get gradients.

        A slot gives `w_i * operation_i(x) + sum of w_j over j != i`, i being its choice (Dong,
        Yang: GDAS, CVPR 2019, section 3.2, and its code). With weights that are one-hot but for
        their gradients that is the operation's output; "none" gives zeros.

        Args:
            x: the images, `batch x channels x height x width`.
            mixture: for each slot the weights of its choices.
            choices: for each slot the index of the choice whose module runs.

        Raises:
            InvalidArgument: for a mixture or choices that do not fit the slots.
        """

    def check_choices(self, choices: Sequence[int]) -> Sequence[int]:
        """Return `choices` itself.

        Raises:
            InvalidArgument: when they are not one index for each slot.
        """
        most = [len(slot.choices) for slot in self.slots]
        if len(choices) != len(most) or not all(
            0 <= c < n for c, n in zip(choices, most, strict=True)
        ):
            raise InvalidArgument(
                f"choices={list(choices)}: give one index for each of the {len(most)} slots, less"
                f" than {', '.join(map(str, most))}."
            )
        return choices

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

    def choose(
        self, slot: int, modules: Sequence[nn.Module | None], value: int, stride: int = 1
    ) -> int:
        """Add one module for each choice of a slot (None: nothing comes out); see `fixed`.

        `stride` is that of the modules, where one of them is None.
        """
        step = Step((value,), slot=slot, layer=self.layers, stride=stride)
        return self._add(step, modules, self.affine)

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
        x = joined(inputs, call.join)
        return self.operations[call.module](x) if call.module else x

    def child(self, x: Tensor, arch: Architecture) -> Tensor:
        """Compute only what the logits need."""
        numbered, output = self.calls(arch)
        values = {-1: x}
        for i, call in needed(numbered, [output]).items():
            values[i] = self.compute(call, [values[j] for j in call.inputs])
        return values[output]

    def mixed(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Compute what `mixed_plain` does, with common work done once; see `mixture`."""
        if not self.training and self.normalization.statistics != "running":
            return self.mixed_plain(x, mixture)
        return self._run(x, lambda values, layer: self._shared(values, layer, mixture))

    def mixed_plain(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Run every module of a slot; its outputs are added with the slot's weights."""
        return self._run(x, lambda values, layer: self._plain(values, layer, mixture))

    def sampled(self, x: Tensor, mixture: Mixture, choices: Sequence[int]) -> Tensor:
        """Run one module of each slot; see `Supernet`."""
        self.check(mixture)
        self.check_choices(choices)
        return self._run(x, lambda values, layer: self._sampled(values, layer, mixture, choices))

    def _run(self, x: Tensor, compute: Callable[[dict[int, Tensor], range], None]) -> Tensor:
        """Compute the values of all steps, layer by layer.

        Args:
            x: the images.
            compute: adds the values of some steps to the values before them.
        """
        values = {self.images: x}
        for layer, needed_later in self._layers:
            if self.checkpoint:
                values = checkpointed(values, layer, needed_later, compute, self.normalization)
            else:
                compute(values, layer)
                values = {i: values[i] for i in needed_later}
        return values[len(self.steps)]

    @cached_property
    def _layers(self) -> list[tuple[range, list[int]]]:
        """The numbers of each layer's steps, and of the values that are read after it."""
        last_read = {len(self.steps): len(self.steps) + 1}
        for i, step in enumerate(self.steps, start=1):
            last_read.update((j, i) for j in step.inputs)
        layers, first = [], 1
        for _, steps in itertools.groupby(self.steps, key=lambda step: step.layer):
            layer = range(first, first + len(list(steps)))
            first = layer.stop
            layers.append((layer, [i for i in range(first) if last_read.get(i, 0) >= first]))
        return layers

    def _read(self, values: Mapping[int, Tensor], step: Step) -> Tensor:
        return joined([values[j] for j in step.inputs], step.join)

    def _fixed(self, values: Mapping[int, Tensor], step: Step) -> Tensor:
        x, name = self._read(values, step), step.modules[0]
        return self.operations[name](x) if name else x

    def _plain(self, values: dict[int, Tensor], layer: range, mixture: Mixture) -> None:
        for i in layer:
            step = self.steps[i - 1]
            if step.slot is None:
                values[i] = self._fixed(values, step)
                continue
            x = self._read(values, step)
            outputs = [
                weight * (self.operations[name](x) if name else x)
                for weight, name in zip(mixture[step.slot], step.modules, strict=True)
                if name is not None
            ]
            values[i] = joined(outputs, "sum")

    def _shared(self, values: dict[int, Tensor], layer: range, mixture: Mixture) -> None:
        for i in layer:
            step = self.steps[i - 1]
            if step.slot is None:
                values[i] = self._fixed(values, step)
            elif i not in values:  # nor are those of the other slots that read the same
                sums = Sums(self._read(values, step), self.operations)
                for bundle in self._bundles[i]:
                    sums.add(bundle, [mixture[slot][k] for slot, k in bundle.weights])
                values.update(sums.finished())

    @cached_property
    def _bundles(self) -> dict[int, list[Bundle]]:
        """What the choices are that read the same value in a layer, by the first of their steps."""
        readers: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for i, step in enumerate(self.steps, start=1):
            if step.slot is not None:
                readers.setdefault((step.layer, step.inputs), []).append(i)
        return {
            numbers[0]: bundled(
                (
                    Choice(i, (slot, k), name)
                    for i in numbers
                    if (slot := self.steps[i - 1].slot) is not None
                    for k, name in enumerate(self.steps[i - 1].modules)
                    if name is not None
                ),
                self.operations,
            )
            for numbers in readers.values()
        }

    def _sampled(
        self, values: dict[int, Tensor], layer: range, mixture: Mixture, choices: Sequence[int]
    ) -> None:
        for i in layer:
            step = self.steps[i - 1]
            if step.slot is None:
                values[i] = self._fixed(values, step)
                continue
            x, weights, choice = self._read(values, step), mixture[step.slot], choices[step.slot]
            name, others = step.modules[choice], weights.sum() - weights[choice]
            if name is None:
                values[i] = x[..., :: step.stride, :: step.stride] * 0 + others
            else:
                values[i] = weights[choice] * (self.operations[name](x) if name else x) + others

    def modules_after(self, layer: int) -> list[nn.Module]:
        """List modules as `Supernet` does; the classifier is the module of the last step."""
        modules: list[nn.Module] = []
        for name, module in self.operations.items():
            number = int(name.partition("_")[0])
            if self.steps[number - 1].layer > layer or number == len(self.steps):
                modules.append(module)
        return modules
