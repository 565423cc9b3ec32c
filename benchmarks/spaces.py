"""Speed of the search spaces: sampled, mutated, canonical and neighboring architectures per second.

One core, no network is built. Where a user would otherwise reach for a library, that is the other
side, on the same architectures: Optuna's random sampler, asked for the six decisions of
NAS-Bench-201, and the Weisfeiler-Lehman hash of networkx for NAS-Bench-101 cells (of graphs made
beforehand). The sides alternate in rounds; medians are reported.

    python -m benchmarks.spaces [--quick] [--json]

Measures: `SPACE_sample`, `SPACE_mutate`, `SPACE_canonical` and `SPACE_neighbors` (single neighbors)
for `nasbench201`, `nasbench101` and `darts`, and all but the third for `mobile`.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable

import networkx
import numpy as np
import optuna

import search_spaces
from search_spaces.nasbench101 import NASBench101

#: architectures per second that the project asks for, on one core
TARGETS = {"nasbench201_sample": 100_000, "nasbench201_canonical": 20_000}
TARGETS |= {"nasbench101_canonical": 500}

#: does its work once and returns how many architectures that gave
Work = Callable[[], int]


def works_of(name: str, count: int) -> dict[str, Work]:
    """Return our side of all measures of one space, on `count` random architectures."""
    space = search_spaces.get(name)
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(count)]
    space.canonical(archs[0])  # NAS-Bench-201 computes its table of classes once
    works: dict[str, Work] = {
        f"{name}_sample": lambda: len([space.sample(rng) for _ in archs]),
        f"{name}_mutate": lambda: len([space.mutate(arch, rng) for arch in archs]),
        f"{name}_canonical": lambda: len([space.canonical(arch) for arch in archs]),
        f"{name}_neighbors": lambda: sum(len(list(space.neighbors(a))) for a in archs[::20]),
    }
    if name == "mobile":
        del works["mobile_canonical"]  # each architecture is its own canonical form there
    return works


def optuna_samples(count: int) -> Work:
    """Return random configurations of NAS-Bench-201 from a new Optuna study, a tenth of `count`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    decisions = {
        decision.name: optuna.distributions.CategoricalDistribution(decision.choices)
        for decision in search_spaces.get("nasbench201").decisions
    }

    def work() -> int:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        return len([study.ask(decisions) for _ in range(count // 10)])

    return work


def networkx_hashes(count: int) -> Work:
    """Return hashes of NAS-Bench-101 cells, of as many rounds as a cell has vertices at most."""
    space = search_spaces.get("nasbench101")
    assert isinstance(space, NASBench101)
    rng = np.random.default_rng(0)
    graphs = []
    for _ in range(count // 10):
        cell = space.cell(space.sample(rng))
        graph = networkx.DiGraph(cell.edges)
        labels = dict(enumerate((-1, *cell.labels, -2)))
        networkx.set_node_attributes(graph, labels, "label")
        graphs.append(graph)
    warnings.filterwarnings("ignore", "The hashes produced for directed graphs changed")
    hashed = networkx.weisfeiler_lehman_graph_hash
    return lambda: len([hashed(g, node_attr="label", iterations=space.vertices) for g in graphs])


def rate(work: Work) -> float:
    """Return architectures per second of one call."""
    start = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - start)


def compare(works: list[Work], rounds: int) -> dict[str, float | str]:
    """Return medians over alternating rounds; the first work is ours."""
    for work in works:
        work()
    rates = [[rate(work) for work in works] for _ in range(rounds)]
    ours, *others = (statistics.median(column) for column in zip(*rates, strict=True))
    result: dict[str, float | str] = {"ours": round(ours)}
    for other in others:
        result |= {"other": round(other), "ratio": round(ours / other, 2)}
    return result | {"unit": "architectures/s"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fit in ten seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    count, rounds = (1_000, 3) if arguments.quick else (10_000, 7)
    works = {"nasbench201": count}
    works |= dict.fromkeys(("nasbench101", "darts", "mobile"), count // 5)
    others = {
        "nasbench201_sample": optuna_samples(count),
        "nasbench101_canonical": networkx_hashes(count // 5),
    }
    results = {
        measure: compare([work, *([others[measure]] if measure in others else [])], rounds)
        for name, number in works.items()
        for measure, work in works_of(name, number).items()
    }
    if arguments.json:
        print(json.dumps(results))
        return
    for measure, result in results.items():
        other = f"  other {result['other']}, ratio {result['ratio']}" if "other" in result else ""
        target = f"  (target {TARGETS[measure]})" if measure in TARGETS else ""
        print(f"{measure:22} {result['ours']:>9} {result['unit']}{other}{target}")


if __name__ == "__main__":
    main()
