"""Training a network from scratch: the evaluator `train`."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from search_spaces import Architecture, SearchSpace
from search_spaces.counting import count_params
from search_spaces.errors import InvalidArgument
from search_spaces.modules import HasAuxiliaryHead, HasDropPath
from trials.averaging import Average
from trials.data import Data, Part
from trials.optimization import RunningLoss, TrainingStep, decay_groups, warmed_cosine
from trials.pace import Pace, Work
from trials.synchronized_norm import synchronized
from trials.trial import (
    VALIDATION_LOGITS,
    WEIGHTS,
    Diverged,
    Evaluator,
    Trial,
    derived_seed,
)
from trials.workers import Workers

_EVALUATION_BATCH = 512
_LAST_WEIGHTS = "last_network"  # key of the weights that an average is of
_AUXILIARY_WEIGHT = 0.4


@dataclass(frozen=True)
class Train(Evaluator):
    """Trains every architecture from scratch.

    SGD with Nesterov momentum, the learning rate falling to 0 on a cosine over all steps;
    channels-last; mixed precision on a GPU (bfloat16, or float16 with loss scaling). With
    auxiliary head, drop path and cutout it is the retraining of DARTS (Liu et al., ICLR 2019,
    section 3.2 and its code), but for Nesterov's correction.

    Args:
        batch_size: images of one step.
        learning_rate: of the first step.
        momentum: of SGD, with Nesterov's correction.
        weight_decay: L2 penalty on all parameters.
        label_smoothing: probability that the target spreads over all classes.
        gradient_clip: largest L2 norm of the gradient; 0 leaves it as it is.
        auxiliary_weight: of the loss of an auxiliary head, added to the main loss; without
            effect on a network that has none (see `search_spaces.modules.HasAuxiliaryHead`).
            None: 0.4, as in the papers.
        drop_path: probability of dropping a path at the end of the training; it rises linearly
            from 0 over all steps. For networks that drop paths only (`HasDropPath`). None: as
            the network has it.
        cutout: side of the square that is set to the mean at a random place of each training
            image, in pixels; None: as the data have it.
        mixup: alpha of the beta distribution that the share of the second of two mixed images is
            drawn from, once a batch (Zhang et al.: mixup, ICLR 2018); None: none are mixed.
        warmup: share of all steps over which the learning rate rises linearly from 0; None: 0.
        decay_norms: whether the penalty is also on biases and on scale and shift of
            normalizations; None: yes.
        averaging: decay of the exponential moving average of the weights (EMA), which is judged
            and kept in their place; early on it is smaller, so that the first weights are
            forgotten. None: no average.
        precision: of activations and gradients: `bfloat16` also on a CPU, `float32` also on a
            GPU. None: mixed precision on a GPU, float32 on a CPU.
        epoch_seconds: what an epoch is: so many steps as take about that long at `pace`, so that
            small networks see more images than large ones in the same time. None: one pass over
            the training images.
        pace: see `trials.pace.Pace`; goes with `epoch_seconds`.
        sync_norm: whether batch normalization is over the whole batch also where several
            processes share it, each of which else normalizes its own share. None: no.
    """

    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 0.1
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    gradient_clip: Annotated[float, Ge(0)] = 5.0
    # None is not spelled out in a run's arguments, which older runs are found by
    auxiliary_weight: NonNegativeFloat | None = None
    drop_path: Annotated[float, Interval(ge=0, lt=1)] | None = None
    cutout: NonNegativeInt | None = None
    mixup: PositiveFloat | None = None
    warmup: Annotated[float, Interval(ge=0, lt=1)] | None = None
    decay_norms: bool | None = None
    averaging: Annotated[float, Interval(gt=0, lt=1)] | None = None
    precision: Literal["bfloat16", "float32"] | None = None
    epoch_seconds: PositiveFloat | None = None
    pace: str | None = None
    sync_norm: bool | None = None

    def check(self, space: SearchSpace, data: Data) -> None:
        """Refuse a cutout larger than the images, and what the networks or other options lack.

        Raises:
            InvalidArgument: saying which.
        """
        if (self.epoch_seconds is None) != (self.pace is None):
            raise InvalidArgument(
                f"evaluate: epoch_seconds={self.epoch_seconds} and pace={self.pace} go together:"
                " give both or neither."
            )
        if self.pace is not None:
            Pace.parse(self.pace)
        _, height, width = data.input_shape
        if (self.cutout or 0) > min(height, width):
            raise InvalidArgument(
                f"evaluate: cutout={self.cutout} is larger than the images, {height}x{width}."
            )
        if self.drop_path is not None:
            self.dropping(_network(space, space.sample(np.random.default_rng(0)), data, seed=0))

    def check_workers(self, workers: int, data: Data) -> None:
        """Refuse more workers than a batch, or a part of the data, has images.

        Raises:
            InvalidArgument: saying how many there may be.
        """
        parts = (data.train, data.validation, data.test)
        most = min(self.batch_size, *(len(part) for part in parts))
        if workers > most:
            raise InvalidArgument(
                f"{workers} workers are more than share the {most} images of a batch or of the"
                " smallest part of the data: use fewer workers or a larger batch_size."
            )

    def dropping(self, network: nn.Module) -> HasDropPath | None:
        """Return the network if its drop path is to be set, else None.

        Raises:
            InvalidArgument: when it has none.
        """
        if self.drop_path is None:
            return None
        if isinstance(network, HasDropPath):
            return network
        raise InvalidArgument(
            f"evaluate: drop_path={self.drop_path}: the networks of this space drop no paths (they"
            " have no attribute `drop_path`). Leave it out, or choose darts, nasnet, amoebanet,"
            " pnas or enas."
        )

    @property
    def epoch_length(self) -> float | None:
        """See `AnyEvaluator`."""
        return self.epoch_seconds

    def lasting(self, seconds: float) -> "Train":
        """See `AnyEvaluator`; only with a pace."""
        return self if self.pace is None else replace(self, epoch_seconds=seconds)

    def trial(
        self,
        space: SearchSpace,
        arch: Architecture,
        data: Data,
        epochs: int,
        seed: int,
        device: torch.device,
    ) -> "TrainingTrial":
        """Return a trial that trains on the training part and is judged on the validation part."""
        network = _network(space, arch, data, seed)
        return TrainingTrial(self, network, data.train, data.validation, epochs, seed, device)

    def retraining(
        self,
        space: SearchSpace,
        arch: Architecture,
        data: Data,
        epochs: int,
        seed: int,
        device: torch.device,
    ) -> "TrainingTrial":
        """Return a trial that trains on both parts; its `val_` metrics are of the test part."""
        network = _network(space, arch, data, seed)
        return TrainingTrial(
            self, network, data.train_and_validation, data.test, epochs, seed, device
        )


class TrainingTrial(Trial):
    """One network in training; see `Train`."""

    def __init__(
        self,
        recipe: Train,
        network: nn.Module,
        train: Part,
        validation: Part,
        epochs: int,
        seed: int,
        device: torch.device,
    ):
        self.recipe, self.validation = recipe, validation
        self.train = train if recipe.cutout is None else train.with_cutout(recipe.cutout)
        self.epochs, self.seed, self.device = epochs, seed, device
        self.workers = Workers.present()
        self.num_classes = 1 + int(train.store.labels.max())
        work = Work.of(network, train.input_shape)
        self.counts = {"params": count_params(network), "macs": work.macs}
        if recipe.sync_norm and self.workers.count > 1:
            network = synchronized(network, device)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dropping = recipe.dropping(self.network)
        self.batch_size = min(recipe.batch_size, len(train))
        self.steps = self._steps_of(work)
        optimizer = torch.optim.SGD(
            decay_groups(self.network, recipe.weight_decay, recipe.decay_norms is not False),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
        self.update = TrainingStep(
            optimizer, device, recipe.gradient_clip, precision=recipe.precision
        )
        #: the average of the weights, which is judged and kept
        self.average = None if recipe.averaging is None else Average(self.network, recipe.averaging)
        self.seconds = 0.0
        self.loss = self._shared_loss()
        #: of the last epoch, `images x classes`, in the order of the validation part
        self.validation_logits: Tensor | None = None

    def step(self) -> dict[str, float]:
        """Train for one epoch, then judge on the validation part."""
        start = time.perf_counter()
        train_loss = self.train_epoch()
        self.seconds += time.perf_counter() - start
        logits, labels = self._predictions()
        val_loss, val_accuracy = loss_and_accuracy(logits, labels)
        self.validation_logits = logits.cpu()
        self.epoch += 1
        if not math.isfinite(val_loss):
            raise Diverged(f"validation loss is {val_loss} after epoch {self.epoch}")
        return {
            "train_loss": train_loss,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "train_seconds": self.seconds,
            **self.counts,
        }

    def train_epoch(self) -> float:
        """Train for one epoch; return the mean loss of its steps."""
        seed = derived_seed(self.seed, self.epoch)
        workers = self.workers
        torch.manual_seed(seed if workers.rank == 0 else derived_seed(seed, workers.rank))
        workers.agree(self.network.state_dict().values())
        self.network.train()
        loss = RunningLoss(self.device, "training loss", self.epoch + 1, workers)
        for step, (images, labels) in enumerate(self._batches(seed), self.epoch * self.steps):
            progress = step / (self.epochs * self.steps)
            self.update.set_learning_rate(
                warmed_cosine(self.recipe.learning_rate, progress, self.recipe.warmup or 0.0)
            )
            if self.dropping is not None:
                self.dropping.drop_path = (self.recipe.drop_path or 0.0) * progress
            loss.add(self.train_step(images, labels))
            if self.average is not None:
                self.average.update(step)
        return loss.mean()

    def _batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch: of one pass, or of as many passes as its steps take."""
        if self.recipe.epoch_seconds is None:
            return self._one_pass(seed)
        return itertools.islice(self.endless_batches(seed), self.steps)

    def endless_batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one pass over the training images after another."""
        for number in itertools.count():
            yield from self._one_pass(derived_seed(seed, number))

    def _one_pass(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this worker's share of all batches; whole ones where images are mixed first."""
        whole = self.recipe.mixup is not None or self.workers.count == 1
        share = None if whole else self.workers.share
        return self.train.batches(self.batch_size, self.device, seed, augment=True, share=share)

    def _steps_of(self, work: Work) -> int:
        """Return the steps of an epoch of a network with this work."""
        if self.recipe.epoch_seconds is None or self.recipe.pace is None:
            return max(1, len(self.train) // self.batch_size)
        images = -(-self.batch_size // self.workers.count)  # of a step, on each worker
        step = Pace.parse(self.recipe.pace).seconds(work, images)
        return max(1, round(self.recipe.epoch_seconds / step))

    @property
    def judged(self) -> nn.Module:
        """The network that is judged: with averaged weights, where there are any."""
        return self.network if self.average is None else self.average.network

    def train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Update the weights once by a batch of `_one_pass`; return its loss.

        Of several workers, the mean of what they return is the loss of the batch.
        """
        if self.recipe.mixup is not None:
            images, labels = self._mixed(images, labels, self.recipe.mixup)
        if self.workers.count == 1:
            return self.update([lambda: self.loss(images, labels)])
        weight = len(images) * self.workers.count / self.batch_size  # shares may differ by one
        return self.update([lambda: weight * self.loss(images, labels)])

    def _mixed(self, images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """Mix every image of this worker's share of a batch with another one of the batch.

        Returns:
            The images, and probabilities of classes.
        """
        same, own = self.workers.same, self.workers.share(len(images))
        share = float(same(torch.distributions.Beta(alpha, alpha).sample().to(images.device)))
        other = same(torch.randperm(len(images)).to(images.device))[own]
        targets = functional.one_hot(labels, self.num_classes).to(images.dtype)
        mixed = torch.lerp(images[own], images[other], share)
        return (
            mixed.contiguous(memory_format=torch.channels_last),
            torch.lerp(targets[own], targets[other], share),
        )

    def _shared_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the function that computes the loss of a batch.

        Of several workers, its gradients become the means of theirs.
        """
        if self.workers.count == 1:
            return self._loss
        # Users' networks may leave parameters out, and leave others out in the next step.
        loss = _Loss(self.network, self._loss)
        return DistributedDataParallel(loss, find_unused_parameters=True, init_sync=False)

    def _predictions(self) -> tuple[Tensor, Tensor]:
        """Return logits and labels of the validation part, of which each worker takes a share."""
        part, workers = self.validation, self.workers
        workers.agree(self.judged.state_dict().values())
        own = Part(part.store, part.indices[workers.share(len(part))])
        bfloat16 = self.recipe.precision == "bfloat16"
        logits, labels = (
            workers.gathered(rows, len(part))
            for rows in predict(self.judged, own, self.device, bfloat16)
        )
        return logits, labels

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch, with that of the auxiliary head where there is one."""
        loss = self._cross_entropy(self.network(images), labels)
        network = self.network
        if isinstance(network, HasAuxiliaryHead) and network.auxiliary_logits is not None:
            weight = self.recipe.auxiliary_weight
            auxiliary = self._cross_entropy(network.auxiliary_logits, labels)
            loss = loss + (_AUXILIARY_WEIGHT if weight is None else weight) * auxiliary
        return loss

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimizer and loss scale, epochs done, seconds spent.

        After the last epoch, also the logits. Before it they are left out, as few of the epochs
        are of what becomes a member of an ensemble, which can also compute them.
        """
        average = {} if self.average is None else {_LAST_WEIGHTS: self.network.state_dict()}
        last = self.epoch == self.epochs
        logits = {VALIDATION_LOGITS: self.validation_logits} if last else {}
        return {
            WEIGHTS: self.judged.state_dict(),
            **average,
            **logits,
            **self.update.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.judged.load_state_dict(state[WEIGHTS])
        if self.average is not None:
            self.network.load_state_dict(state[_LAST_WEIGHTS])
        self.validation_logits = state.get(VALIDATION_LOGITS)
        self.update.load_state_dict(state)
        self.epoch, self.seconds = state["epoch"], state["seconds"]


class _Loss(nn.Module):
    """The loss of a network as a module, which workers share.

    It has the network's parameters but not its buffers, which PyTorch would copy in every step.
    """

    def __init__(self, network: nn.Module, compute: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.weights, self.compute = nn.ParameterList(network.parameters()), compute

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.compute(images, labels)


def evaluate(network: nn.Module, part: Part, device: torch.device) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy (0..1) of a network on a part of the data."""
    return loss_and_accuracy(*predict(network, part, device))


def predict(
    network: nn.Module, part: Part, device: torch.device, bfloat16: bool = False
) -> tuple[Tensor, Tensor]:
    """Return logits (`images x classes`) and labels of a part of the data, in its order.

    Args:
        network: put into evaluation mode.
        part: whose images.
        device: of the network.
        bfloat16: compute in bfloat16 where that is as good; the logits are float32 in any case.
    """
    network.eval()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        batches = [
            (network(images).float(), labels)
            for images, labels in part.batches(_EVALUATION_BATCH, device)
        ]
    logits, labels = zip(*batches, strict=True)
    return torch.cat(logits), torch.cat(labels)


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy (0..1) of `images x classes` logits."""
    loss = functional.cross_entropy(logits, labels)
    return float(loss), float((logits.argmax(1) == labels).double().mean())


def _network(space: SearchSpace, arch: Architecture, data: Data, seed: int) -> nn.Module:
    """Build the network of `arch` with the initial weights that belong to `seed`."""
    torch.manual_seed(seed)
    return space.build(arch, data.input_shape, data.num_classes)
