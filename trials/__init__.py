"""What one trial does with one architecture: data, training, evaluation. Plain PyTorch."""

from collections.abc import Callable

from trials.training import Train
from trials.trial import Diverged, Evaluator, Trial

__all__ = ["EVALUATORS", "Diverged", "Evaluator", "Train", "Trial"]

EVALUATORS: dict[str, Callable[..., Evaluator]] = {"train": Train}
