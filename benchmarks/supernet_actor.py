"""Speed of a supernet's actor: many callers at once, and its return after a kill.

`requests`: 64 concurrent calls that ask the actor for one architecture each, answered together
against the same answered one at a time, on a supernet so small that the call dominates.
`recovery`: seconds from a kill -9 of the actor to its next answer (no other side).

    python -m benchmarks.supernet_actor [--quick] [--json]
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

import search_spaces
from raynas.cluster import connected
from raynas.record.folder import RunFolder
from raynas.supernet.client import SharedSupernet, shared_supernet
from search_spaces import Architecture
from trials.data import load
from trials.weight_sharing.evaluator import WeightSharing

_TARGET = 5  # times as many requests, which the project asks for
_CALLERS = 64
_ROUNDS = 15


def _asked(supernet: SharedSupernet, archs: Sequence[Architecture]) -> float:
    """Return the seconds from the first of many calls at the same time to the last answer."""
    start = time.perf_counter()
    ray.get([supernet.actor.evaluate.remote([arch]) for arch in archs])
    return time.perf_counter() - start


def measured(quick: bool) -> dict[str, dict[str, Any]]:
    """Measure `requests` and `recovery`."""
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
            for _ in range(3 if quick else _ROUNDS):
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
    arguments = parser.parse_args()
    measures = measured(arguments.quick)
    if arguments.json:
        print(json.dumps(measures))
        return
    requests, recovery = measures["requests"], measures["recovery"]
    print(
        f"requests: {requests['ours']:.1f} {requests['unit']} {requests['ratio']:.2f} times"
        f" (target {_TARGET})"
    )
    print(f"recovery: {recovery['ours']:.1f} s")


if __name__ == "__main__":
    main()
