"""Evaluating many children of a supernet at once, which costs less than one after the other.

Two ways, on the same list of calls (`Call` of the supernet), in which what several
children compute alike stands only once:

- *tree*: depth first. Architectures that agree on their first decisions share the activations
  of their first layers; the next child only computes what is new to it.
- *grouped*: step by step. All children that use one operation at one place go through it in one
  call, concatenated along the batch dimension; normalization statistics stay each child's own.
  That is what fills a GPU with small networks.

Both need memory for the values that are still to be used, so the children are divided until that
fits. Which of the two is taken is decided by an estimate of their cost.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces import Architecture
from search_spaces.errors import InvalidArgument
from search_spaces.weight_sharing.shared_norm import SharedNorm, Statistics
from search_spaces.weight_sharing.supernet import Call, GraphSupernet, Supernet, needed
from trials.data.parts import Part

Way = Literal["one by one", "tree", "grouped"]

_MEMORY = 1 << 30  # bytes of activations kept at the same time
_BATCH = 512  # images
_KEPT = 1 << 30  # bytes of images that are kept; more are read anew each time
_TOGETHER = 128  # children whose logits are turned into losses at once


@dataclass(frozen=True)
class _Machine:
    """What a call costs: seconds for each kernel it starts, and for its work."""

    start: float
    macs_per_second: float
    bytes_per_second: float


_MACHINES = {"cpu": _Machine(2e-5, 3e10, 5e9), "cuda": _Machine(1e-5, 1e13, 1e12)}
_KERNELS = 3  # of an operation: activation, convolution, normalization
_COPIES = 3  # what it costs to put values one behind the other: read, write, read from afar


@dataclass(frozen=True)
class Images:
    """What children are judged on: batches of validation images, on the device.

    Args:
        batches: (images, labels), again and again; all of about the same size.
        calibration: training images that batch-normalization statistics are recomputed with,
            `n x channels x height x width`; None where they are not.
    """

    batches: Iterable[tuple[Tensor, Tensor]]
    calibration: Tensor | None = None

    @classmethod
    def of(
        cls,
        part: Part,
        device: torch.device,
        seed: int,
        most: int | None = None,
        calibration: Tensor | None = None,
    ) -> "Images":
        """The images of a part in an order drawn once, in batches of about equal size.

        Args:
            part: which; where images are stored class by class, statistics of a batch would
                otherwise be those of a class.
            device: where they are to be.
            seed: of the order.
            most: how many of them; None: all.
            calibration: see the class.
        """
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed)).numpy()
        chosen = Part(part.store, part.indices[order[:most]])
        size = -(-len(chosen) // -(-len(chosen) // _BATCH))
        batches = _Batches(chosen, size, device)
        pixels = len(chosen) * math.prod(chosen.input_shape)
        return cls(list(batches) if 4 * pixels <= _KEPT else batches, calibration)


@dataclass(frozen=True)
class _Batches:
    """The batches of a part, made anew each time that they are gone through."""

    part: Part
    size: int
    device: torch.device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.part.batches(self.size, self.device)


@torch.inference_mode()
def evaluate_children(
    supernet: Supernet,
    archs: Sequence[Architecture],
    images: Images,
    statistics: Statistics = "batch",
    way: Way | None = None,
    memory: int = _MEMORY,
) -> list[tuple[float, float]]:
    """Mean cross-entropy and accuracy (0..1) of each architecture with the shared weights.

    The accuracy is NaN where the loss is not finite.

    Args:
        supernet: the weights; it is in evaluation mode afterwards.
        archs: what to evaluate; equal ones are computed once.
        images: what they are judged on.
        statistics: of batch normalization: those of each batch, recomputed for each child from
            the calibration images, or the running ones of the training.
        way: how; None: the cheaper one by estimate.
        memory: bytes of activations kept at the same time.

    Raises:
        InvalidArchitecture: when one is of another space.
        InvalidArgument: for `recomputed` without calibration images.
    """
    if statistics == "recomputed" and images.calibration is None:
        raise InvalidArgument("statistics='recomputed' needs calibration images; give some.")
    supernet.eval()
    forms = sorted({supernet.space.check(arch) for arch in archs})
    extra = images.calibration if statistics == "recomputed" else None
    first = 0 if extra is None else len(extra)
    totals = dict.fromkeys(forms, torch.zeros(2, dtype=torch.float64))
    schedule, count = None, 0
    with supernet.normalization.set(statistics=statistics, calibration=first):
        for batch, labels in images.batches:
            x = batch if extra is None else torch.cat([extra, batch])
            schedule = schedule or _scheduled(supernet, forms, x, way, memory)
            logits = ((form, logits[first:]) for form, logits in schedule(x))
            while some := dict(itertools.islice(logits, _TOGETHER)):
                sums = _judged(torch.stack(list(some.values())).float(), labels)
                for form, row in zip(some, sums, strict=True):
                    totals[form] = totals[form] + row
            count += len(labels)
    found = {form: (total / count).tolist() for form, total in totals.items()}
    return [
        (loss, accuracy if math.isfinite(loss) else math.nan)
        for loss, accuracy in map(found.__getitem__, archs)
    ]


def _judged(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums of cross-entropy and of right answers: `children x images x classes` to `x 2`."""
    wanted = labels.expand(len(logits), -1)
    losses = functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").sum(1)
    correct = (logits.argmax(2) == wanted).sum(1)
    return torch.stack([losses, correct], 1).double().cpu()


