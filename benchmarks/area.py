"""NASWOT and AREA on a tabular benchmark, with real scores of untrained networks.

    python -m benchmarks.area --table nb201.parquet --scores scores.parquet [--json]

`scores` is what `raynas score --to` writes, or a file of `benchmarks/proxies.py --scores`: columns
`architecture` and `naswot`. Only the architectures of the table that have a score (or one that
computes the same function has) take part, in all searches alike. The roles of the table's columns
are those of NAS-Bench-201's usual protocol unless said otherwise: 12-epoch validation accuracy
chooses, 12,000 s, 500 runs; `naswot:candidates=N` evaluates one architecture alone.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

import raynas
import search_spaces

SEARCHES = (
    "naswot:candidates=10", "naswot:candidates=100", "naswot:candidates=1000",
    "random", "evolution", "area",
)  # fmt: skip


def main() -> None:
    """Print mean, standard deviation and standard error of what each search reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--architecture", default="arch")
    parser.add_argument("--space", default="nasbench201")
    parser.add_argument("--metric", default="c10_valid_12")
    parser.add_argument("--cost", default="c10_time_epoch_s * 12")
    parser.add_argument("--report", default="c10_test_200")
    parser.add_argument("--time-budget", type=float, default=12_000.0)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    space = search_spaces.get(given.space)
    scores = pd.read_parquet(given.scores)
    scores = scores.rename(columns={"arch": "architecture"})[["architecture", "naswot"]]
    scored = {space.canonical(space.from_string(text)) for text in scores["architecture"]}
    table = pd.read_parquet(given.table)
    forms = [space.canonical(space.from_string(text)) for text in table[given.architecture]]
    table = table[[form in scored for form in forms]].reset_index(drop=True)
    frame = raynas.bench(
        table, given.architecture, SEARCHES, given.metric, given.cost, given.report,
        time_budget=given.time_budget, runs=given.runs, scores=scores, space=space,
    )  # fmt: skip
    rows = frame.groupby("search", sort=False)["report"].agg(["mean", "std"])
    rows["error"] = rows["std"] / np.sqrt(given.runs)
    rows["evaluations"] = frame.groupby("search")["queries"].mean()
    if given.json:
        print(json.dumps({"architectures": len(table), "rows": rows.to_dict("index")}))
    else:
        print(f"{len(table)} architectures with a score")
        print(rows.round(3))


if __name__ == "__main__":
    main()
