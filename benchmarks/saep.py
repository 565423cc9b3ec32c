"""Speed and memory of ensemble pruning by information (PIE), on one core, and of DOMEP.

Members are made up: accuracies from 50 to 90 %, errors that depend on each other through images
that are hard for all.

`pie`: PIE over 1,000 members and 10,000 images of 10 classes, all pairs and the choice of all but
one, against calling `tdac` for one pair after the other. The loop is run in full for 200 members,
where the choices must be equal, and its time per pair counts.
`pie_cached`: the same against a loop by hand, which knows the entropies of all members and their
information on the labels beforehand, and that classes are small whole numbers.
`prune_pie`, `prune_pap`: `SAEP.prune` from logits to the members that are kept, how many being left
to the tolerance, also on one core (no other side).
`domep_seconds`, `domep_memory`: DOMEP over 20,000 members and 10,000 images, 50 chosen, on all
cores; by how much the memory of all processes grows at most, the predictions included (no other
side).

    python -m benchmarks.saep [--quick] [--json]
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raynas.cluster import connected
from raynas.ensemble.comep import comep
from raynas.ensemble.domep import domep
from raynas.ensemble.information import relevances, tdac, tdac_matrix
from raynas.ensemble.saep import SAEP

#: what the project asks for: of `pie` a ratio; it may take 60 s
TARGETS = {"pie": 20}

_CLASSES = 10
_ALPHA = 0.5


def made_up(members: int, images: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return predictions, `members x images`, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, _CLASSES, images)
    ease = rng.beta(2, 1, images)
    skill = rng.uniform(0.5, 0.9, members)
    predictions = np.empty((members, images), np.uint8)
    for own, level in zip(predictions, skill, strict=True):
        wrong = rng.random(images) > level * ease / ease.mean()
        own[:] = np.where(wrong, rng.integers(0, _CLASSES, images), labels)
    return predictions, labels


def pie(quick: bool) -> dict[str, dict[str, Any]]:
    """Return `pie` and `pie_cached`."""
    torch.set_num_threads(1)
    members, images, looped = (200, 2000, 40) if quick else (1000, 10_000, 200)
    predictions, labels = made_up(members, images)
    tdac_matrix(predictions[:20], labels, _ALPHA)  # warm up
    start = time.perf_counter()
    matrix = tdac_matrix(predictions, labels, _ALPHA)
    comep(matrix, members - 1, np.random.default_rng(0))
    ours = time.perf_counter() - start
    some = predictions[:looped]
    chosen = comep(tdac_matrix(some, labels, _ALPHA), looped - 1, np.random.default_rng(0))
    found = {}
    for name, loop in (("pie", _plain_loop), ("pie_cached", _cached_loop)):
        start = time.perf_counter()
        by_pairs = loop(some, labels)
        each = (time.perf_counter() - start) / (looped * (looped - 1) / 2)
        if comep(by_pairs, looped - 1, np.random.default_rng(0)) != chosen:
            raise SystemExit(f"{name}: the loop over pairs chooses others")
        other = each * members * (members - 1) / 2
        found[name] = {"ours": ours, "other": other, "ratio": other / ours, "unit": "s"}
    return found


def whole(quick: bool) -> dict[str, dict[str, Any]]:
    """Return `prune_pie` and `prune_pap`."""
    torch.set_num_threads(1)
    predictions, labels = made_up(*((200, 2000) if quick else (1000, 10_000)))
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(*predictions.shape, _CLASSES)).astype(np.float32)
    np.put_along_axis(logits, predictions[..., None].astype(np.int64), 4, axis=2)
    found = {}
    for rule in ("pie", "pap"):
        start = time.perf_counter()
        SAEP(rule=rule).prune(logits, labels)
        seconds = time.perf_counter() - start
        found[f"prune_{rule}"] = {"ours": seconds, "other": None, "ratio": None, "unit": "s"}
    return found


def _plain_loop(predictions: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return TDAC of every pair, by the function for a pair."""
    return _filled(len(predictions), lambda i, j: tdac(predictions[i], predictions[j], labels))


def _cached_loop(predictions: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return TDAC of every pair, from what can be computed once and one contingency table."""
    codes = predictions.astype(np.int64)
    relevance = relevances(predictions, labels)
    own = [_entropy(np.bincount(code)) for code in codes]
    rows = codes * _CLASSES

    def of_pair(i: int, j: int) -> float:
        if (codes[i] == codes[j]).all():
            return 0.0
        joint = _entropy(np.bincount(rows[i] + codes[j]))
        vi = 1 - (own[i] + own[j] - joint) / joint
        return _ALPHA * vi + (1 - _ALPHA) * (relevance[i] + relevance[j]) / 2

    return _filled(len(predictions), of_pair)


def _filled(members: int, value: Callable[[int, int], float]) -> NDArray[np.float64]:
    matrix = np.zeros((members, members))
    for i in range(members):
        for j in range(i + 1, members):
            matrix[i, j] = matrix[j, i] = value(i, j)
    return matrix


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def distributed(quick: bool) -> dict[str, dict[str, Any]]:
    """Return `domep_seconds` and `domep_memory`."""
    members, images = (4000, 1000) if quick else (20_000, 10_000)
    predictions, labels = made_up(members, images)
    with connected(), _watched() as peak:
        before = _anonymous_mib()
        start = time.perf_counter()
        domep(predictions, labels, 50, _ALPHA)
        seconds = time.perf_counter() - start
    memory = peak[0] - before + predictions.nbytes / 2**20
    return {
        "domep_seconds": {"ours": seconds, "other": None, "ratio": None, "unit": "s"},
        "domep_memory": {"ours": memory, "other": None, "ratio": None, "unit": "MiB"},
    }


@contextmanager
def _watched() -> Iterator[list[float]]:
    """Follow the largest memory of this process and its descendants, in MiB."""
    peak, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], _anonymous_mib())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _anonymous_mib() -> float:
    """Return the memory of this process and its descendants, but for what files share."""
    parents, sizes = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:  # it has just ended
            continue
        pid = int(status.parent.name)
        parents[pid] = int(lines["PPid"])
        sizes[pid] = float(lines.get("RssAnon", "0 kB").split()[0]) / 1024

    def belongs(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return sum(size for pid, size in sizes.items() if belongs(pid))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = pie(given.quick) | whole(given.quick) | distributed(given.quick)
    if given.json:
        print(json.dumps(found))
        return
    for measure, row in found.items():
        ratio = "" if row["ratio"] is None else f", {row['other']:.4g}: {row['ratio']:.1f} times"
        target = f" (target {TARGETS[measure]})" if measure in TARGETS else ""
        print(f"{measure}: {row['ours']:.4g} {row['unit']}{ratio}{target}")


if __name__ == "__main__":
    main()
