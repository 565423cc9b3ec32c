"""Make a small tabular benchmark: train every architecture of a part of a space, write a table.

The table that comes with raynas, all 729 cells of NAS-Bench-201 made of skip connections and
convolutions, was made by

    python -m benchmarks.make_table --to trials/tables/digits-nb201.parquet

One core takes about half an hour. Stopped, the same command goes on. Architectures that compute
the same function are trained once and have equal rows.

Columns: `architecture`; `val_accuracy`, after every epoch; `test_accuracy`, after the last epoch,
of the same network (it saw the training part only); `seconds` of one core for all epochs together
(process time, which other work on the machine does not lengthen); `params`, `macs`; `naswot`, the
score of the untrained network.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import search_spaces
from search_spaces import Architecture, SearchSpace
from trials import Train
from trials.data import Data, load
from trials.proxies.scoring import Scorer
from trials.training import evaluate
from trials.trial import derived_seed

_SAVE_EVERY = 20


def part_of(space: SearchSpace, leave_out: list[str]) -> Iterator[Architecture]:
    """Return all architectures of a space whose choices are not among `leave_out`."""
    kept = [
        [i for i, choice in enumerate(decision.choices) if str(choice) not in leave_out]
        for decision in space.decisions
    ]
    for choices in itertools.product(*kept):
        yield space.architecture(choices)


def row_of(space: SearchSpace, arch: Architecture, data: Data, epochs: int) -> dict[str, Any]:
    """Train one architecture; its seed follows from its choices alone."""
    device = torch.device("cpu")
    trial = Train().trial(space, arch, data, epochs, derived_seed(*arch.choices), device)
    start = time.process_time()
    history = [trial.step() for _ in range(epochs)]
    seconds = time.process_time() - start
    return {
        "val_accuracy": [metrics["val_accuracy"] for metrics in history],
        "test_accuracy": evaluate(trial.network, data.test, device)[1],
        "seconds": seconds,
        "params": space.params(arch, data.input_shape, data.num_classes),
        "macs": space.macs(arch, data.input_shape, data.num_classes),
        "naswot": Scorer(space, data, "naswot").score(arch),
    }


def main() -> None:
    """Train what is not in the table yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="the Parquet file")
    parser.add_argument("--space", default="nasbench201:channels=4,cells=1")
    parser.add_argument("--leave-out", default="none,avg_pool_3x3", help="choices not used")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = search_spaces.get(arguments.space)
    data = load(arguments.data, seed=0)
    rows = pd.read_parquet(arguments.to).to_dict("records") if arguments.to.exists() else []
    done = {row["architecture"]: row for row in rows}
    trained = {space.canonical(space.from_string(text)): row for text, row in done.items()}
    for arch in part_of(space, arguments.leave_out.split(",")):
        text = space.to_string(arch)
        if text in done:
            continue
        form = space.canonical(arch)
        if form not in trained:
            trained[form] = row_of(space, form, data, arguments.epochs)
        rows.append({**trained[form], "architecture": text})
        if len(rows) % _SAVE_EVERY == 0:
            _write(rows, arguments.to)
            print(f"{len(rows)} architectures", flush=True)
    _write(rows, arguments.to)


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    columns = ["architecture", *(c for c in frame.columns if c != "architecture")]
    partial = path.with_suffix(".partial")
    frame[columns].to_parquet(partial, compression="zstd")
    partial.replace(path)


if __name__ == "__main__":
    main()
