"""One differentiable search: the loop, and what it keeps."""

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces import Architecture, SearchSpace
from search_spaces.weight_sharing.space import sharing
from search_spaces.weight_sharing.supernet import Supernet
from trials.data import Data, Part
from trials.differentiable.collapse import (
    NONES,
    SKIPS,
    entropy,
    largest_eigenvalue,
    operation_share,
)
from trials.differentiable.halves import cycling, halves
from trials.differentiable.options import Options
from trials.differentiable.problem import Batch, Path, Problem
from trials.differentiable.records import (
    Record,
    Size,
    is_reached,
    keep_best,
    model_size,
    size_names,
)
from trials.differentiable.seeds import Role
from trials.differentiable.statistics import RunningStatistics
from trials.optimization import RunningLoss, TrainingStep, cosine
from trials.trial import Diverged, Trial, derived_seed
from trials.weight_sharing.evaluation import evaluate_children
from trials.weight_sharing.images import Images

_EVALUATION_BATCH = 512
_INITIAL = 1e-3  # standard deviation of the architecture parameters at first (DARTS)


class GradientSearch(Trial, Problem):
    """A supernet and its architecture parameters in training; see `Options`.

    What happens in an epoch depends on (seed, epoch) alone, so that a search that was saved and
    loaded anew continues bit for bit on the same machine.

    Args:
        options: how.
        space: whose supernet.
        data: w learns on one half of its training part, a on the other; its validation part only
            ranks what is derived, its test part is not touched.
        epochs: in all.
        seed: of weights, architecture parameters, halves and mini-batches.
        device: where.

    Attributes:
        supernet: with the weights w.
        parameters_: the architecture parameters a: for each slot one logit for each choice. They
            are no parameters of the supernet.
        records: for each model size the best architecture derived so far.
        stopped: whether the expected size has been reached, so that no further epoch is wanted.
    """

    def __init__(
        self,
        options: Options,
        space: SearchSpace,
        data: Data,
        epochs: int,
        seed: int,
        device: torch.device,
    ):
        self.options, self.space, self.data = options, space, data
        self.epochs, self.seed, self.device = epochs, seed, device
        self.rule = options.rule
        torch.manual_seed(derived_seed(seed, Role.WEIGHTS))
        supernet = sharing(space).differentiable_supernet(data.input_shape, data.num_classes)
        self.supernet: Supernet = supernet.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.supernet.checkpoint = options.checkpoint
        self.statistics = RunningStatistics(self.supernet)
        drawn = torch.Generator().manual_seed(derived_seed(seed, Role.ARCHITECTURE))
        self.parameters_ = [
            (_INITIAL * torch.randn(len(slot.choices), generator=drawn)).to(device).requires_grad_()
            for slot in self.supernet.slots
        ]
        super().__init__(*self._steps(), precise=self.rule.precise)
        self.of_w, self.of_a = halves(
            data.train, options.architecture_share, derived_seed(seed, Role.HALVES)
        )
        self.steps = max(1, len(self.of_w) // options.batch_size)
        self.judged = Part(self.of_a.store, self.of_a.indices[: options.judged_images])
        self.validation = Images.of(data.validation, device, derived_seed(seed, Role.VALIDATION))
        self.records: dict[Size, Record] = {}
        self.stopped = False
        self.seconds = 0.0
        self.begin_epoch()

    def _steps(self) -> tuple[TrainingStep, TrainingStep]:
        """Make the steps of w and of a, each with an optimizer of its own; only w is clipped."""
        o = self.options
        sgd = torch.optim.SGD(
            self.supernet.parameters(),
            lr=o.learning_rate,
            momentum=o.momentum,
            weight_decay=o.weight_decay,
            foreach=True,  # the fused one wants all momenta to be there, or none
        )
        adam = torch.optim.Adam(
            self.parameters_,
            lr=o.architecture_learning_rate,
            betas=o.architecture_betas,
            weight_decay=o.architecture_weight_decay,
        )
        weights = TrainingStep(sgd, self.device, o.gradient_clip, float16=False)
        architecture = TrainingStep(adam, self.device, float16=False)
        return weights, architecture

    # The problem that the rule solves

    def loss(self, batch: Batch, path: Path, training: bool = False) -> Tensor:
        """Compute the cross-entropy of a mini-batch; see `Problem.loss`."""
        images, labels = batch
        if not training:
            with self.statistics.kept():
                return functional.cross_entropy(self.logits(images, path), labels)
        logits = self.logits(images, path)
        loss = functional.cross_entropy(logits, labels)
        self._loss.add(loss.detach())
        self._correct += (logits.detach().argmax(1) == labels).sum()
        return loss

    def logits(self, images: Tensor, path: Path) -> Tensor:
        """Map images to logits, `batch x classes`, by what a path runs."""
        if path.choices is not None:
            return self.supernet.sampled(images, path.mixture, path.choices)
        return self.supernet(images, path.mixture)  # type: ignore[no-any-return]

    # The loop

    def step(self) -> dict[str, float]:
        """Run one epoch: as many steps as w's half has mini-batches.

        Returns:
            train_loss, train_accuracy: of the passes that trained w.
            architecture_loss, architecture_accuracy: of the search network on a's half, which is
                the search accuracy of the papers.
            val_loss, val_accuracy: of the derived architecture with the shared weights on the
                validation part, with statistics of the batch; they only rank.
            skip_share, none_share: of the derived operations, 0..1.
            entropy: of the mixtures, from 1 (undecided) to 0.
            the model size: normal_convolutions and reduction_convolutions, or params.
            eigenvalue: the largest of the validation Hessian in a, where it is asked for.
            train_seconds: of all epochs so far.

        Raises:
            Diverged: when the loss or an architecture parameter is no longer finite.
        """
        start = time.perf_counter()
        metrics = self._train_epoch()
        self.seconds += time.perf_counter() - start
        if not all(bool(alpha.isfinite().all()) for alpha in self.parameters_):
            raise Diverged(f"an architecture parameter is not finite in epoch {self.epoch + 1}")
        loss, accuracy = self.judge(self.judged)
        if not math.isfinite(loss):
            raise Diverged(f"the search loss is {loss} after epoch {self.epoch + 1}")
        metrics |= {"architecture_loss": loss, "architecture_accuracy": accuracy}
        if self.options.eigenvalue_iterations:
            metrics["eigenvalue"] = self._eigenvalue()
        self.epoch += 1
        return metrics | self._derive(accuracy) | {"train_seconds": self.seconds}

    def begin_epoch(self) -> None:
        """Make ready for the steps of the present epoch; all that is drawn depends on it alone."""
        self.generator = torch.Generator().manual_seed(self._seed(Role.RULE))
        torch.manual_seed(self._seed(Role.TRAIN_BATCHES))  # of dropout, say
        self.supernet.train()
        self._loss = RunningLoss(self.device, "the search network's loss", self.epoch + 1)
        self._correct = torch.zeros((), dtype=torch.int64, device=self.device)

    def _train_epoch(self) -> dict[str, float]:
        """Train w and a for one epoch; the loss and accuracy of w's passes."""
        self.begin_epoch()
        images = 0
        for step, (train, validation) in enumerate(self._batches()):
            self.weights.set_learning_rate(self._learning_rate(step))
            self.rule.step(self, train, validation)
            images += len(train[1])
        accuracy = float(self._correct) / images
        return {"train_loss": self._loss.mean(), "train_accuracy": accuracy}

    def _batches(self) -> Iterator[tuple[Batch, Batch]]:
        """Yield pairs of mini-batches, one of each half, until w's half is used up."""
        size = self.options.batch_size
        seed = self._seed(Role.TRAIN_BATCHES)
        train = self.of_w.batches(size, self.device, seed=seed, augment=True)
        of_a = cycling(self.of_a, size, self.device, self._seed(Role.ARCHITECTURE_BATCHES))
        return zip(train, of_a, strict=False)

    def _seed(self, role: Role) -> int:
        return derived_seed(self.seed, role, self.epoch)

    def _learning_rate(self, step: int) -> float:
        """Return the learning rate of w in a step of the present epoch."""
        o, done = self.options, self.epoch * self.steps + step
        progress = done / (self.epochs * self.steps)
        return cosine(o.learning_rate, o.final_learning_rate, progress)

    # What comes of it

    @property
    def derived(self) -> Architecture:
        """Return the architecture that the mixtures come down to at present."""
        return self.supernet.derive([alpha.detach() for alpha in self.relaxation])

    @property
    def mixture(self) -> list[list[float]]:
        """Return for each slot the weights of its choices at present, which add up to 1."""
        return [weights.tolist() for weights in self.relaxation]

    @property
    def size(self) -> Size:
        """Return the model size of `derived`; see `records.model_size`."""
        return model_size(self.space, self.derived, self.data.input_shape, self.data.num_classes)

    def judge(self, part: Part) -> tuple[float, float]:
        """Return mean cross-entropy and accuracy (0..1) of the search network on some images.

        What runs is what runs in training: the mixture, or for each batch a path drawn anew. The
        images are not augmented; batch normalization has the statistics of the batch.
        """
        size = math.ceil(len(part) / math.ceil(len(part) / _EVALUATION_BATCH))
        total = torch.zeros(2, dtype=torch.float64)
        self.supernet.eval()
        with torch.no_grad(), self.supernet.normalization.set(statistics="batch"):
            for images, labels in part.batches(size, self.device):
                logits = self.logits(images, self.rule.path(self)).float()
                loss = functional.cross_entropy(logits, labels, reduction="sum")
                correct = (logits.argmax(1) == labels).sum()
                total += torch.stack([loss.double(), correct.double()]).cpu()
        loss_sum, count = total.tolist()
        return loss_sum / len(part), count / len(part)

    def _derive(self, accuracy: float) -> dict[str, float]:
        """Judge what is derived after an epoch, and keep it where it is the best of its size."""
        derived, size = self.derived, self.size
        keep_best(self.records, size, Record(self.epoch, derived, accuracy))
        self.stopped = self.stopped or is_reached(size, self.options.expected_size)
        ((val_loss, val_accuracy),) = evaluate_children(self.supernet, [derived], self.validation)
        if not math.isfinite(val_loss):
            raise Diverged(f"validation loss is {val_loss} after epoch {self.epoch}")
        return {
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "skip_share": operation_share(self.space, derived, SKIPS),
            "none_share": operation_share(self.space, derived, NONES),
            "entropy": entropy(self.relaxation),
            **{name: float(n) for name, n in zip(size_names(self.space), size, strict=True)},
        }

    def _eigenvalue(self) -> float:
        """Find the largest eigenvalue of the validation Hessian in a, on one batch of a's half."""
        self.supernet.train()
        seed = self._seed(Role.EIGENVALUE)
        batch = next(self.of_a.batches(self.options.batch_size, self.device, seed=seed))
        generator, iterations = torch.Generator(), self.options.eigenvalue_iterations
        generator.manual_seed(seed)
        self.supernet.checkpoint = False  # the graph is gone through many times
        try:
            return largest_eigenvalue(
                lambda: self.loss(batch, Path(self.relaxation)),
                self.parameters_,
                iterations,
                generator,
            )
        finally:
            self.supernet.checkpoint = self.options.checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on."""
        return {
            "supernet": self.supernet.state_dict(),
            "parameters": [alpha.detach() for alpha in self.parameters_],
            "weights": self.weights.state_dict(),
            "architecture": self.architecture.state_dict(),
            "records": [
                (list(size), r.epoch, r.architecture.to_json(), r.accuracy)
                for size, r in self.records.items()
            ],
            "epoch": self.epoch,
            "stopped": self.stopped,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.supernet.load_state_dict(state["supernet"])
        with torch.no_grad():
            for alpha, value in zip(self.parameters_, state["parameters"], strict=True):
                alpha.copy_(value)
        for step, name in ((self.weights, "weights"), (self.architecture, "architecture")):
            step.load_state_dict(state[name])
            step.forget_gradients()
        self.records = {
            tuple(size): Record(epoch, Architecture.from_json(arch), accuracy)
            for size, epoch, arch, accuracy in state["records"]
        }
        self.epoch, self.stopped = state["epoch"], state["stopped"]
        self.seconds = state["seconds"]
