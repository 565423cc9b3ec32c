"""What differentiable search solves: weights w, architecture parameters a, a loss L(w, a).

The rules know nothing else, so that they can be checked on a problem with two numbers.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from trials.optimization import TrainingStep, mixed_precision

#: images `batch x channels x height x width` and labels `batch`
Batch = tuple[Tensor, Tensor]
#: one tensor for each of w, or of a
Tensors = list[Tensor]


class Path(NamedTuple):
    """What runs in a pass.

    Attributes:
        mixture: for each slot the weights of its choices, 1-D tensors; functions of a.
        choices: for each slot the one choice that runs; None: all of them.
    """

    mixture: Tensors
    choices: list[int] | None = None

    def detached(self) -> "Path":
        """Return the same, through which no gradient flows to a."""
        return Path([weights.detach() for weights in self.mixture], self.choices)


class Problem(ABC):
    """Weights w and architecture parameters a, each with an optimizer of its own.

    Args:
        weights: the step of w: its optimizer has w, and a is not in it.
        architecture: the step of a, likewise.
        precise: compute the gradients of `value_and_gradient` in float32 proper; else in what the
            device computes fast, as `TrainingStep` does.

    Attributes:
        generator: what rules draw from.
        epoch: epochs done.
        epochs: epochs in all.
    """

    generator: torch.Generator
    epoch: int = 0
    epochs: int = 1

    def __init__(self, weights: TrainingStep, architecture: TrainingStep, precise: bool = False):
        self.weights, self.architecture = weights, architecture
        self.w: Tensors = list(weights.parameters)
        self.a: Tensors = list(architecture.parameters)
        self._precise = precise
        self._precision = None if precise else mixed_precision(weights.device, float16=False)

    @abstractmethod
    def loss(self, batch: Batch, path: Path, training: bool = False) -> Tensor:
        """Compute L(w, a) on a mini-batch.

        Args:
            batch: images and labels.
            path: what runs.
            training: whether this is the one pass of a step that counts as training of w: it
                alone moves running statistics. However many passes a step needs, they end up
                as one pass leaves them.
        """

    @property
    def relaxation(self) -> Tensors:
        """Return the weights of the choices of each slot as functions of a: softmax (DARTS)."""
        return [torch.softmax(alpha, 0) for alpha in self.a]

    @property
    def xi(self) -> float:
        """Return the present learning rate of w, the step with which w' looks ahead."""
        return float(self.weights.optimizer.param_groups[0]["lr"])

    # Gradients, which leave everything as it is

    def value_and_gradient(
        self, batch: Batch, path: Path, of: Sequence[Tensor], training: bool = False
    ) -> tuple[Tensor, Tensors]:
        """Compute L(w, a) and its gradient in some tensors; zeros for what it does not depend on.

        Args:
            batch: images and labels.
            path: what runs.
            of: the tensors.
            training: see `loss`.
        """
        device, precision = self.weights.device.type, self._precision
        with _tf32(allowed=not self._precise):
            with torch.autocast(device, dtype=precision, enabled=precision is not None):
                value = self.loss(batch, path, training)
            gradient = torch.autograd.grad(value, of, materialize_grads=True)
        return value.detach(), list(gradient)

    def gradient_a(self, batch: Batch, path: Path | None = None) -> Tensors:
        """Compute the gradient of L(w, a) in a.

        Args:
            batch: images and labels.
            path: what runs; None: the mixture of a.
        """
        return self.value_and_gradient(batch, path or Path(self.relaxation), self.a)[1]

    @contextmanager
    def at(self, w: Sequence[Tensor]) -> Iterator[None]:
        """Put other weights in the place of w for a while."""
        kept = [p.data for p in self.w]
        try:
            for p, value in zip(self.w, w, strict=True):
                p.data = value
            yield
        finally:
            for p, value in zip(self.w, kept, strict=True):
                p.data = value

    # Updates

    def update_w(self, batch: Batch, path: Path | None = None) -> None:
        """Move w by the gradient of L(w, a) in w; a stays, and is in no graph."""
        taken = (path or Path(self.relaxation)).detached()
        self.weights([lambda: self.loss(batch, taken, training=True)])

    def update_a(self, gradient: Sequence[Tensor]) -> None:
        """Move a by a gradient; w stays."""
        _update(self.architecture, self.a, gradient)

    def update_w_by(self, gradient: Sequence[Tensor]) -> None:
        """Move w by a gradient that is there already; a stays."""
        _update(self.weights, self.w, gradient)


def _update(step: TrainingStep, parameters: Sequence[Tensor], gradient: Sequence[Tensor]) -> None:
    for p, g in zip(parameters, gradient, strict=True):
        p.grad = g
    step.update()
    step.optimizer.zero_grad(set_to_none=True)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Forbid cuDNN to round what it multiplies to 10 bits, in which small steps of w vanish."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before and allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def added(first: Sequence[Tensor], second: Sequence[Tensor], factor: float = 1.0) -> Tensors:
    """Return first + factor * second, tensor by tensor."""
    return [torch.add(x, y, alpha=factor) for x, y in zip(first, second, strict=True)]
