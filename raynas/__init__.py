"""raynas: neural architecture search on Ray Tune.

result = raynas.run(space="nasbench201", data="digits", search="evolution")
result.best.architecture, result.best.metrics, result.best.model()

Everything here is imported when it is first asked for: `import raynas` needs no torch and no Ray.
"""

from typing import TYPE_CHECKING

from search_spaces.naming import importer

if TYPE_CHECKING:
    from raynas.benchmarking.bench import bench
    from raynas.drivers.scoring import score
    from raynas.ensemble.saep import SAEP
    from raynas.errors import (
        ConfigurationMismatch,
        DataError,
        DeadlineExceeded,
        InvalidArchitecture,
        InvalidArgument,
        JournalError,
        RaynasError,
        SearchFailed,
        StorageError,
        Terminated,
        UnknownName,
    )
    from raynas.orchestration import resume, run
    from raynas.record.predictions import Prediction
    from raynas.record.results import Best, Ensemble, Result, load
    from raynas.reports.report import report
    from raynas.retraining import retrain
    from raynas.schedulers import Asha, AshaStratified, Fifo, Scheduler
    from raynas.searchers import (
        AdaNet,
        Area,
        Auto,
        Evolution,
        Gradients,
        Limit,
        LocalSearch,
        Naswot,
        NeighborhoodAware,
        Penalty,
        Quota,
        RandomSearch,
        Searcher,
    )
    from raynas.studies import study
    from raynas.understanding.bias import Bias, bias
    from raynas.understanding.convergence import convergence
    from raynas.understanding.flatness import flatness
    from raynas.understanding.proxy_trust import ProxyTrust, proxy_trust
    from raynas.understanding.rank_stability import RankStability, rank_stability
    from raynas.understanding.topology import topology
    from trials import Estimator, Evaluator, Proxy, Table, Train, Trial, WeightSharing

__all__ = [
    "SAEP",
    "AdaNet",
    "Area",
    "Asha",
    "AshaStratified",
    "Auto",
    "Best",
    "Bias",
    "ConfigurationMismatch",
    "DataError",
    "DeadlineExceeded",
    "Ensemble",
    "Estimator",
    "Evaluator",
    "Evolution",
    "Fifo",
    "Gradients",
    "InvalidArchitecture",
    "InvalidArgument",
    "JournalError",
    "Limit",
    "LocalSearch",
    "Naswot",
    "NeighborhoodAware",
    "Penalty",
    "Prediction",
    "Proxy",
    "ProxyTrust",
    "Quota",
    "RandomSearch",
    "RankStability",
    "RaynasError",
    "Result",
    "Scheduler",
    "SearchFailed",
    "Searcher",
    "StorageError",
    "Table",
    "Terminated",
    "Train",
    "Trial",
    "UnknownName",
    "WeightSharing",
    "bench",
    "bias",
    "convergence",
    "flatness",
    "load",
    "proxy_trust",
    "rank_stability",
    "report",
    "resume",
    "retrain",
    "run",
    "score",
    "study",
    "topology",
]

_MODULES = {
    "SAEP": "raynas.ensemble.saep",
    "AdaNet": "raynas.searchers",
    "Area": "raynas.searchers",
    "Asha": "raynas.schedulers",
    "AshaStratified": "raynas.schedulers",
    "Auto": "raynas.searchers",
    "Best": "raynas.record.results",
    "Bias": "raynas.understanding.bias",
    "ConfigurationMismatch": "raynas.errors",
    "DataError": "raynas.errors",
    "DeadlineExceeded": "raynas.errors",
    "Ensemble": "raynas.record.results",
    "Estimator": "trials",
    "Evaluator": "trials",
    "Evolution": "raynas.searchers",
    "Fifo": "raynas.schedulers",
    "Gradients": "raynas.searchers",
    "InvalidArchitecture": "raynas.errors",
    "InvalidArgument": "raynas.errors",
    "JournalError": "raynas.errors",
    "Limit": "raynas.searchers",
    "LocalSearch": "raynas.searchers",
    "Naswot": "raynas.searchers",
    "NeighborhoodAware": "raynas.searchers",
    "Penalty": "raynas.searchers",
    "Prediction": "raynas.record.predictions",
    "Proxy": "trials",
    "ProxyTrust": "raynas.understanding.proxy_trust",
    "Quota": "raynas.searchers",
    "RandomSearch": "raynas.searchers",
    "RankStability": "raynas.understanding.rank_stability",
    "RaynasError": "raynas.errors",
    "Result": "raynas.record.results",
    "Scheduler": "raynas.schedulers",
    "SearchFailed": "raynas.errors",
    "Searcher": "raynas.searchers",
    "StorageError": "raynas.errors",
    "Table": "trials",
    "Terminated": "raynas.errors",
    "Train": "trials",
    "Trial": "trials",
    "UnknownName": "raynas.errors",
    "WeightSharing": "trials",
    "bench": "raynas.benchmarking.bench",
    "bias": "raynas.understanding.bias",
    "convergence": "raynas.understanding.convergence",
    "flatness": "raynas.understanding.flatness",
    "load": "raynas.record.results",
    "proxy_trust": "raynas.understanding.proxy_trust",
    "rank_stability": "raynas.understanding.rank_stability",
    "report": "raynas.reports.report",
    "resume": "raynas.orchestration",
    "retrain": "raynas.retraining",
    "run": "raynas.orchestration",
    "score": "raynas.drivers.scoring",
    "study": "raynas.studies",
    "topology": "raynas.understanding.topology",
}

if not TYPE_CHECKING:  # with it, type checkers would take any name for one of this package
    __getattr__ = importer(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
