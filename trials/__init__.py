"""The work of one trial on one architecture: data, training, evaluation. Plain PyTorch."""

from collections.abc import Callable

from trials.proxies.scoring import Proxy
from trials.tables.table import Table
from trials.training import Train
from trials.trial import Diverged, Estimator, Evaluator, Trial
from trials.weight_sharing.evaluator import WeightSharing

__all__ = [
    "EVALUATORS",
    "Diverged",
    "Estimator",
    "Evaluator",
    "Proxy",
    "Table",
    "Train",
    "Trial",
    "WeightSharing",
]

EVALUATORS: dict[str, Callable[..., Evaluator | Estimator]] = {
    "train": Train,
    "table": Table,
    "proxy": Proxy,
    "supernet": WeightSharing,
}
