"""Speed of NASWOT on NAS-Bench-201 against the procedure of the paper's code.

Both sides build the network (16 channels, 5 cells per stage) and score it on one batch of 128
random images, on one CPU thread, for scoring runs one process per core. The other side is the
textbook: contiguous images, a forward and a backward pass with hooks to mark the rectifiers that
are reached, a second forward pass, in it two float products per rectifier; each rectifier counts
once. The sides alternate; the scores must agree to 1e-3.

    python -m benchmarks.naswot [--quick] [--json]

Measures: `architecture`, the median seconds of one random architecture; `space`, the hours for all
15,625 cells, where we score one of each of the 6,466 classes of equal cells and the other side all.
It is extrapolated: the mean of random classes for us, the mean of random cells for the textbook.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import search_spaces
from search_spaces import Architecture, SearchSpace
from trials.proxies import naswot

#: what the project asks for
TARGETS = {"architecture": 7, "space": 16}

_BATCH = 128
_TOLERANCE = 1e-3
_ROUNDS = 3  # repetitions on one architecture

Score = Callable[[nn.Module, Tensor], float]


def textbook(network: nn.Module, images: Tensor) -> float:
    """Return the score as BayesWatch/nas-without-training computes it, each rectifier counted once.

    Args:
        network: in training mode.
        images: `batch x channels x height x width`, contiguous.
    """
    batch = len(images)
    kernel = np.zeros((batch, batch))
    marked: set[nn.Module] = set()
    counting = False

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if counting and module in marked:
            x = (inputs[0].view(batch, -1) > 0).float()
            kernel[:] += (x @ x.t()).cpu().numpy() + ((1 - x) @ (1 - x).t()).cpu().numpy()

    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(add)
            module.register_full_backward_hook(lambda m, *_: marked.add(m))
    output = network(images)
    output.backward(torch.ones_like(output))
    counting = True
    network(images)
    return float(np.linalg.slogdet(kernel)[1])


def timed(
    score: Score, space: SearchSpace, arch: Architecture, images: Tensor
) -> tuple[float, float]:
    """Return seconds to build and score an architecture, and its score."""
    torch.manual_seed(0)
    start = time.perf_counter()
    value = score(space.build(arch), images)
    return time.perf_counter() - start, value


def classes(space: SearchSpace) -> tuple[list[Architecture], float]:
    """Return one architecture of each class, and the seconds it takes to find them all."""
    start = time.perf_counter()
    forms = sorted({space.canonical(arch) for arch in space})
    return forms, time.perf_counter() - start


def compare(count: int, images: Tensor) -> dict[str, dict[str, float | str]]:
    """Return both measures, on `count` random cells and about as many random classes.

    Raises:
        SystemExit: when the two sides' scores differ.
    """
    space = search_spaces.get("nasbench201")
    rng = np.random.default_rng(0)
    forms, finding = classes(space)
    cells = [space.sample(rng) for _ in range(count)]
    chosen = [forms[i] for i in rng.choice(len(forms), count, replace=False)]
    ours, other, of_classes, differences = [], [], [], []
    timed(naswot.score, space, cells[0], images)
    timed(textbook, space, cells[0], images)
    for cell, form in zip(cells, chosen, strict=True):
        rounds = [
            (timed(naswot.score, space, cell, images), timed(textbook, space, cell, images))
            for _ in range(_ROUNDS)
        ]
        ours.append(statistics.median(mine[0] for mine, _ in rounds))
        other.append(statistics.median(theirs[0] for _, theirs in rounds))
        of_classes.append(
            statistics.median(timed(naswot.score, space, form, images)[0] for _ in range(_ROUNDS))
        )
        mine, theirs = rounds[0][0][1], rounds[0][1][1]
        differences.append(0.0 if mine == theirs else abs(mine - theirs))
    if max(differences) > _TOLERANCE:
        raise SystemExit(f"scores differ by up to {max(differences)}, more than {_TOLERANCE}")
    return {
        "architecture": {
            "ours": round(statistics.median(ours), 4),
            "other": round(statistics.median(other), 4),
            "ratio": round(statistics.median(o / m for m, o in zip(ours, other, strict=True)), 2),
            "unit": "s",
            "largest_difference": max(differences),
        },
        "space": _space(
            finding + len(forms) * statistics.mean(of_classes), space.size * statistics.mean(other)
        ),
    }


def _space(ours: float, other: float) -> dict[str, float | str]:
    return {
        "ours": round(ours / 3600, 3),
        "other": round(other / 3600, 3),
        "ratio": round(other / ours, 2),
        "unit": "h",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few architectures")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randn(_BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    results = compare(4 if arguments.quick else 24, images)
    if arguments.json:
        print(json.dumps(results))
        return
    for measure, result in results.items():
        print(
            f"{measure:14} {result['ours']} {result['unit']}, textbook {result['other']},"
            f" ratio {result['ratio']} (target {TARGETS[measure]})"
        )
    print(f"largest difference of two scores: {results['architecture']['largest_difference']:.1e}")


if __name__ == "__main__":
    main()
