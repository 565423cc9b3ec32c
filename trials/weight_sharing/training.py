"""Training one supernet, for the children of one group: the loop, and what it keeps."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from search_spaces import Architecture
from search_spaces.weight_sharing.space import sharing
from search_spaces.weight_sharing.supernet import Supernet
from trials.data import Data
from trials.optimization import RunningLoss, cosine
from trials.trial import derived_seed
from trials.weight_sharing.children import Children, Order
from trials.weight_sharing.fine_tuning import fine_tuned
from trials.weight_sharing.judging import Judge
from trials.weight_sharing.path_step import PathStep
from trials.weight_sharing.private_weights import PrivateWeights
from trials.weight_sharing.rankings import Rankings, Row
from trials.weight_sharing.recipe import Recipe
from trials.weight_sharing.seeds import Role


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

    recipe: Recipe
    children: Children
    group: int
    data: Data
    seed: int
    device: torch.device
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        recipe, data = self.recipe, self.data
        torch.manual_seed(self._seed(Role.WEIGHTS))
        space = sharing(self.children.space)
        supernet = space.supernet(data.input_shape, data.num_classes, recipe.affine)
        self.supernet: Supernet = supernet.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.order = Order(self.children, self.group, recipe.sampling, self._seed(Role.ORDER))
        self.batch_size = min(recipe.batch_size, len(data.train))
        self.steps = max(1, len(data.train) // self.batch_size)
        self.private = None
        if recipe.prefix is not None:
            self.private = PrivateWeights(self.supernet.modules_after(recipe.prefix))
        self.step = PathStep(recipe, self.supernet, self.device, recipe.learning_rate, self.private)
        self.judge = Judge(recipe, self.supernet, self.private, data, self.seed, self.device)
        self.ranking = Rankings(recipe, self.children, self.group, self.judge)

    def _seed(self, role: Role, *path: int) -> int:
        return derived_seed(self.seed, role, self.group, *path)

    @property
    def rankings(self) -> list[Row]:
        """(kind, offset from the end, architecture, accuracy) of the probes."""
        return self.ranking.rows

    def train_epoch(self) -> dict[str, float]:
        """Train for one epoch.

        Returns:
            `train_loss`, the mean over the steps; `learning_rate`; `seconds`.

        Raises:
            Diverged: when the loss is no longer finite.
        """
        start = time.perf_counter()
        seed, left = self._seed(Role.BATCHES, self.epoch), self.recipe.epochs - self.epoch
        batches = self.data.train.batches(self.batch_size, self.device, seed=seed, augment=True)
        paths = self.order.epoch(self.epoch, self.steps)
        loss = RunningLoss(self.device, "the supernet's loss", self.epoch + 1)
        torch.manual_seed(seed)  # of dropout, say
        self.supernet.train()
        for done, ((images, labels), archs) in enumerate(zip(batches, paths, strict=True)):
            self.step.update.set_learning_rate(self._learning_rate(done))
            loss.add(self.step(images, labels, archs))
            self.ranking.after_batch(left, self.steps - done - 1)
        train_loss = loss.mean()
        self.epoch += 1
        self.ranking.after_epoch(left - 1)
        metrics = {
            "train_loss": train_loss,
            "learning_rate": self._learning_rate(-1),  # of the step before the next epoch's first
            "seconds": time.perf_counter() - start,
        }
        self.history.append(metrics)
        return metrics

    def _learning_rate(self, step: int) -> float:
        """Return the rate of a step of the present epoch."""
        done, steps = self.epoch * self.steps + step, self.recipe.epochs * self.steps
        return cosine(self.recipe.learning_rate, self.recipe.final_learning_rate, done / steps)

    def evaluate(self, archs: Sequence[Architecture]) -> list[tuple[float, float]]:
        """Return (mean cross-entropy, accuracy 0..1) of children on the validation part."""
        if self.recipe.fine_tuning:
            return [list(self.fine_tuned(arch, self.recipe.fine_tuning))[-1] for arch in archs]
        return self.judge.evaluate(archs, self.judge.images)

    def fine_tuned(
        self, arch: Architecture, batches: int, every: int | None = None
    ) -> Iterator[tuple[float, float]]:
        """Train a child alone, with the learning rate that the schedule has at this epoch.

        Args:
            arch: the child; see `trials.weight_sharing.fine_tuning`.
            batches: number of mini-batches.
            every: judge it after every so many of them; None: only at the end.

        Yields:
            (mean cross-entropy, accuracy) on the validation part.
        """
        return fine_tuned(
            self.step, arch, self.data.train, self.batch_size, batches, self._learning_rate(0),
            self._seed(Role.BATCHES, self.epoch, *arch.choices),
            lambda: self.judge.evaluate_as_is([arch], self.judge.images)[0], every,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on."""
        private = self.private.state_dict() if self.private else {"private": {}, "momenta": {}}
        return {
            "supernet": self.supernet.state_dict(),
            "optimizer": self.step.update.optimizer.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
            "rankings": self.rankings,
            **private,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.supernet.load_state_dict(state["supernet"])
        self.step.update.load_state_dict(state)
        self.step.update.forget_gradients()
        self.epoch, self.history = state["epoch"], list(state["history"])
        self.ranking.rows = list(state["rankings"])
        if self.private is not None:
            self.private.load_state_dict(state, self.children.space.name)
