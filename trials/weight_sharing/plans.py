"""Plans of what many children of a supernet compute together, their memory and their cost.

A plan is a list of calls (`Call` of the supernet), in which what several children compute
alike stands only once. Values that are still to be used take memory, so children are divided
until that fits.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from search_spaces import Architecture
from search_spaces.weight_sharing.graph_supernet import GraphSupernet
from search_spaces.weight_sharing.shared_norm import SharedNorm
from search_spaces.weight_sharing.steps import Call, needed

Way = Literal["one by one", "tree", "grouped"]


@dataclass(frozen=True)
class _Machine:
    """The cost of a call: seconds for each kernel it starts, and for its work."""

    start: float
    macs_per_second: float
    bytes_per_second: float


_MACHINES = {"cpu": _Machine(2e-5, 3e10, 5e9), "cuda": _Machine(1e-5, 1e13, 1e12)}
_KERNELS = 3  # of an operation: activation, convolution, normalization
_COPIES = 3  # what it costs to put values one behind the other: read, write, read from afar


@dataclass(frozen=True)
class Plan:
    """The calls by which some children are computed together.

    Args:
        calls: by number, in an order in which they can be computed.
        outputs: the number of the call that gives each child's logits.
    """

    calls: dict[int, Call]
    outputs: dict[Architecture, int]

    @classmethod
    def of(cls, supernet: GraphSupernet, forms: Sequence[Architecture]) -> "Plan":
        numbers: dict[Call, int] = {}
        outputs = {form: supernet.calls(form, numbers)[1] for form in forms}
        return cls(needed(numbers, outputs.values()), outputs)

    def by_step(self) -> "Plan":
        """Return the same plan with the calls step by step, instead of child by child."""
        return Plan(dict(sorted(self.calls.items(), key=_stage)), self.outputs)

    def uses(self) -> Counter[int]:
        """Count how often the value of each call is read, logits included."""
        uses = Counter(self.outputs.values())
        for call in self.calls.values():
            uses.update(call.inputs)
        return uses

    def groups(self) -> dict[tuple[int, str], list[int]]:
        """Group the calls that can be one, in an order in which they can be computed."""
        groups: dict[tuple[int, str], list[int]] = defaultdict(list)
        for i, call in self.calls.items():
            groups[call.step, call.module].append(i)
        return groups


def _stage(item: tuple[int, Call]) -> tuple[int, int]:
    """Order by step; in a step zeros first, then modules, then the sums of their values."""
    call = item[1]
    return call.step, {"zeros": 0, "": 2}.get(call.module, 1)


class Sizes:
    """Bytes and operations of the steps of a supernet on a batch, measured on its first image."""

    _measured: ClassVar[WeakKeyDictionary[GraphSupernet, dict[Any, "Sizes"]]] = WeakKeyDictionary()

    @classmethod
    def of(cls, supernet: GraphSupernet, x: Tensor) -> "Sizes":
        """Measure once for each shape of a batch."""
        sizes = cls._measured.setdefault(supernet, {})
        key = (x.shape, x.dtype, x.device)
        if key not in sizes:
            sizes[key] = cls(supernet, x)
        return sizes[key]

    def __init__(self, supernet: GraphSupernet, x: Tensor):
        self.machine = _MACHINES.get(x.device.type, _MACHINES["cuda"])
        self._images = len(x)
        self._image_bytes = x.nbytes
        self._step_bytes: dict[int, int] = {}
        self._macs: Counter[str] = Counter()
        self._normalized: Counter[str] = Counter()  # bytes that normalization copies in groups
        hooks = []
        for name, operation in supernet.operations.items():
            for module in operation.modules():
                hooks.append(module.register_forward_hook(self._measure(name, module is operation)))
        with supernet.normalization.set(statistics="running"):
            ones = [torch.ones(len(slot.choices)) for slot in supernet.slots]
            supernet.mixed_plain(x[:1], ones)
        for hook in hooks:
            hook.remove()

    def _measure(self, name: str, whole: bool) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, _: object, output: Tensor) -> None:
            if isinstance(module, nn.Conv2d | nn.Linear):
                pixels = output.shape[-1] * output.shape[-2] if output.ndim == 4 else 1
                self._macs[name] += module.weight.numel() * pixels * self._images
            if isinstance(module, SharedNorm):
                self._normalized[name] += output.nbytes * self._images
            if whole:
                self._step_bytes[int(name.partition("_")[0])] = output.nbytes * self._images

        return hook

    def of_calls(self, plan: Plan) -> dict[int, int]:
        """Return the bytes of the value of each call."""
        sizes = {-1: self._image_bytes}
        for i, call in sorted(plan.calls.items()):
            inputs = [sizes[j] for j in call.inputs]
            joined = sum(inputs) if call.join == "cat" else max(inputs)
            sizes[i] = self._step_bytes[call.step] if self._is_module(call) else joined
        return sizes

    def inside(self, plan: Plan) -> dict[int, int]:
        """Return the bytes that a call's module keeps while it runs: of its normalized values."""
        return {i: self._normalized[call.module] for i, call in plan.calls.items()}

    @staticmethod
    def _is_module(call: Call) -> bool:
        return call.module not in ("", "zeros")

    def cost(self, plan: Plan, sizes: Mapping[int, int], way: Way) -> float:
        """Estimate the seconds, roughly."""
        machine = self.machine
        calls = plan.calls.values()
        work = sum(self._macs[call.module] for call in calls) / machine.macs_per_second
        work += sum(sizes[i] for i in plan.calls) * _KERNELS / machine.bytes_per_second
        modules = [call for call in calls if self._is_module(call)]
        starts = len(calls) - len(modules) + _KERNELS * len(modules)
        if way == "grouped":
            together = [i for i in plan.groups().values() if len(i) > 1 and plan.calls[i[0]].module]
            copied = sum(
                sizes[j] for group in together for i in group for j in plan.calls[i].inputs
            )
            normalized = sum(len(i) * self._normalized[plan.calls[i[0]].module] for i in together)
            work += (copied + normalized) * _COPIES / machine.bytes_per_second
            starts -= sum((len(i) - 1) * _KERNELS for i in together)
        return work + starts * machine.start


