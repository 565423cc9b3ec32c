"""Make a table of the official NATS-Bench files; needs the package `nats_bench`.

    python -m trials.tables.nats_bench NATS-tss-v1_0-3ffb9-simple --to nats-tss.parquet
    raynas bench --table nats-tss.parquet --time-budget 20000

Dong, Liu, Musial, Gabrys: NATS-Bench (IEEE TPAMI 2021). The table has one row per architecture
and, for every data set and training schedule of the files, mean accuracies over the seeds in
percent. For CIFAR-10 validation and test accuracy come from different trainings, as in the paper:
`cifar10-valid` on half of the training images, and `cifar10` on all.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from search_spaces.errors import InvalidArgument, RaynasError

_DATASETS = ("cifar10", "cifar100", "ImageNet16-120")


def convert(source: str | Path, to: str | Path, space: str = "") -> Path:
    """Write a Parquet file, and beside it a YAML file with the roles of its columns.

    Args:
        source: the folder or file of NATS-Bench, as published.
        to: the Parquet file.
        space: `tss` (topology) or `sss` (size); found from the file's name if empty.

    Raises:
        RaynasError: where the package `nats_bench` is not installed.
        InvalidArgument: for a source that is not there, or of neither space.
    """
    try:
        import nats_bench
    except ImportError as error:
        raise RaynasError(
            "The official files are read by the package nats_bench: pip install nats_bench."
        ) from error
    source, to = Path(source).expanduser(), Path(to)
    if not source.exists():
        raise InvalidArgument(f"source={str(source)!r} does not exist.")
    spaces = [name for name in ("tss", "sss") if name in (space or source.name)]
    if len(spaces) != 1:
        raise InvalidArgument(f"space={space!r}: say tss (topology) or sss (size).")
    api = nats_bench.create(str(source), spaces[0], fast_mode=source.is_dir(), verbose=False)
    frame = pd.DataFrame(list(_rows(api)))
    frame.to_parquet(to, compression="zstd")
    to.with_suffix(".yaml").write_text(yaml.safe_dump(_roles(frame, spaces[0]), sort_keys=False))
    return to


def _rows(api: Any) -> Iterator[dict[str, Any]]:
    for index in range(len(api)):
        row: dict[str, Any] = {"architecture": str(api.arch(index))}
        for dataset in _DATASETS:
            costs = api.get_cost_info(index, dataset)
            prefix = dataset.split("-")[0].lower()
            row[f"{prefix}_params"] = costs["params"] * 1e6
            row[f"{prefix}_macs"] = costs["flops"] * 1e6
            for schedule in api.avaliable_hps:  # the package spells it so
                row |= _results(api, index, dataset, prefix, schedule)
        yield row


def _results(api: Any, index: int, dataset: str, prefix: str, schedule: str) -> dict[str, float]:
    """Return accuracies in percent and seconds of training after a whole schedule."""
    options = {"hp": schedule, "is_random": False}
    last = api.get_more_info(index, dataset, **options)
    searched = last
    if dataset == "cifar10":
        searched = api.get_more_info(index, "cifar10-valid", **options)
    named = {
        f"{prefix}_valid_{schedule}": searched.get("valid-accuracy"),
        f"{prefix}_test_{schedule}": last.get("test-accuracy"),
        f"{prefix}_seconds_{schedule}": _seconds(searched),
    }
    return {key: float(value) for key, value in named.items() if value is not None}


def _seconds(info: dict[str, Any]) -> float | None:
    """Return the seconds of training and one validation, as the benchmark's searches pay."""
    if info.get("train-all-time") is None:
        return None
    return float(info["train-all-time"]) + float(info.get("valid-per-time") or 0)


def _roles(frame: pd.DataFrame, space: str) -> dict[str, str]:
    """Return the paper's roles: search by 12 epochs on CIFAR-10, report the longest schedule."""
    tests = [c for c in map(str, frame) if c.startswith("cifar10_test_")]
    roles = {
        "architecture": "architecture",
        "metric": "cifar10_valid_12",
        "cost": "cifar10_seconds_12",
        "report": max(tests, key=lambda c: int(c.rpartition("_")[2]), default=""),
        "space": {"tss": "nasbench201", "sss": "natsbench_size"}[space],
    }
    missing = [roles[role] for role in ("metric", "cost") if roles[role] not in frame]
    if missing:
        warnings.warn(f"the files lack {', '.join(missing)}: mend the YAML file.", stacklevel=2)
    return roles


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="NATS-Bench files to a table.")
    parser.add_argument("source", help="folder or file of NATS-Bench")
    parser.add_argument("--to", required=True, help="the Parquet file")
    parser.add_argument("--space", default="", help="tss or sss; default: by the name")
    arguments = parser.parse_args()
    try:
        convert(arguments.source, arguments.to, arguments.space)
    except RaynasError as error:
        raise SystemExit(f"raynas: {error}") from None


if __name__ == "__main__":
    main()
