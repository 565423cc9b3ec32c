"""How long `auto` takes to answer: CPU milliseconds of an `ask`, up to 300 known results.

    python -m benchmarks.ask [--spaces darts nasbench201] [--results 300] [--seeds 3]
        [--prior counts|structure] [--quick] [--json]

No network is trained: the value of an architecture is drawn from its choices, and its result is
told at once, or after that of `awaited` others (as many workers are busy). Printed are median,
99th percentile and maximum over all asks of all seeds, and the median of the last third of them,
when the most results are known. One ask in three also searches for the surrogate's parameters;
those make the high percentiles. CPU time is that of the process, all threads of the linear algebra
together; threads that wait for each other count, so set OMP_NUM_THREADS=1 on a busy machine.
"""

import argparse
import json
import time
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

import search_spaces
from raynas.searchers import Auto
from search_spaces import Architecture

AWAITED = (0, 7)


def value(arch: Architecture) -> float:
    """Return a value between 0 and 1 to which every choice contributes."""
    parts = [zlib.crc32(f"{i}:{choice}".encode()) for i, choice in enumerate(arch.choices)]
    return sum(parts) / len(parts) / 2**32


def milliseconds(
    name: str,
    results: int,
    awaited: int,
    seed: int,
    prior: Literal["counts", "structure"] | None = None,
) -> list[float]:
    """Return the CPU milliseconds of every ask until so many results are known."""
    searcher, space = Auto(prior=prior), search_spaces.get(name)
    searcher.start(space, seed)
    assert searcher.scoring is not None
    drawn = searcher.scoring.architectures
    searcher.tell_scores({arch: float(space.counts(arch).macs) for arch in drawn})
    taken: list[float] = []
    waiting: list[Architecture] = []
    while len(taken) < results + awaited:
        start = time.process_time()
        waiting.append(searcher.ask())
        taken.append(1e3 * (time.process_time() - start))
        if len(waiting) > awaited:
            arch = waiting.pop(0)
            searcher.tell(arch, value(arch), 1)
    return taken


def figures(taken: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the figures of several runs, rounded to tenths of a millisecond."""
    ms = np.array(taken)
    late = ms[:, 2 * ms.shape[1] // 3 :]
    rows = {
        "median": np.median(ms),
        "99%": np.quantile(ms, 0.99),
        "max": ms.max(),
        "late_median": np.median(late),
    }
    return {name: round(float(figure), 1) for name, figure in rows.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spaces", nargs="+", default=["darts", "nasbench201"])
    parser.add_argument("--results", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prior", choices=["counts", "structure"])
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    seeds = range(1 if given.quick else given.seeds)
    rows = [
        {"space": name, "awaited": awaited, "results": given.results, "seeds": len(seeds)}
        | figures([milliseconds(name, given.results, awaited, seed, given.prior) for seed in seeds])
        for name in given.spaces
        for awaited in AWAITED
    ]
    print(json.dumps(rows) if given.json else pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
