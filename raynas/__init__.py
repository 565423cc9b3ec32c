"""raynas: neural architecture search on Ray Tune.

result = raynas.run(space="nasbench201", data="digits", search="evolution")
result.best.architecture, result.best.metrics, result.best.model()
"""

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
    UnknownName,
)
from raynas.orchestration import resume, run
from raynas.record.results import Best, Ensemble, Result, load
from raynas.schedulers import Asha, Fifo, Scheduler
from raynas.searchers import (
    AdaNet,
    Area,
    Auto,
    Evolution,
    LocalSearch,
    Naswot,
    NeighborhoodAware,
    RandomSearch,
    Searcher,
)
from raynas.understanding.flatness import flatness
from raynas.understanding.rank_stability import RankStability, rank_stability
from trials import Estimator, Evaluator, Proxy, Table, Train, Trial, WeightSharing

__all__ = [
    "SAEP",
    "AdaNet",
    "Area",
    "Asha",
    "Auto",
    "Best",
    "ConfigurationMismatch",
    "DataError",
    "DeadlineExceeded",
    "Ensemble",
    "Estimator",
    "Evaluator",
    "Evolution",
    "Fifo",
    "InvalidArchitecture",
    "InvalidArgument",
    "JournalError",
    "LocalSearch",
    "Naswot",
    "NeighborhoodAware",
    "Proxy",
    "RandomSearch",
    "RankStability",
    "RaynasError",
    "Result",
    "Scheduler",
    "SearchFailed",
    "Searcher",
    "StorageError",
    "Table",
    "Train",
    "Trial",
    "UnknownName",
    "WeightSharing",
    "bench",
    "flatness",
    "load",
    "rank_stability",
    "resume",
    "run",
    "score",
]
