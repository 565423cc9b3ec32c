"""A trial: one architecture under evaluation, epoch by epoch; plain PyTorch, no Ray.

An evaluator makes trials. `raynas.drivers` wraps a trial for Ray Tune; a test, a notebook or
another orchestrator can drive it just as well:

    trial = Train().trial(space, arch, data, epochs=4, seed=0)
    while trial.epoch < trial.epochs:
        metrics = trial.step()
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
import torch

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import InvalidArgument
from trials.data import Data

_OWN_SEEDS = 2**32 - 1  # the largest that NumPy's older generators take

#: keys of a trial's state that others read; see `Trial.state_dict`
WEIGHTS = "network"
VALIDATION_LOGITS = "validation_logits"
#: the same of a retraining, which is judged on the test part
TEST_LOGITS = "test_logits"


class Diverged(ArithmeticError):
    """The training of this architecture left the range of numbers; the message says where."""


class Trial(ABC):
    """One architecture under evaluation.

    A trial is a function of its arguments and its seed alone: what happens in an epoch depends
    on (seed, epoch), so a trial that was saved and loaded anew continues bit for bit.
    """

    #: epochs in all
    epochs: int
    #: epochs done
    epoch: int = 0

    @abstractmethod
    def step(self) -> dict[str, float]:
        """Run one epoch.

        Returns:
            At least `val_accuracy` (0..1); all values are plain numbers.

        Raises:
            Diverged: when the loss is no longer finite.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on; empty where there is nothing to keep.

        A trial can become a member of an ensemble when its state has, under the key `WEIGHTS`,
        the state of what the space builds. What that predicts on the validation part, `images x
        classes`, need not be computed again where it is there under `VALIDATION_LOGITS`.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        if state:
            raise NotImplementedError(f"{type(self).__name__} has no state to load.")


class AnyEvaluator(ABC):
    """A way of evaluating, as far as all have it in common; see `Evaluator` and `Estimator`."""

    #: the driver of `raynas.drivers` that carries out a search with this
    driver: ClassVar[str]
    #: whether what it evaluates is trained, and leaves weights
    trains: ClassVar[bool]

    @property
    def metric_name(self) -> str:
        """The metric that a search maximizes."""
        return "val_accuracy"

    def check(self, space: SearchSpace, data: Data) -> None:  # noqa: B027  nothing to check
        """Refuse what this cannot do, before anything starts.

        Raises:
            InvalidArgument: saying what and why.
        """

    def check_workers(self, workers: int, data: Data) -> None:
        """Refuse trials of several processes; overridden where they share the work.

        Such a trial finds the others in `torch.distributed` (`trials.workers`): each makes the
        trial with the same arguments and steps it; what the first reports and saves counts.

        Raises:
            InvalidArgument: saying why.
        """
        raise InvalidArgument(
            f"the trials of evaluate={type(self).__name__} do not share their work among"
            f" {workers} processes: use one worker, or evaluate='train'."
        )

    @property
    def epoch_length(self) -> float | None:
        """The seconds of an epoch, where that is what it is made of."""
        return None

    def lasting(self, seconds: float) -> "AnyEvaluator":
        """Return this evaluator with epochs of about so many seconds, where it can tell those."""
        return self

    def restricted(self, space: SearchSpace) -> SearchSpace:
        """Return the part of the space that this knows; all of it unless overridden."""
        return space

    def retraining(
        self,
        space: SearchSpace,
        arch: Architecture,
        data: Data,
        epochs: int,
        seed: int,
        device: torch.device,
    ) -> "Trial | None":
        """Return a trial that trains on training and validation part together.

        It is judged on the test part, of which its `val_` metrics are. An evaluator that makes
        trials of its own must say how it retrains, or a run refuses it.

        Returns:
            The trial, whose state has `WEIGHTS`; None: `Train()` with its defaults is good enough.
        """
        return None


class Evaluator(AnyEvaluator):
    """Makes trials of one kind."""

    driver: ClassVar[str] = "trials"
    trains: ClassVar[bool] = True

    @abstractmethod
    def trial(
        self,
        space: SearchSpace,
        arch: Architecture,
        data: Data,
        epochs: int,
        seed: int,
        device: torch.device,
    ) -> Trial:
        """Return a trial of `arch` over `epochs` epochs; may raise whatever the network raises.

        The seed has at most 32 bits, unless the method is inherited from `Train`.
        """


class Estimator(AnyEvaluator):
    """Tells the metrics of an architecture in milliseconds and at once: a table, a proxy."""

    driver: ClassVar[str] = "batches"
    trains: ClassVar[bool] = False
    #: whether a look-up takes microseconds, so that no worker is needed
    instant: ClassVar[bool] = False

    @abstractmethod
    def open(
        self, space: SearchSpace, data: Data, seed: int, device: torch.device
    ) -> Callable[[Architecture], dict[str, float]]:
        """Get ready; return a function from architectures to metrics, `metric_name` among them."""


class Role(IntEnum):
    """Who draws from a run's seed, beside its searcher and its evaluations.

    The searcher has the path (seed,), an evaluation (seed, index), its retraining (seed, index,
    1), its training before the last decision (seed, index, 2), draws in place of what was declined
    for it (seed, index, 3). A role stands in the place of the index, far beyond any of them, so
    that nobody else has its path.
    """

    PROXY_WEIGHTS = 1 << 31
    PROXY_BATCH = PROXY_WEIGHTS + 1
    PRUNING = PROXY_WEIGHTS + 2
    SEARCHES = PROXY_WEIGHTS + 3


def derived_seed(*path: int) -> int:
    """Return a 63-bit seed that belongs to a path of numbers.

    Args:
        path: the run's seed and an evaluation's index, or a `Role` and what it counts; a trial's
            seed and its epoch.
    """
    # The length goes in because SeedSequence takes (5,) and (5, 0) for the same.
    sequence = np.random.SeedSequence((len(path), *path))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def seed_for(method: Callable[..., object], seed: int) -> int:
    """Return a seed as a method of an evaluator gets it.

    A user's own gets the lower 32 bits, which `np.random.seed`, `random.seed` and
    `torch.manual_seed` all take; those of this package get all 63, by which older runs go on.

    Args:
        method: `trial` or `retraining` of the evaluator.
        seed: of a trial, see `derived_seed`.
    """
    own = method.__module__.partition(".")[0] != __package__
    return seed & _OWN_SEEDS if own else seed
