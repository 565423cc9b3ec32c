"""A loss surface over Ray on two cores against one process.

Both sides measure the same 51 x 51 points of the plane around a trained network, on the same
images in memory, with one thread a process, and must give the same numbers, bit for bit. The other
side is `trials.landscape` in this process. The sides take turns, some rows of the grid at a time,
so that other work on the machine meets both; times are sums over the turns. The start of the
workers, some seconds, counts (`start` says how long it took), that of Ray itself does not.

It needs two free cores. Where others are at work, and the kernel shares cores among sessions rather
than processes (Linux's autogroup), one process gets as much of them as two, and the ratio is 1.

    python -m benchmarks.surface [--quick] [--json]

Measures: `surface`, and `surface_variance` with the variance of the gradient on a coarser grid.
"""

import argparse
import json
import time
from collections.abc import Iterator

import torch

import search_spaces
from raynas.cluster import connected
from raynas.drivers.surfaces import Measure, Row, SurfacePool, Trained
from trials.data import Data, load
from trials.landscape import Point, Sample, grid, sample
from trials.training import Train

CELL = (
    "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|"
    "+|avg_pool_3x3~0|nor_conv_3x3~1|skip_connect~2|"
)
CORES = 2


def trained(data: Data, channels: int) -> Trained:
    """Train a small network for two epochs."""
    space = search_spaces.get("nasbench201", channels=channels, cells=1)
    arch = space.from_string(CELL)
    trial = Train().trial(space, arch, data, 2, 0, torch.device("cpu"))
    for _ in range(2):
        trial.step()
    weights = trial.network.state_dict()
    return Trained(space, arch, weights, data.input_shape, data.num_classes)


def turns(points: list[Point], number: int) -> Iterator[list[Point]]:
    """Divide the points into parts of nearly the same size."""
    for i in range(number):
        yield points[i * len(points) // number : (i + 1) * len(points) // number]


def compare(
    network: Trained, drawn: Sample, measure: Measure, points: list[Point], rounds: int
) -> dict[str, float | str]:
    """Measure both sides in turns."""
    ours = other = 0.0
    plane = network.plane(measure.seed, torch.device("cpu"))
    start = time.perf_counter()
    with SurfacePool(network, drawn, measure, CORES) as pool:
        dict(pool.measured(points[:CORES]))
        begun = time.perf_counter() - start
        for part in turns(points, rounds):
            theirs: dict[Point, Row] = dict(pool.measured(part))
            ours += time.perf_counter() - start
            start = time.perf_counter()
            rows = measure.rows(plane, drawn, part)
            other += time.perf_counter() - start
            if [theirs[point] for point in part] != rows:
                raise SystemExit("the two sides give different numbers")
            start = time.perf_counter()
    return {
        "ours": round(ours, 2),
        "other": round(other, 2),
        "ratio": round(other / ours, 2),
        "unit": "s",
        "start": round(begun, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fit in a minute on two cores")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    quick = arguments.quick
    torch.set_num_threads(1)
    data = load("digits", seed=0)
    network = trained(data, channels=4 if quick else 16)
    drawn = sample(data.train, images=600)
    with connected():
        results = {"surface": compare(network, drawn, Measure(), grid(51), 5 if quick else 17)}
        if not quick:
            measure = Measure(batches=8, batch_size=64)
            results["surface_variance"] = compare(network, drawn, measure, grid(15), 3)
    if arguments.json:
        print(json.dumps(results))
        return
    for name, result in results.items():
        ours, theirs, ratio = result["ours"], result["other"], result["ratio"]
        print(
            f"{name:17} ours {ours:>7} other {theirs:>7} {result['unit']}  ratio {ratio}"
            f"  ({result['start']} s of ours are the start of the workers)"
        )


if __name__ == "__main__":
    main()