#: a function from images to each architecture's logits, in any order
_Run = Callable[[Tensor], Iterator[tuple[Architecture, Tensor]]]


def _scheduled(
    supernet: Supernet, forms: Sequence[Architecture], x: Tensor, way: Way | None, memory: int
) -> _Run:
    """How some architectures are computed on batches like `x`."""
    if not isinstance(supernet, GraphSupernet) or way == "one by one" or len(forms) == 1:
        return lambda images: ((form, supernet(images, form)) for form in forms)
    sizes, plan = _Sizes.of(supernet, x), _Plan.of(supernet, forms)
    schedules = {
        kind: _Schedule.of(supernet, plan, sizes, kind, memory)
        for kind in _RUN if way in (None, kind)
    }  # fmt: skip
    kind = min(schedules, key=lambda kind: schedules[kind].cost)

    def run(images: Tensor) -> Iterator[tuple[Architecture, Tensor]]:
        for plan in schedules[kind].plans:
            yield from _RUN[kind](supernet, plan, images)

    return run


@dataclass(frozen=True)
class _Plan:
    """What some children compute together.

    Args:
        calls: by number, in an order in which they can be computed.
        outputs: the number of the call that gives each child's logits.
    """

    calls: dict[int, Call]
    outputs: dict[Architecture, int]

    @classmethod
    def of(cls, supernet: GraphSupernet, forms: Sequence[Architecture]) -> "_Plan":
        known: dict[Call, int] = {}
        outputs = {form: supernet.calls(form, known)[1] for form in forms}
        return cls(needed(known, outputs.values()), outputs)

    def by_step(self) -> "_Plan":
        """The same with the calls step by step, instead of child by child."""
        return _Plan(dict(sorted(self.calls.items(), key=_stage)), self.outputs)

    def uses(self) -> Counter[int]:
        """How often the value of each call is read, logits included."""
        uses = Counter(self.outputs.values())
        for call in self.calls.values():
            uses.update(call.inputs)
        return uses

    def groups(self) -> dict[tuple[int, str], list[int]]:
        """The calls that can be one, in an order in which they can be computed."""
        groups: dict[tuple[int, str], list[int]] = defaultdict(list)
        for i, call in self.calls.items():
            groups[call.step, call.module].append(i)
        return groups


def _stage(item: tuple[int, Call]) -> tuple[int, int]:
    """By step; in a step zeros first, then modules, then the sum of several modules' values."""
    call = item[1]
    return call.step, {"zeros": 0, "": 2}.get(call.module, 1)


