"""Speed of a supernet's evaluations: many children at once, many callers at once.

`macro`: all 6,561 children of NAS-Bench-Macro on one batch of validation images, against the same
one by one with the same weights. `nasbench201`: 64 random cells likewise, on the CPU and, where
there is one, on a GPU (`nasbench201_gpu`). Accuracies must agree to 1e-6.
`requests`: 64 concurrent calls that ask the actor for one architecture each, answered together
against the same answered one at a time, on a supernet so small that the call dominates.
`recovery`: seconds from a kill -9 of the actor to its next answer (no other side).

    python -m benchmarks.supernet [--quick] [--json]
"""

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

import search_spaces
from raynas.cluster import connected
from raynas.record.folder import RunFolder
from raynas.supernet.client import SharedSupernet, shared_supernet
from search_spaces import Architecture, SearchSpace
from trials.data import load
from trials.weight_sharing.evaluation import Images, Way, evaluate_children
from trials.weight_sharing.recipe import WeightSharing

#: what the project asks for
TARGETS = {"macro": 4, "nasbench201": 1, "nasbench201_gpu": 5, "requests": 5}

_TOLERANCE = 1e-6
_CALLERS = 64
_ROUNDS = 5
_REQUEST_ROUNDS = 15


def children(
    space: SearchSpace, archs: Sequence[Architecture], images: int, size: int, device: str
) -> dict[str, Any]:
    """Children per second at once and one by one, the median of interleaved rounds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    supernet = space.supernet((3, size, size), 10).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(images, 3, size, size, device=device).to(memory_format=torch.channels_last)
    batch = Images([(x, torch.arange(images, device=device) % 10)])
    sides: dict[Way | None, list[float]] = {None: [], "one by one": []}
    values: dict[Way | None, np.ndarray] = {}
    rounds = 1 if len(archs) > 1000 else _ROUNDS
    for way in sides:
        evaluate_children(supernet, archs[:8], batch, "batch", way)  # warm up
    for _ in range(rounds):
        for way, seconds in sides.items():
            start = time.perf_counter()
            values[way] = np.array(evaluate_children(supernet, archs, batch, "batch", way))
            seconds.append(time.perf_counter() - start)
    difference = float(np.abs(values[None] - values["one by one"])[:, 1].max())
    if difference > _TOLERANCE:
        raise SystemExit(f"{space.name}: accuracies differ by {difference}")
    ours, other = (len(archs) / statistics.median(seconds) for seconds in sides.values())
    return {"ours": ours, "other": other, "ratio": ours / other, "unit": "children/s"}


def _asked(supernet: SharedSupernet, archs: Sequence[Architecture]) -> float:
    """Seconds from the first of many calls at the same time to the last answer."""
    start = time.perf_counter()
    ray.get([supernet.actor.evaluate.remote([arch]) for arch in archs])
    return time.perf_counter() - start


def actors(quick: bool) -> dict[str, dict[str, Any]]:
    """`requests` and `recovery`."""
    space = search_spaces.get("nasbench_macro:channels=1,head_channels=2")
    recipe = WeightSharing(epochs=1, probes=0)
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(_CALLERS)]
    with connected(), tempfile.TemporaryDirectory() as folder:
        data = ray.put(load("digits:fraction=0.1,validation_fraction=0.02"))
        sides: dict[int, list[float]] = {1024: [], 1: []}
        with (
            shared_supernet(
                recipe, space, data, 0, RunFolder(Path(folder) / "a"), 0.5, 0, 1024
            ) as merged,
            shared_supernet(
                recipe, space, data, 0, RunFolder(Path(folder) / "b"), 0.5, 0, 1
            ) as single,
        ):
            for supernet in (merged, single):
                supernet.train_epoch(0, 0)
                supernet.evaluate(archs)
            for _ in range(3 if quick else _REQUEST_ROUNDS):
                for most, supernet in ((1024, merged), (1, single)):
                    sides[most].append(_asked(supernet, archs))
            (pid,) = ray.get(merged.actor.pids.remote())
            os.kill(pid, signal.SIGKILL)
            start = time.perf_counter()
            merged.evaluate(archs)
            recovery = time.perf_counter() - start
    ours, other = (len(archs) / statistics.median(seconds) for seconds in sides.values())
    return {
        "requests": {"ours": ours, "other": other, "ratio": ours / other, "unit": "requests/s"},
        "recovery": {"ours": recovery, "other": None, "ratio": None, "unit": "s"},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    macro = search_spaces.get("nasbench_macro:channels=8,head_channels=64")
    cells = search_spaces.get("nasbench201:channels=16,cells=1" if given.quick else "nasbench201")
    archs = list(macro)[:: 9 if given.quick else 1]
    drawn = [cells.sample(rng) for _ in range(16 if given.quick else 64)]
    found = {
        "macro": children(macro, archs, 64, 16, "cpu"),
        "nasbench201": children(cells, drawn, 64, 32, "cpu"),
    }
    if torch.cuda.is_available():
        found["nasbench201_gpu"] = children(cells, drawn, 64, 32, "cuda")
    found |= actors(given.quick)
    if given.json:
        print(json.dumps(found))
        return
    for measure, row in found.items():
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} times"
        target = f" (target {TARGETS[measure]})" if measure in TARGETS else ""
        print(f"{measure}: {row['ours']:.1f} {row['unit']} {ratio}{target}")


if __name__ == "__main__":
    main()
