"""The training of one supernet: paths, private weights, fine-tuning, rankings on the way.

How is in `trials.weight_sharing`; which path when, in `trials.weight_sharing.children`.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces import Architecture
from search_spaces.weight_sharing.space import sharing
from search_spaces.weight_sharing.supernet import Supernet
from trials.data import Data
from trials.trial import Diverged, derived_seed
from trials.weight_sharing.children import Children, Order
from trials.weight_sharing.evaluation import Images, evaluate_children

if TYPE_CHECKING:
    from trials.weight_sharing.recipe import WeightSharing

_WEIGHTS, _ORDER, _BATCHES, _IMAGES, _PROBES, _CALIBRATION = range(6)  # drawn from the seed
_PROBE_IMAGES = 512
_CHECK_EVERY = 50  # steps between looks at the loss: each look makes a GPU wait


class PrivateWeights:
    """The weights behind a shared prefix: each child has its own, buffers and momentum too.

    They are swapped in for the child that runs. A child keeps what it has used; all start alike.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self.parameters = [p for module in modules for p in module.parameters()]
        self.buffers = [b for module in modules for b in module.buffers()]
        self._start = [t.detach().clone() for t in self._tensors]
        #: {child: {number of a tensor: its value, ...}}
        self.kept: dict[Architecture, dict[int, Tensor]] = {}
        self.momenta: dict[Architecture, dict[int, Tensor]] = {}

    @property
    def _tensors(self) -> list[Tensor]:
        return [*self.parameters, *self.buffers]

    @contextmanager
    def of(
        self, arch: Architecture, optimizer: torch.optim.Optimizer | None = None
    ) -> Iterator[None]:
        """Use a child's own weights; with an optimizer, keep what it makes of them."""
        kept = self.kept.get(arch, {})
        momenta = self.momenta.get(arch, {})
        for i, tensor in enumerate(self._tensors):
            tensor.data = kept.get(i, self._start[i]).clone()
        if optimizer is not None:
            for i, p in enumerate(self.parameters):
                optimizer.state.pop(p, None)
                if i in momenta:
                    optimizer.state[p]["momentum_buffer"] = momenta[i]
        try:
            yield
        finally:
            if optimizer is not None:
                used = {i for i, p in enumerate(self.parameters) if p.grad is not None}
                used |= set(range(len(self.parameters), len(self._tensors)))
                self.kept[arch] = {i: self._tensors[i].data for i in used} | {
                    i: t for i, t in kept.items() if i not in used
                }
                self.momenta[arch] = {
                    i: buffer
                    for i, p in enumerate(self.parameters)
                    if (buffer := optimizer.state.get(p, {}).get("momentum_buffer")) is not None
                }


