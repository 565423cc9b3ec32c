"""How many evaluations `auto` needs to find the best cell of NAS-Bench-201.

    python -m benchmarks.auto --table nb201.parquet [--data c10 c100 in16] [--cells]
        [--queries 100] [--runs 200] [--search auto] [--jobs N] [--json]

For each data set the search maximizes the validation accuracy after 200 epochs (column
`c10_valid_200`, say). Printed are mean, median and quantiles over the runs of the number of
evaluations until the best was found, and the mean test accuracy (`c10_test_200`) of what a run
had chosen at its end. A run that did not find it counts as infinite in the quantiles, and as
`--queries` in the mean, which then is a lower bound.

Evaluations are of classes: cells that compute the same function are evaluated once, and any of
them is the best. With `--cells` the search is not told which cells are equal: it has 15,625 to
choose from, each with an accuracy of its own training, and one is the best.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

import raynas
import search_spaces
from search_spaces import Architecture
from search_spaces.nasbench201 import NASBench201

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


class Cells(NASBench201):
    """NAS-Bench-201 without the knowledge of which cells compute the same function."""

    def canonical(self, arch: Architecture) -> Architecture:
        """Return the architecture itself."""
        return self.check(arch)


def measure(
    table: str, data: str, cells: bool, search: str, queries: int, runs: int, jobs: int
) -> dict[str, Any]:
    """Return the figures of one search on one data set."""
    frame = raynas.bench(
        table, "arch", search, f"{data}_valid_200", report=f"{data}_test_200", queries=queries,
        runs=runs, jobs=jobs, space=Cells() if cells else search_spaces.get("nasbench201"),
    )  # fmt: skip
    return {"data": data, "of": "cells" if cells else "classes"} | figures(frame, queries)


def figures(frame: pd.DataFrame, queries: int) -> dict[str, float]:
    """Return mean and quantiles of the evaluations until the best was found, and the report."""
    found = frame["queries_to_best"].to_numpy()
    row: dict[str, float] = {"runs": len(found), "found": int(np.isfinite(found).sum())}
    row["mean"] = round(float(np.nan_to_num(found, nan=queries).mean()), 1)
    for q in QUANTILES:
        reached = np.quantile(np.nan_to_num(found, nan=np.inf), q, method="higher")
        row[f"{q:.0%}"] = float(reached)
    row["report"] = round(float(frame["report"].mean()), 4)
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", required=True)
    parser.add_argument("--data", nargs="+", default=["c10", "c100", "in16"])
    parser.add_argument("--cells", action="store_true")
    parser.add_argument("--search", default="auto")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    rows = []
    for data in given.data:
        rows.append(
            measure(
                given.table, data, given.cells, given.search, given.queries, given.runs, given.jobs
            )
        )
        if not given.json:
            print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
