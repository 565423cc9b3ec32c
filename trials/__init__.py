"""The work of one trial on one architecture: data, training, evaluation. Plain PyTorch.

Everything here is imported when it is first asked for: a trial that trains loads no tables.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from search_spaces.naming import Table as Names
from search_spaces.naming import importer

if TYPE_CHECKING:
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

EVALUATORS: "Names[Callable[..., Evaluator | Estimator]]" = Names(
    {
        "train": "trials.training:Train",
        "table": "trials.tables.table:Table",
        "proxy": "trials.proxies.scoring:Proxy",
        "supernet": "trials.weight_sharing.evaluator:WeightSharing",
    }
)

_MODULES = {
    "Diverged": "trials.trial",
    "Estimator": "trials.trial",
    "Evaluator": "trials.trial",
    "Proxy": "trials.proxies.scoring",
    "Table": "trials.tables.table",
    "Train": "trials.training",
    "Trial": "trials.trial",
    "WeightSharing": "trials.weight_sharing.evaluator",
}

if not TYPE_CHECKING:  # with it, type checkers would take any name for one of this package
    __getattr__ = importer(__name__, _MODULES)
