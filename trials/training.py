"""Training a network from scratch: the evaluator `train`."""

import math
import time
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from search_spaces import Architecture, SearchSpace
from search_spaces.counting import count_macs, count_params
from trials.data import Data, Part
from trials.optimization import RunningLoss, TrainingStep, cosine
from trials.trial import (
    VALIDATION_LOGITS,
    WEIGHTS,
    Diverged,
    Evaluator,
    Trial,
    derived_seed,
)

_EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Train(Evaluator):
    """Trains every architecture from scratch.

    SGD with Nesterov momentum, the learning rate falling to 0 on a cosine over all steps;
    channels-last; mixed precision on a GPU (bfloat16, or float16 with loss scaling).

    Args:
        batch_size: images of one step.
        learning_rate: of the first step.
        momentum: of SGD, with Nesterov's correction.
        weight_decay: L2 penalty on all parameters.
        label_smoothing: probability that the target spreads over all classes.
        gradient_clip: largest L2 norm of the gradient; 0 leaves it as it is.
    """

    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 0.1
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    gradient_clip: Annotated[float, Ge(0)] = 5.0

    def trial(
        self,
        space: SearchSpace,
        arch: Architecture,
        data: Data,
        epochs: int,
        seed: int,
        device: torch.device,
    ) -> "TrainingTrial":
        """Train on the training part, judge on the validation part."""
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
        """Train on training and validation part together; `val_` metrics are of the test part."""
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
        self.recipe, self.train, self.validation = recipe, train, validation
        self.epochs, self.seed, self.device = epochs, seed, device
        self.counts = {
            "params": count_params(network),
            "macs": count_macs(network, train.input_shape),
        }
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch_size = min(recipe.batch_size, len(train))
        self.steps = max(1, len(train) // self.batch_size)
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
        self.update = TrainingStep(optimizer, device, recipe.gradient_clip)
        self.seconds = 0.0
        #: of the last epoch, `images x classes`, in the order of the validation part
        self.validation_logits: Tensor | None = None

    def step(self) -> dict[str, float]:
        """One epoch of training, one pass over the validation part."""
        start = time.perf_counter()
        train_loss = self._train_epoch()
        self.seconds += time.perf_counter() - start
        logits, labels = predict(self.network, self.validation, self.device)
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

    def _train_epoch(self) -> float:
        """Train for one epoch; the mean loss of its steps."""
        seed = derived_seed(self.seed, self.epoch)
        torch.manual_seed(seed)
        self.network.train()
        loss = RunningLoss(self.device, "training loss", self.epoch + 1)
        batches = self.train.batches(self.batch_size, self.device, seed=seed, augment=True)
        for step, (images, labels) in enumerate(batches, start=self.epoch * self.steps):
            progress = step / (self.epochs * self.steps)
            self.update.set_learning_rate(cosine(self.recipe.learning_rate, 0.0, progress))
            loss.add(self._train_step(images, labels))
        return loss.mean()

    def _train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.update([lambda: self._loss(images, labels)])

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        return functional.cross_entropy(self.network(images), labels, label_smoothing=smoothing)

    def state_dict(self) -> dict[str, Any]:
        """Weights, their logits, optimizer and loss scale, epochs done, seconds spent."""
        return {
            WEIGHTS: self.network.state_dict(),
            VALIDATION_LOGITS: self.validation_logits,
            **self.update.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.network.load_state_dict(state[WEIGHTS])
        self.validation_logits = state.get(VALIDATION_LOGITS)
        self.update.load_state_dict(state)
        self.epoch, self.seconds = state["epoch"], state["seconds"]


def evaluate(network: nn.Module, part: Part, device: torch.device) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (0..1) of a network on a part of the data."""
    return loss_and_accuracy(*predict(network, part, device))


def predict(network: nn.Module, part: Part, device: torch.device) -> tuple[Tensor, Tensor]:
    """(logits `images x classes`, labels `images`) of a part of the data, in its order."""
    network.eval()
    with torch.inference_mode():
        batches = [
            (network(images), labels) for images, labels in part.batches(_EVALUATION_BATCH, device)
        ]
    logits, labels = zip(*batches, strict=True)
    return torch.cat(logits), torch.cat(labels)


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (0..1) of `images x classes` logits."""
    loss = functional.cross_entropy(logits, labels)
    return float(loss), float((logits.argmax(1) == labels).double().mean())


def _network(space: SearchSpace, arch: Architecture, data: Data, seed: int) -> nn.Module:
    """The network of `arch` with the initial weights that belong to `seed`."""
    torch.manual_seed(seed)
    return space.build(arch, data.input_shape, data.num_classes)
