"""The verb `bench`. Its flags are the parameters of `raynas.bench`."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

import raynas
from raynas.cli.flags import read_flags, with_flags
from raynas.cli.output import AsJson, finite
from raynas.config.config import check_names
from raynas.schedulers import SCHEDULERS
from raynas.searchers import CONSTRAINTS
from search_spaces import SPACES

_QUERIES = 100  # of a run, unless the user says how long one is


@with_flags(
    read_flags(
        "raynas.benchmarking.bench:bench",
        without=("figure", "jobs"),
        helps={"search": "searchers, joined by commas"},
    )
)
def bench(
    figure: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="picture of the best so far; default: raynas-bench.png, none with json"),
    ] = None,
    jobs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="processes; default: one a core"),
    ] = None,
    as_json: AsJson = False,
    *,
    arguments: dict[str, Any],
) -> None:
    """Run searchers on a tabular benchmark, many times, on a virtual clock."""
    check_names(arguments, {"space": SPACES, "scheduler": SCHEDULERS, "constraint": CONSTRAINTS})
    if not arguments.keys() & {"queries", "time_budget"}:
        arguments["queries"] = _QUERIES
    if figure is None and not as_json:
        figure = Path("raynas-bench.png")
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    frame = raynas.bench(**arguments, jobs=jobs, figure=figure)

    from raynas.benchmarking.bench import summary  # with torch and Ray

    rows = summary(frame)
    for note in frame.attrs["notes"]:
        print(f"raynas: {note}", file=sys.stderr)
    if as_json:
        runs = json.loads(frame.to_json(orient="records"))
        numbers = {k: {n: finite(v) for n, v in row.items()} for k, row in rows.items()}
        print(json.dumps({"summary": numbers, "runs": runs, "notes": frame.attrs["notes"]}))
        return
    _print(rows)
    print(figure)


def _print(rows: Mapping[str, Mapping[str, float]]) -> None:
    table = Table("search", "report", "evaluations", "seconds", "best found", "after", box=None)
    for label, row in rows.items():
        table.add_row(
            label, f"{row['report_mean']:.4g} ± {row['report_std']:.2g}",
            f"{row['queries_mean']:.0f}", f"{row['seconds_mean']:.0f}", f"{row['found_best']:.0%}",
            f"{row['queries_to_best_median']:.0f} (90 %: {row['queries_to_best_p90']:.0f})",
        )  # fmt: skip
    Console().print(table)