@dataclass(frozen=True)
class Schedule:
    plans: list[Plan]
    cost: float

    @classmethod
    def of(
        cls,
        supernet: GraphSupernet,
        plan: Plan,
        sizes: Sizes,
        way: Way,
        memory: int,
    ) -> "Schedule":
        """Plan some children, each plan within the memory if that can be."""
        plan = plan.by_step() if way == "grouped" else plan
        forms = list(plan.outputs)
        size, inside = sizes.of_calls(plan), sizes.inside(plan)
        plenty = 2 * (sum(size.values()) + sum(inside.values())) <= memory
        if len(forms) > 1 and not plenty and _peak(plan, size, way, inside) > memory:
            middle = len(forms) // 2
            halves = [
                cls.of(supernet, Plan.of(supernet, half), sizes, way, memory)
                for half in (forms[:middle], forms[middle:])
            ]
            return cls(
                [plan for half in halves for plan in half.plans], sum(half.cost for half in halves)
            )
        return cls([plan], sizes.cost(plan, size, way))


def _peak(plan: Plan, sizes: Mapping[int, int], way: Way, inside: Mapping[int, int]) -> int:
    """Return the bytes that are kept at the most, those inside of modules too.

    Values that come out of one call together are parts of one block, which is kept until the
    last of them has been used.
    """
    blocks = list(plan.groups().values()) if way == "grouped" else [[i] for i in plan.calls]
    block_of = {i: block for block in blocks for i in block}
    uses = plan.uses()
    left = {id(block): len(block) for block in blocks}
    live = most = 0
    logits = Counter(plan.outputs.values())

    def used(i: int, times: int) -> int:
        """Return the bytes that become free when a value has been read."""
        uses[i] -= times
        if i < 0 or uses[i]:
            return 0
        block = block_of[i]
        left[id(block)] -= 1
        return 0 if left[id(block)] else sum(sizes[j] for j in block)

    for block in blocks:
        live += sum(sizes[i] for i in block)
        copied = sum(sizes[j] for i in block for j in plan.calls[i].inputs) if len(block) > 1 else 0
        most = max(most, live + copied + 2 * sum(inside[i] for i in block))
        for i in block:
            live -= sum(used(j, 1) for j in plan.calls[i].inputs)
            live -= used(i, logits[i]) if logits[i] else 0
    return most
