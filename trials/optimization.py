"""The one training step: precision, loss scaling, clipping, update; with a schedule and a check.

Training from scratch, a supernet's training and differentiable search all update weights by it.
Each set of parameters has an optimizer and a `TrainingStep` of its own: a step clears, clips and
updates the parameters of its own optimizer and no others. So a search that updates weights and
architecture parameters in turn makes two steps, and neither norm counts the other's gradients.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trials.trial import Diverged
from trials.workers import Workers

_CHECK_EVERY = 50  # steps between looks at the loss: each look makes a GPU wait


class TrainingStep:
    """Updates the parameters of one optimizer by the gradients of losses.

    Args:
        optimizer: of the parameters, and of no others.
        device: where they are.
        clip: largest L2 norm of their gradient; 0 leaves it as it is.
        float16: compute in float16 with loss scaling on a GPU that lacks bfloat16; else in
            float32 there.
        precision: of activations and gradients, `bfloat16` or `float32`; None: as
            `mixed_precision` says.
        keep_zeros: set gradients to zero before a step instead of None, so that momentum and
            weight decay also move parameters that the losses do not depend on.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        clip: float = 0.0,
        float16: bool = True,
        keep_zeros: bool = False,
        precision: str | None = None,
    ):
        self.optimizer, self.device = optimizer, device
        self.clip, self.keep_zeros = clip, keep_zeros
        if precision is None:
            self.precision = mixed_precision(device, float16)
        else:
            self.precision = torch.bfloat16 if precision == "bfloat16" else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)

    def __call__(self, losses: Iterable[Callable[[], Tensor]]) -> Tensor:
        """Update once by the sum of the gradients of some losses.

        Args:
            losses: functions that compute a scalar loss; called in mixed precision.

        Returns:
            Their mean, detached, on the device.
        """
        self.optimizer.zero_grad(set_to_none=not self.keep_zeros)
        mean = self.backward(losses)
        self.update()
        return mean

    def backward(self, losses: Iterable[Callable[[], Tensor]]) -> Tensor:
        """Add the gradients of some losses to those that are there; return the losses' mean."""
        total, count = torch.zeros((), device=self.device), 0
        for count, compute in enumerate(losses, start=1):  # noqa: B007
            with torch.autocast(
                self.device.type, dtype=self.precision, enabled=self.precision is not None
            ):
                loss = compute()
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total / count

    def update(self) -> None:
        """Clip the gradients and move the parameters by them."""
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def forget_gradients(self) -> None:
        """Clear all gradients, so that none is left over from before the state was loaded.

        With `keep_zeros` those that have moved before get zeros, which go on moving them.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if self.keep_zeros:
            for p, state in self.optimizer.state.items():
                if state:
                    p.grad = torch.zeros_like(p)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the step updates, group by group."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of all groups of parameters."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Return the states of optimizer and loss scale, for `load_state_dict`."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken; other keys are left alone."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])


def mixed_precision(device: torch.device, float16: bool = True) -> torch.dtype | None:
    """Return the type that a device computes activations in; None: float32 throughout."""
    if device.type != "cuda":
        return None  # bfloat16 is many times slower than float32 on most CPUs
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16 if float16 else None


def cosine(first: float, last: float, progress: float) -> float:
    """Return the value between `first` and `last` on half a cosine.

    Loshchilov, Hutter: SGDR (ICLR 2017), equation 5, without restarts.

    Args:
        first: at the start.
        last: at the end.
        progress: how much is done, 0..1; more counts as 1.
    """
    return last + (first - last) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def warmed_cosine(highest: float, progress: float, warmup: float = 0.0) -> float:
    """Return a learning rate that rises linearly from 0 and then falls to 0 on half a cosine.

    Args:
        highest: at the end of the rise.
        progress: how much of all steps is done, 0..1.
        warmup: share of all steps over which it rises; 0: it only falls.
    """
    if progress < warmup:
        return highest * progress / warmup
    return cosine(highest, 0.0, (progress - warmup) / (1 - warmup))


def decay_groups(network: nn.Module, decay: float, norms: bool = True) -> list[dict[str, Any]]:
    """Return the parameters of a network as groups for an optimizer.

    Args:
        network: whose parameters.
        decay: the L2 penalty.
        norms: whether it is on all of them, in one group; else biases and the scales and shifts
            of normalizations (which have one axis) are a second group without it.
    """
    parameters = list(network.parameters())
    if norms:
        return [{"params": parameters, "weight_decay": decay}]
    groups = ([p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1])
    return [
        {"params": group, "weight_decay": penalty}
        for group, penalty in zip(groups, (decay, 0.0), strict=True)
        if group
    ]


class RunningLoss:
    """Adds up the losses of an epoch's steps on the device, and sees when they diverge.

    Args:
        device: where the losses are.
        name: what the loss is of, for the error message.
        epoch: number of the epoch from 1, likewise.
        workers: who share the steps, so that all see it at the same one.
    """

    def __init__(self, device: torch.device, name: str, epoch: int, workers: Workers | None = None):
        self.name, self.epoch, self.workers = name, epoch, workers or Workers()
        self._total = torch.zeros((), device=device)
        self._count = 0

    def add(self, loss: Tensor) -> None:
        """Add the loss of one step.

        Raises:
            Diverged: when the sum is no longer finite; looked at every 50 steps.
        """
        self._total += loss
        self._count += 1
        if self._count % _CHECK_EVERY == 0:
            self._checked_total()

    def mean(self) -> float:
        """Return the mean of the losses; 0 without any.

        Raises:
            Diverged: when it is not finite.
        """
        return float(self._checked_total()) / max(self._count, 1)

    def _checked_total(self) -> Tensor:
        total = self.workers.mean(self._total)
        if not torch.isfinite(total):
            raise Diverged(f"{self.name} is {float(total)} in epoch {self.epoch}")
        return total
