"""A supernet as a list of steps: children share work, and a mixture's layers are compiled.

Its architectures run one path, many paths side by side (`trials.weight_sharing.plans`) or the
mixture of all choices (`mixture.py`), for differentiable search.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.space import SearchSpace
from search_spaces.weight_sharing.checkpoint import checkpointed
from search_spaces.weight_sharing.mixture import Bundle, Choice, Sums, bundled
from search_spaces.weight_sharing.steps import Call, Step, joined, needed
from search_spaces.weight_sharing.supernet import Mixture, Supernet


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
