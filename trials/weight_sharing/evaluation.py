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
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces import Architecture
from search_spaces.errors import InvalidArgument
from search_spaces.weight_sharing.graph_supernet import GraphSupernet
from search_spaces.weight_sharing.shared_norm import Statistics
from search_spaces.weight_sharing.supernet import Supernet
from trials.weight_sharing.images import Images
from trials.weight_sharing.plans import Plan, Schedule, Sizes, Way

_MEMORY = 1 << 30  # bytes of activations kept at the same time
_TOGETHER = 128  # children whose logits are turned into losses at once


@torch.inference_mode()
def evaluate_children(
    supernet: Supernet,
    archs: Sequence[Architecture],
    images: Images,
    statistics: Statistics = "batch",
    way: Way | None = None,
    memory: int = _MEMORY,
) -> list[tuple[float, float]]:
    """Return mean cross-entropy and accuracy (0..1) of each architecture with the shared weights.

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
    results = {form: (total / count).tolist() for form, total in totals.items()}
    return [
        (loss, accuracy if math.isfinite(loss) else math.nan)
        for loss, accuracy in map(results.__getitem__, archs)
    ]


def _judged(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum up cross-entropy and right answers: `children x images x classes` to `x 2`."""
    targets = labels.expand(len(logits), -1)
    losses = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(1)
    correct = (logits.argmax(2) == targets).sum(1)
    return torch.stack([losses, correct], 1).double().cpu()


#: a function from images to each architecture's logits, in any order
_Run = Callable[[Tensor], Iterator[tuple[Architecture, Tensor]]]


def _scheduled(
    supernet: Supernet, forms: Sequence[Architecture], x: Tensor, way: Way | None, memory: int
) -> _Run:
    """Plan how some architectures are computed on batches like `x`."""
    if not isinstance(supernet, GraphSupernet) or way == "one by one" or len(forms) == 1:
        return lambda images: ((form, supernet(images, form)) for form in forms)
    sizes, plan = Sizes.of(supernet, x), Plan.of(supernet, forms)
    schedules = {
        kind: Schedule.of(supernet, plan, sizes, kind, memory)
        for kind in _RUN if way in (None, kind)
    }  # fmt: skip
    kind = min(schedules, key=lambda kind: schedules[kind].cost)

    def run(images: Tensor) -> Iterator[tuple[Architecture, Tensor]]:
        for plan in schedules[kind].plans:
            yield from _RUN[kind](supernet, plan, images)

    return run


class _Values:
    """The values that are still to be used."""

    def __init__(self, plan: Plan, x: Tensor):
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


def _tree(supernet: GraphSupernet, plan: Plan, x: Tensor) -> Iterator[tuple[Architecture, Tensor]]:
    """Call by call; the order of the children makes it depth first."""
    values = _Values(plan, x)
    for i, call in plan.calls.items():
        yield from values.put(i, supernet.compute(call, values.take(call.inputs)))


def _grouped(
    supernet: GraphSupernet, plan: Plan, x: Tensor
) -> Iterator[tuple[Architecture, Tensor]]:
    """Compute step by step; the calls of one module are one."""
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


_RUN: dict[Way, Callable[[GraphSupernet, Plan, Tensor], Iterator[tuple[Architecture, Tensor]]]] = {
    "tree": _tree,
    "grouped": _grouped,
}
