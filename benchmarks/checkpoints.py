"""Bytes on disk: checkpoints of a long search that are kept, against those of all evaluations.

    python -m benchmarks.checkpoints [--samples 100 1000 10000] [--keep 50] [--workers 16]
        [--space darts:channels=16,cells=8] [--quick] [--json]

No network is trained. A search of random architectures is driven by the search's own code, with
learning curves that are drawn; counted are the checkpoints that it has not discarded, at most and
at the end. `ours` is their number times the bytes of one checkpoint of the space's networks (of 20
drawn ones, after an epoch, the mean), `other` the same of one checkpoint for every evaluation.
"""

import argparse
import io
import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

import search_spaces
from raynas.record.events import Status
from raynas.schedulers import Asha, Fifo, Scheduler
from raynas.search.search import Search
from raynas.searchers import RandomSearch
from trials.data import load
from trials.training import Train

SCHEDULERS = {
    "fifo": Fifo,
    "asha": Asha,
    "asha:variant=promotion": lambda: Asha(variant="promotion"),
}
EPOCHS = 27
_NETWORKS = 20


def bytes_of_one(space: str) -> float:
    """Return the mean size of a checkpoint, of networks that are drawn from a space."""
    of, data = search_spaces.get(space), load("digits", fraction=0.05)
    rng, sizes = np.random.default_rng(0), []
    for seed in range(_NETWORKS):
        trial = Train().trial(of, of.sample(rng), data, 2, seed, torch.device("cpu"))
        trial.step()
        file = io.BytesIO()
        torch.save(trial.state_dict(), file)
        sizes.append(file.tell())
    return float(np.mean(sizes))


def kept(scheduler: Scheduler, samples: int, keep: int, workers: int) -> tuple[int, int]:
    """Return (the most checkpoints at a time, those at the end) of a search."""
    space = search_spaces.get("darts")
    search = Search(space, RandomSearch(), scheduler, samples, EPOCHS, 0, keep=keep)
    rng = np.random.default_rng(0)
    final = rng.uniform(0.5, 1, size=samples)
    running: list[int] = []
    most = 0
    while True:
        while len(running) < workers and (evaluation := search.suggest()) is not None:
            running.append(evaluation.index)
        if not running:
            return most, len(search.evaluations) - len(search.history.discarded)
        index = running.pop(int(rng.integers(len(running))))
        epoch = search.evaluations[index].epochs + 1
        value = final[index] * (1 - 0.5 / epoch) + rng.normal() * 0.02 / epoch
        goes_on = search.report(index, {"val_accuracy": float(value)})
        if not goes_on:
            search.finish(index, Status.STOPPED)
        elif epoch == EPOCHS:
            search.finish(index, Status.COMPLETED)
        else:
            running.append(index)
        most = max(most, len(search.evaluations) - len(search.history.discarded))


def measured(
    space: str, samples: Sequence[int], keep: int, workers: int
) -> dict[str, dict[str, float | str]]:
    """Return {scheduler, samples: figures}."""
    size, rows = bytes_of_one(space), {}
    for name, scheduler in SCHEDULERS.items():
        for count in samples:
            most, last = kept(scheduler(), count, keep, workers)
            rows[f"{name}, {count}"] = {
                "ours": round(most * size / 1e6, 1),
                "other": round(count * size / 1e6, 1),
                "ratio": round(most / count, 4),
                "unit": "MB",
                "at_the_end": round(last * size / 1e6, 1),
                "checkpoints": most,
            }
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--keep", type=int, default=50)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--space", default="darts:channels=16,cells=8")
    parser.add_argument("--quick", action="store_true", help="at most 1000 samples")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    samples = [count for count in given.samples if count <= 1000] if given.quick else given.samples
    rows = measured(given.space, samples, given.keep, given.workers)
    print(json.dumps(rows) if given.json else pd.DataFrame(rows).T.to_string())


if __name__ == "__main__":
    main()