@dataclass
class SupernetTraining:
    """One supernet in training, for the children of one group.

    What happens in an epoch depends on (seed, group, epoch) alone, so that a training that was
    saved and loaded anew continues bit for bit on the same machine.

    Args:
        recipe: how.
        children: of the space.
        group: whose.
        data: what with.
        seed: of weights, order and mini-batches.
        device: where.
    """

    recipe: "WeightSharing"
    children: Children
    group: int
    data: Data
    seed: int
    device: torch.device
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    #: (kind, offset from the end, architecture in its notation, accuracy)
    rankings: list[tuple[str, int, str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        space, data = self.children.space, self.data
        torch.manual_seed(derived_seed(self.seed, _WEIGHTS, self.group))
        supernet = sharing(space).supernet(data.input_shape, data.num_classes, self.recipe.affine)
        self.supernet: Supernet = supernet.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.order = Order(
            self.children, self.group, self.recipe.sampling,
            derived_seed(self.seed, _ORDER, self.group),
        )  # fmt: skip
        self.batch_size = min(self.recipe.batch_size, len(data.train))
        self.steps = max(1, len(data.train) // self.batch_size)
        self.optimizer = self._optimizer(self.recipe.learning_rate)
        prefix = self.recipe.prefix
        self.private = None
        if prefix is not None:
            self.private = PrivateWeights(self.supernet.modules_after(prefix))

    def _optimizer(self, learning_rate: float) -> torch.optim.SGD:
        return torch.optim.SGD(
            self.supernet.parameters(),
            lr=learning_rate,
            momentum=self.recipe.momentum,
            weight_decay=self.recipe.weight_decay,
            foreach=True,  # the fused one wants all momenta to be there, or none
        )

    def train_epoch(self) -> dict[str, float]:
        """Train for one epoch.

        Returns:
            `train_loss`, the mean over the steps; `learning_rate`; `seconds`.

        Raises:
            Diverged: when the loss is no longer finite.
        """
        start = time.perf_counter()
        seed = derived_seed(self.seed, _BATCHES, self.group, self.epoch)
        batches = self.data.train.batches(self.batch_size, self.device, seed=seed, augment=True)
        total = torch.zeros((), device=self.device)
        paths = self.order.epoch(self.epoch, self.steps)
        torch.manual_seed(seed)  # of dropout, say
        self.supernet.train()
        for done, ((images, labels), archs) in enumerate(zip(batches, paths, strict=True), 1):
            self._set_learning_rate(self.epoch * self.steps + done - 1)
            total += self.train_step(images, labels, archs)
            look = done % _CHECK_EVERY == 0 or done == self.steps
            if look and not torch.isfinite(total):
                raise Diverged(f"the supernet's loss is {float(total)}, epoch {self.epoch + 1}")
            self._rank_batch(done)
        self.epoch += 1
        self._rank_epoch()
        metrics = {
            "train_loss": float(total) / self.steps,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": time.perf_counter() - start,
        }
        self.history.append(metrics)
        return metrics

    def train_step(self, images: Tensor, labels: Tensor, archs: Sequence[Architecture]) -> Tensor:
        """One update by the gradients of some paths on one mini-batch; their mean loss."""
        keep = self.recipe.unused == "zero_gradient"
        self.optimizer.zero_grad(set_to_none=not keep)
        if self.private is None:
            return self._update(images, labels, archs)
        (arch,) = archs
        with self.private.of(arch, self.optimizer):
            return self._update(images, labels, archs)

    def _update(self, images: Tensor, labels: Tensor, archs: Sequence[Architecture]) -> Tensor:
        total = torch.zeros((), device=self.device)
        for arch in archs:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
                loss = functional.cross_entropy(self.supernet(images, arch), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if self.recipe.gradient_clip:
            nn.utils.clip_grad_norm_(self.supernet.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        return total / len(archs)

    @cached_property
    def _half(self) -> bool:
        """Whether to train in mixed precision."""
        if self.device.type != "cuda":
            return False  # bfloat16 is many times slower than float32 on most CPUs
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))

    def _set_learning_rate(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)

    def _learning_rate(self, step: int) -> float:
        first, last = self.recipe.learning_rate, self.recipe.final_learning_rate
        fraction = min(step / (self.recipe.epochs * self.steps), 1.0)
        return last + (first - last) * (1 + math.cos(math.pi * fraction)) / 2

    def _forget_gradients(self) -> None:
        """None; or zero for weights that have been used, where those move on without one."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.recipe.unused == "zero_gradient":
            for p, state in self.optimizer.state.items():
                if state:
                    p.grad = torch.zeros_like(p)

    # Judging

    def evaluate(self, archs: Sequence[Architecture]) -> list[tuple[float, float]]:
        """(mean cross-entropy, accuracy 0..1) of children on the validation part."""
        if self.recipe.fine_tuning:
            return [list(self.fine_tuned(arch, self.recipe.fine_tuning))[-1] for arch in archs]
        return self._judged(archs, self._images)

    def _judged(self, archs: Sequence[Architecture], images: Images) -> list[tuple[float, float]]:
        statistics = self.recipe.statistics
        if self.private is None:
            return evaluate_children(self.supernet, archs, images, statistics)
        found = []
        for arch in archs:
            with self.private.of(arch):
                found += evaluate_children(self.supernet, [arch], images, statistics)
        return found

    def fine_tuned(
        self, arch: Architecture, batches: int, every: int | None = None
    ) -> Iterator[tuple[float, float]]:
        """Train a child alone, from the shared weights; the supernet is as before afterwards.

        With a new optimizer and the learning rate that the schedule has at this epoch (section
        "fine-tuning" of the study).

        Args:
            arch: the child.
            batches: number of mini-batches.
            every: judge it after every so many of them; None: only at the end.

        Yields:
            (mean cross-entropy, accuracy) on the validation part.
        """
        before = {name: tensor.clone() for name, tensor in self.supernet.state_dict().items()}
        optimizer, self.optimizer = (
            self.optimizer,
            self._optimizer(max(self._learning_rate(self.epoch * self.steps), 1e-8)),
        )
        private, self.private = self.private, None
        try:
            with private.of(arch) if private else nullcontext():
                seed = derived_seed(self.seed, _BATCHES, self.group, self.epoch, *arch.choices)
                torch.manual_seed(seed)
                done = 0
                while done < batches:
                    epoch = self.data.train.batches(
                        self.batch_size, self.device, seed=derived_seed(seed, done), augment=True
                    )
                    for images, labels in epoch:
                        self.supernet.train()
                        self.train_step(images, labels, [arch])
                        done += 1
                        if done == batches or (every and done % every == 0):
                            yield self._judged([arch], self._images)[0]
                        if done == batches:
                            break
        finally:
            self.optimizer, self.private = optimizer, private
            self.supernet.load_state_dict(before)
            self._forget_gradients()

    @cached_property
    def _images(self) -> Images:
        return self._images_of(None)

    @cached_property
    def _probe_images(self) -> Images:
        return self._images_of(_PROBE_IMAGES)

    def _images_of(self, most: int | None) -> Images:
        calibration = None
        if self.recipe.statistics == "recomputed":
            size = min(self.recipe.calibration, len(self.data.train))
            seed = derived_seed(self.seed, _CALIBRATION)
            calibration, _ = next(self.data.train.batches(size, self.device, seed=seed))
        seed = derived_seed(self.seed, _IMAGES)
        return Images.of(self.data.validation, self.device, seed, most, calibration)

    # Ranking the probes

    @cached_property
    def probes(self) -> list[Architecture]:
        """The children that are ranked again and again: this group's share."""
        share = -(-self.recipe.probes // len(self.children))
        return self.children.some(self.group, share, derived_seed(0, _PROBES, self.group))

    def _rank_batch(self, done: int) -> None:
        offset = self.steps - done
        if self.epoch == self.recipe.epochs - 1 and offset < self.recipe.ranked_batches:
            self._rank("batch", offset)

    def _rank_epoch(self) -> None:
        offset = self.recipe.epochs - self.epoch
        if offset < self.recipe.ranked_epochs:
            self._rank("epoch", offset)
        if offset == 0:
            self._rank("final", 0)

    def _rank(self, kind: str, offset: int) -> None:
        if not self.recipe.probes:
            return
        training = self.supernet.training
        images = self._images if kind == "final" else self._probe_images
        for arch, (_, accuracy) in zip(self.probes, self._judged(self.probes, images), strict=True):
            notation = self.children.space.to_string(arch)
            self.rankings.append((kind, offset, notation, accuracy))
        self.supernet.train(training)

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on."""
        private = self.private
        return {
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
            "rankings": self.rankings,
            "private": {a.choices: t for a, t in private.kept.items()} if private else {},
            "momenta": {a.choices: t for a, t in private.momenta.items()} if private else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._forget_gradients()
        self.epoch = state["epoch"]
        self.history, self.rankings = list(state["history"]), list(state["rankings"])
        if self.private is not None:
            name = self.children.space.name
            for key, own in (("private", self.private.kept), ("momenta", self.private.momenta)):
                own.clear()
                own.update({Architecture(name, c): dict(t) for c, t in state[key].items()})
