"""The evaluator `table`: evaluations that are looked up in a tabular benchmark."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch

from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.tables.benchmark import Benchmark, Roles, read_benchmark
from trials.trial import Estimator


@dataclass(frozen=True)
class Table(Estimator):
    """Looks up what an architecture reached, as the evaluator `table`.

    Args:
        file: the Parquet file.
        architecture: see `Roles`, as for the rest.
        metric: given to the search as `val_accuracy`; of a learning curve, its last value.
        cost: recorded as `cost_seconds`.
        report: recorded as `report`.
        space: see `Roles`.
    """

    instant: ClassVar[bool] = True

    file: str
    architecture: str = ""
    metric: str = ""
    cost: str = ""
    report: str = ""
    space: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", str(Path(self.file).expanduser().absolute()))

    def open(
        self, space: SearchSpace, data: Data, seed: int, device: torch.device
    ) -> Callable[[Architecture], dict[str, float]]:
        """Return a function that looks architectures up."""
        benchmark = self.benchmark(space)

        def look_up(arch: Architecture) -> dict[str, float]:
            row = benchmark.row(arch)
            return {
                self.metric_name: float(benchmark.curves[row][-1]),
                "cost_seconds": float(benchmark.costs[row]),
                "report": float(benchmark.reports[row]),
            }

        return look_up

    def benchmark(self, space: SearchSpace | None = None) -> Benchmark:
        """Read and check the table."""
        options = asdict(self)
        return read_benchmark(options.pop("file"), Roles(**options), space)

    def restricted(self, space: SearchSpace) -> SearchSpace:
        """Return the part of the space that the table covers."""
        return self.benchmark(space).space