class _Sizes:
    """What the steps of a supernet keep and do on a batch, measured on its first image."""

    _known: ClassVar[WeakKeyDictionary[GraphSupernet, dict[Any, "_Sizes"]]] = WeakKeyDictionary()

    @classmethod
    def of(cls, supernet: GraphSupernet, x: Tensor) -> "_Sizes":
        """Measured once for each shape of a batch."""
        known = cls._known.setdefault(supernet, {})
        key = (x.shape, x.dtype, x.device)
        if key not in known:
            known[key] = cls(supernet, x)
        return known[key]

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
            supernet.mixed(x[:1], [torch.ones(len(slot.choices)) for slot in supernet.slots])
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

    def of_calls(self, plan: _Plan) -> dict[int, int]:
        """Bytes of the value of each call."""
        sizes = {-1: self._image_bytes}
        for i, call in sorted(plan.calls.items()):
            given = [sizes[j] for j in call.inputs]
            joined = sum(given) if call.join == "cat" else max(given)
            sizes[i] = self._step_bytes[call.step] if self._is_module(call) else joined
        return sizes

    def inside(self, plan: _Plan) -> dict[int, int]:
        """Bytes that a call's module keeps while it runs: those of its normalized values."""
        return {i: self._normalized[call.module] for i, call in plan.calls.items()}

    @staticmethod
    def _is_module(call: Call) -> bool:
        return call.module not in ("", "zeros")

    def cost(self, plan: _Plan, sizes: Mapping[int, int], way: Way) -> float:
        """Seconds, roughly."""
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
class _Schedule:
    plans: list[_Plan]
    cost: float

    @classmethod
    def of(
        cls,
        supernet: GraphSupernet,
        plan: _Plan,
        sizes: _Sizes,
        way: Way,
        memory: int,
    ) -> "_Schedule":
        """Plans for some children, each of which keeps within the memory if it can."""
        plan = plan.by_step() if way == "grouped" else plan
        forms = list(plan.outputs)
        size, inside = sizes.of_calls(plan), sizes.inside(plan)
        plenty = 2 * (sum(size.values()) + sum(inside.values())) <= memory
        if len(forms) > 1 and not plenty and _peak(plan, size, way, inside) > memory:
            middle = len(forms) // 2
            halves = [
                cls.of(supernet, _Plan.of(supernet, half), sizes, way, memory)
                for half in (forms[:middle], forms[middle:])
            ]
            return cls(
                [plan for half in halves for plan in half.plans], sum(half.cost for half in halves)
            )
        return cls([plan], sizes.cost(plan, size, way))


def _peak(plan: _Plan, sizes: Mapping[int, int], way: Way, inside: Mapping[int, int]) -> int:
    """Bytes that are kept at the most, those inside of modules too.

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
        """Bytes that become free when a value has been read."""
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


class _Values:
    """The values that are still to be used."""

    def __init__(self, plan: _Plan, x: Tensor):
        self._uses = plan.uses()
        self._uses[-1] += 1
        self._values = {-1: x}
        self._children: dict[int, list[Architecture]] = defaultdict(list)
        for form, output in plan.outputs.items():
            self._children[output].append(form)

    def take(self, numbers: Sequence[int]) -> list[Tensor]:
        taken = [self._values[i] for i in numbers]
        for i in numbers:
            self._used(i, 1)
        return taken

    def _used(self, i: int, times: int) -> None:
        self._uses[i] -= times
        if not self._uses[i]:
            del self._values[i]

    def put(self, i: int, value: Tensor) -> Iterator[tuple[Architecture, Tensor]]:
        """Keep a value; it is given out where it is a child's logits."""
        self._values[i] = value
        children = self._children.get(i, ())
        yield from ((form, value) for form in children)
        if children:
            self._used(i, len(children))


def _tree(supernet: GraphSupernet, plan: _Plan, x: Tensor) -> Iterator[tuple[Architecture, Tensor]]:
    """Call by call; the order of the children makes it depth first."""
    values = _Values(plan, x)
    for i, call in plan.calls.items():
        yield from values.put(i, supernet.compute(call, values.take(call.inputs)))


def _grouped(
    supernet: GraphSupernet, plan: _Plan, x: Tensor
) -> Iterator[tuple[Architecture, Tensor]]:
    """Step by step; the calls of one module are one."""
    values = _Values(plan, x)
    for (_, module), numbers in plan.groups().items():
        calls = [plan.calls[i] for i in numbers]
        if module in ("", "zeros") or len(numbers) == 1:
            for i, call in zip(numbers, calls, strict=True):
                yield from values.put(i, supernet.compute(call, values.take(call.inputs)))
            continue
        together = torch.cat([tensor for call in calls for tensor in values.take(call.inputs)])
        with supernet.normalization.set(children=len(calls)):
            output = supernet.operations[module](together)
        for i, part in zip(numbers, output.chunk(len(calls)), strict=True):
            yield from values.put(i, part)


_RUN: dict[Way, Callable[[GraphSupernet, _Plan, Tensor], Iterator[tuple[Architecture, Tensor]]]] = {
    "tree": _tree,
    "grouped": _grouped,
}
