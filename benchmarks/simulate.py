"""Speed of the simulator, one core; and searchers side by side on a table.

    python -m benchmarks.simulate [--table nb201.parquet ...] [--quick] [--json]

Measures: `evolution`, seconds for 500 runs of regularized evolution with a time budget of about a
hundred evaluations each (with NAS-Bench-201's table: 12,000 s of its 12-epoch trainings);
`asha_stopping` and `asha_promotion`, seconds for 200,000 evaluations of random search on 10,000
simulated workers. There is no other side; `other` is the target, an upper bound in seconds.

Without `--table` the table is the one that comes with raynas, whose learning curves have 8 epochs.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import raynas
from raynas.benchmarking.simulation import Simulation
from raynas.schedulers import Asha
from raynas.searchers import RandomSearch
from trials.tables.benchmark import Roles, read_benchmark

TARGETS = {"evolution": 10.0, "asha_stopping": 60.0, "asha_promotion": 60.0}
OWN = Path(str(resources.files("trials") / "tables" / "digits-nb201.parquet"))


def evolution(table: Path, roles: Roles, budget: float, runs: int) -> None:
    """Simulate regularized evolution under a time budget."""
    columns = {key: value for key, value in vars(roles).items() if key != "space"}
    raynas.bench(table, search="evolution", time_budget=budget, runs=runs, **columns)


def asha(variant: str, samples: int, workers: int) -> None:
    """Simulate random search with learning curves that are stopped early."""
    benchmark = read_benchmark(OWN, Roles())
    scheduler = Asha(variant=variant, reduction=2)  # type: ignore[arg-type]
    simulation = Simulation(
        benchmark, RandomSearch(), scheduler, queries=samples, workers=workers, unique=False
    )
    done = simulation.run().search.finished
    assert done == samples, done


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=OWN)
    for role in ("architecture", "metric", "cost", "report"):
        parser.add_argument(f"--{role}", default="", help="see raynas bench")
    parser.add_argument("--time-budget", type=float, default=250.0)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    roles = Roles(arguments.architecture, arguments.metric, arguments.cost, arguments.report)
    part = 10 if arguments.quick else 1
    works: dict[str, Callable[[], None]] = {
        "evolution": lambda: evolution(arguments.table, roles, arguments.time_budget, 500 // part),
        "asha_stopping": lambda: asha("stopping", 200_000 // part, 10_000 // part),
        "asha_promotion": lambda: asha("promotion", 200_000 // part, 10_000 // part),
    }
    results = {}
    for name, work in works.items():
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        target = TARGETS[name] / part
        ratio = round(target / seconds, 2)
        results[name] = {"ours": round(seconds, 2), "other": target, "ratio": ratio, "unit": "s"}
        if not arguments.json:
            print(f"{name}: {seconds:.2f} s (target {target:g} s)", flush=True)
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
