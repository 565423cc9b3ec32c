"""Speed of a supernet's evaluations: many children at once against one by one.

`macro`: all 6,561 children of NAS-Bench-Macro on one batch of validation images, against the same
one by one with the same weights. `nasbench201`: 64 random cells likewise, on the CPU and, where
there is one, on a GPU (`nasbench201_gpu`). Accuracies must agree to 1e-6.

    python -m benchmarks.supernet [--quick] [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import search_spaces
from search_spaces import Architecture, SearchSpace
from trials.weight_sharing.evaluation import evaluate_children
from trials.weight_sharing.images import Images
from trials.weight_sharing.plans import Way

#: what the project asks for
TARGETS = {"macro": 4, "nasbench201": 1, "nasbench201_gpu": 5}

_TOLERANCE = 1e-6
_ROUNDS = 5


def children(
    space: SearchSpace, archs: Sequence[Architecture], images: int, size: int, device: str
) -> dict[str, Any]:
    """Return children per second at once and one by one, the median of interleaved rounds."""
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
    measures = {
        "macro": children(macro, archs, 64, 16, "cpu"),
        "nasbench201": children(cells, drawn, 64, 32, "cpu"),
    }
    if torch.cuda.is_available():
        measures["nasbench201_gpu"] = children(cells, drawn, 64, 32, "cuda")
    if given.json:
        print(json.dumps(measures))
        return
    for measure, row in measures.items():
        print(
            f"{measure}: {row['ours']:.1f} {row['unit']} {row['ratio']:.2f} times (target"
            f" {TARGETS[measure]})"
        )


if __name__ == "__main__":
    main()
