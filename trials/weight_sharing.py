"""Weight sharing: one supernet is trained, every architecture is judged with its weights.

Guo et al.: Single Path One-Shot NAS (ECCV 2020); Li, Talwalkar: Random Search and
Reproducibility for NAS (UAI 2019); for groups, prefixes and what the ranking is worth, Zhang et
al.: Deeper Insights into Weight Sharing in NAS (arXiv 2001.01431).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import InvalidArgument
from search_spaces.supernet import Statistics, Supernet
from trials.children import Children, Grouping, Order, Sampling
from trials.data import Data
from trials.many_children import Images, evaluate_children
from trials.trial import Diverged, Estimator, derived_seed

_WEIGHTS, _ORDER, _BATCHES, _IMAGES, _PROBES, _CALIBRATION = range(6)  # drawn from the seed
_PROBE_IMAGES = 512
_CHECK_EVERY = 50  # steps between looks at the loss: each look makes a GPU wait
_MAX_PRIVATE = 10_000  # children with weights of their own


@dataclass(frozen=True)
class WeightSharing(Estimator):
    """Judges architectures with the weights of a supernet that is trained first.

    SGD with momentum; the learning rate falls on a cosine over all steps; every mini-batch
    trains one path (with `fair`, one path for each choice).

    Args:
        epochs: of the supernet's training, for each group.
        batch_size: images of one step.
        learning_rate: of the first step.
        final_learning_rate: of the last step.
        momentum: of SGD.
        weight_decay: L2 penalty on the weights of the path.
        gradient_clip: largest L2 norm of the gradient; 0 leaves it as it is.
        sampling: which path is trained when: `uniform`, `fair`, `cycle`, `shuffled` or
            `reshuffled` (`trials.children.Sampling`).
        canonical: train and judge one architecture only of those that compute the same function.
        unused: what happens to weights off the path: `untouched`; or `zero_gradient`: they get
            updates by momentum and weight decay, once they have been used (the behavior of
            the weight-sharing study's own code with the PyTorch of its time).
        affine: scale and shift in the choices' batch normalization.
        statistics: of batch normalization when a child is judged: those of the `batch`;
            `recomputed` from training images; or `running`.
        calibration: training images that statistics are recomputed from.
        fine_tuning: mini-batches that a child is trained alone, from the shared weights, before
            it is judged.
        groups: of children, each with a supernet of its own that is trained as long.
        grouping: `similarity` (of the leading decisions), `random`, or a function from an
            architecture to its group's key.
        prefix: number of layers that are shared, the stem aside; behind them every child has
            weights of its own. None: everything is shared.
        replicas: further processes that judge children with the trained weights.
        probes: children that are ranked again and again towards the end of the training, to
            tell how far the ranking can be trusted; 0: none.
        ranked_epochs: after how many of the last epochs they are ranked.
        ranked_batches: after how many of the last mini-batches they are ranked.
    """

    epochs: PositiveInt = 20
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 0.025
    final_learning_rate: NonNegativeFloat = 0.001
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    gradient_clip: Annotated[float, Ge(0)] = 5.0
    sampling: Sampling = "uniform"
    canonical: bool = False
    unused: Literal["untouched", "zero_gradient"] = "untouched"
    affine: bool = False
    statistics: Statistics = "batch"
    calibration: PositiveInt = 256
    fine_tuning: NonNegativeInt = 0
    groups: PositiveInt = 1
    grouping: Grouping = "similarity"
    prefix: NonNegativeInt | None = None
    replicas: NonNegativeInt = 0
    probes: NonNegativeInt = 32
    ranked_epochs: NonNegativeInt = 5
    ranked_batches: NonNegativeInt = 8

    def open(
        self, space: SearchSpace, data: Data, seed: int, device: torch.device
    ) -> Callable[[Architecture], dict[str, float]]:
        """Train the supernet here and now; a function from architectures to metrics."""
        weights = SharedWeights(self, space, data, seed, device)
        weights.train()
        return lambda arch: weights.evaluate([arch])[0]

    def check(self, space: SearchSpace, data: Data) -> None:
        """Whether this can be done.

        Raises:
            InvalidArgument: saying what cannot, before anything is trained.
        """
        children = Children(space, self.groups, self.grouping, self.canonical)
        Order(children, 0, self.sampling, 0)
        supernet = space.supernet(data.input_shape, data.num_classes, self.affine)
        images = len(data.validation)
        if self.statistics == "batch" and images < 2:
            raise InvalidArgument(
                f"evaluate: the validation part has {images} image, whose statistics mean nothing;"
                " give more images, or statistics='running'."
            )
        if self.prefix is None:
            return
        if self.prefix > supernet.layers:
            raise InvalidArgument(
                f"prefix={self.prefix}: {space.name} has {supernet.layers} layers that can be"
                " shared."
            )
        if not 0 < len(children.listed) <= _MAX_PRIVATE:
            raise InvalidArgument(
                f"prefix={self.prefix} keeps weights for every child, of which {space.name} has"
                f" {len(children.listed) or space.size:.1e}; that works up to {_MAX_PRIVATE:,}."
            )
        if self.sampling == "fair":
            raise InvalidArgument("prefix: goes with one path in a step; sampling='fair' has more.")


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

    recipe: WeightSharing
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
        supernet = space.supernet(data.input_shape, data.num_classes, self.recipe.affine)
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
            with private.of(arch) if private else _nothing():
                seed = derived_seed(self.seed, _BATCHES, self.group, self.epoch, *arch.choices)
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
            self.optimizer.zero_grad(set_to_none=True)

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
        self.epoch = state["epoch"]
        self.history, self.rankings = list(state["history"]), list(state["rankings"])
        if self.private is not None:
            name = self.children.space.name
            for key, own in (("private", self.private.kept), ("momenta", self.private.momenta)):
                own.clear()
                own.update({Architecture(name, c): dict(t) for c, t in state[key].items()})


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class SharedWeights:
    """The supernets of all groups, and what they say of architectures.

    Args:
        recipe: how they are trained.
        space: of the architectures.
        data: what with.
        seed: of everything.
        device: where.

    Raises:
        InvalidArgument: see `WeightSharing.check`.
    """

    def __init__(
        self,
        recipe: WeightSharing,
        space: SearchSpace,
        data: Data,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        recipe.check(space, data)
        self.recipe, self.space, self.data = recipe, space, data
        self.children = Children(space, recipe.groups, recipe.grouping, recipe.canonical)
        self.trainings = [
            SupernetTraining(recipe, self.children, group, data, seed, torch.device(device))
            for group in range(len(self.children))
        ]

    @property
    def trained(self) -> bool:
        """Whether all epochs are done."""
        return all(training.epoch >= self.recipe.epochs for training in self.trainings)

    def train(self) -> None:
        """Train all supernets to the end."""
        for training in self.trainings:
            while training.epoch < self.recipe.epochs:
                training.train_epoch()

    def evaluate(self, archs: Sequence[Architecture]) -> list[dict[str, float]]:
        """`val_accuracy` (0..1), `val_loss` and, where they are cheap, `params` and `macs`.

        Raises:
            InvalidArgument: when there are no architectures.
            InvalidArchitecture: when one is of another space.
        """
        if not archs:
            raise InvalidArgument("architectures: none are given.")
        forms = [self.children.form(arch) for arch in archs]
        found: dict[Architecture, tuple[float, float]] = {}
        for group, training in enumerate(self.trainings):
            mine = list(dict.fromkeys(f for f in forms if self.children.group_of(f) == group))
            if mine:
                found.update(zip(mine, training.evaluate(mine), strict=True))
        return [self._metrics(arch, *found[f]) for arch, f in zip(archs, forms, strict=True)]

    def _metrics(self, arch: Architecture, loss: float, accuracy: float) -> dict[str, float]:
        metrics = {"val_accuracy": accuracy, "val_loss": loss}
        if self.space.counts_fast:
            counts = self.space.counts(arch, self.data.input_shape, self.data.num_classes)
            metrics |= {"params": counts.params, "macs": counts.macs}
        return metrics

    @property
    def rankings(self) -> list[tuple[str, int, str, float]]:
        """(kind, offset from the end, architecture, accuracy) of the probes of all groups."""
        return [row for training in self.trainings for row in training.rankings]
