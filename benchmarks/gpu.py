"""What only a GPU can show, in one command and at most nine minutes on one.

Every measure compares two things in one run:

- `training`, `images`: the training loop, and its images alone, against a plain PyTorch loop with
  a DataLoader (images/s);
- `precision`: training in mixed precision against float32 (images/s);
- `naswot`: cells of NAS-Bench-201 scored on the GPU against one CPU thread (cells/s);
- `children`: 64 children of a supernet at once against one by one (children/s);
- `sharing`: 16 trials of a small network, four on the GPU at the same time, against one after
  another (trials/s; the start of their actors is counted, Ray's is not);
- `memory`: bytes that a trial holds, and what of them is left when it has ended;
- `milenas`, `gdas`, ...: steps of differentiable searches, as `benchmarks.differentiable cost`.

    python -m benchmarks.gpu [--to docs/gpu.md] [--device cpu] [--minutes 9]

Without a GPU it says so and ends well. `--device cpu` runs the same on tiny sizes, to see that it
works; it writes no file. A measure that fails is reported with its reason and the others go on.
"""

import argparse
import gc
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

import raynas
import search_spaces
from benchmarks import data as images
from benchmarks import differentiable, supernet
from raynas.cluster import connected
from raynas.record.events import Finished, Suggested
from raynas.record.journal import read_events
from trials import Train
from trials.data import Data, load
from trials.proxies import naswot

_ROUNDS = 3


@dataclass(frozen=True)
class Row:
    """One measure: `ours` against `other`, in `unit`."""

    ours: float
    other: float
    unit: str

    @property
    def cells(self) -> str:
        """Return the cells of the table."""
        ratio = "" if not self.other else f"{self.ours / self.other:.2f}"
        return f"{self.ours:,.4g} | {self.other:,.4g} | {self.unit} | {ratio}"


Measure = Callable[[torch.device], dict[str, Row]]


def _full(device: torch.device) -> bool:
    return device.type == "cuda"


def _noise(count: int) -> Data:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return load((pixels, np.arange(count) % 10), crop=4, flip=True)


def _synchronize(device: torch.device) -> None:
    if _full(device):
        torch.cuda.synchronize(device)


def _rate(work: Callable[[], object], amount: int, device: torch.device) -> float:
    """Return how much of something is done in a second, the median of some rounds."""
    work()
    seconds = []
    for _ in range(_ROUNDS):
        _synchronize(device)
        start = time.perf_counter()
        work()
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    return amount / statistics.median(seconds)


def training(device: torch.device) -> dict[str, Row]:
    """Measure the training loop against a plain one."""
    found = images.measure(device, 50_000 if _full(device) else 500, _ROUNDS)
    whole, alone = found.values()
    return {
        name: Row(float(row["ours"]), float(row["other"]), "images/s")
        for name, row in (("training", whole), ("images", alone))
    }


def precision(device: torch.device) -> dict[str, Row]:
    """Measure mixed precision against float32, on a ResNet9 of 64 channels."""
    space = search_spaces.get("convnet")
    arch = space.from_string("c64-w2d1-w2d0-w2d1" if _full(device) else "c8-w2d0-w2d0-w2d0")
    data = _noise(40_000 if _full(device) else 400)
    count = len(data.train)

    def rate(kind: Literal["bfloat16", "float32"] | None) -> float:
        trial = Train(batch_size=128, precision=kind).trial(space, arch, data, 100, 0, device)
        return _rate(trial.step, count, device)

    mixed = rate(None if _full(device) else "bfloat16")
    return {"precision": Row(mixed, rate("float32"), "images/s")}


def scoring(device: torch.device) -> dict[str, Row]:
    """Measure NASWOT on the device against one CPU thread."""
    space = search_spaces.get("nasbench201" if _full(device) else "nasbench201:channels=4,cells=1")
    rng = np.random.default_rng(0)
    cells = [space.sample(rng) for _ in range(16 if _full(device) else 4)]
    torch.set_num_threads(1)

    def rate(where: torch.device) -> float:
        batch = torch.randn(128 if _full(device) else 16, 3, 32, 32, device=where)

        def score() -> None:
            for cell in cells:
                naswot.score(space.build(cell).to(where), batch)

        return _rate(score, len(cells), where)

    return {"naswot": Row(rate(device), rate(torch.device("cpu")), "cells/s")}


def children(device: torch.device) -> dict[str, Row]:
    """Measure many children of a supernet at once against one by one."""
    space = search_spaces.get("nasbench201" if _full(device) else "nasbench201:channels=4,cells=1")
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(64 if _full(device) else 8)]
    row = supernet.children(space, archs, 64 if _full(device) else 8, 32, device.type)
    return {"children": Row(row["ours"], row["other"], row["unit"])}


def sharing(device: torch.device) -> dict[str, Row]:
    """Measure four trials on the device at the same time against one after another."""
    share = 0.25 if _full(device) else 0.0
    count = 16 if _full(device) else 2
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8_000 if _full(device) else 400, 32, 32, 3), dtype=np.uint8)
    source = (pixels, np.arange(len(pixels)) % 10)

    def rate(concurrent: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            result = raynas.run(
                space="nasbench201:channels=8,cells=1", data=source, search="random",
                scheduler="fifo", samples=count, epochs=3, retrain_epochs=1, storage_path=folder,
                gpus_per_trial=share, max_concurrent=concurrent,
            )  # fmt: skip
            events = read_events(result.path)
        start = min(e.time for e in events if isinstance(e, Suggested))
        return count / (max(e.time for e in events if isinstance(e, Finished)) - start)

    with connected():
        return {"sharing": Row(rate(4 if _full(device) else 2), rate(1), "trials/s")}


def memory(device: torch.device) -> dict[str, Row]:
    """Measure what a trial leaves of the memory that it held."""
    if not _full(device):
        return {}
    data, space = _noise(4_000), search_spaces.get("nasbench201")
    arch = space.sample(np.random.default_rng(0))

    def held() -> int:
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(device)

    before = held()
    trial = Train().trial(space, arch, data, 2, 0, device)
    trial.step()
    during = torch.cuda.max_memory_allocated(device) - before
    del trial
    return {"memory": Row(held() - before, during, "bytes left, of so many")}


def differentiable_steps(device: torch.device) -> dict[str, Row]:
    """Measure the steps of differentiable searches."""
    found = differentiable.cost(device, quick=True)
    return {name: Row(row["ours"], row["other"], row["unit"]) for name, row in found.items()}


MEASURES: tuple[Measure, ...] = (
    training, precision, scoring, children, memory, sharing, differentiable_steps,
)  # fmt: skip


def measured(device: torch.device, minutes: float) -> tuple[dict[str, Row], dict[str, str]]:
    """Return all measures that the time holds, and why others are missing."""
    rows: dict[str, Row] = {}
    missing: dict[str, str] = {}
    end = time.monotonic() + 60 * minutes
    for measure in MEASURES:
        if time.monotonic() > end:
            missing[measure.__name__] = f"{minutes:g} minutes were over"
            continue
        try:
            found = measure(device)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            missing[measure.__name__] = f"{type(error).__name__}: {error}"
            continue
        rows |= found
        for name, row in found.items():
            print(f"| {name} | {row.cells} |", flush=True)
    return rows, missing


def page(rows: dict[str, Row], missing: dict[str, str]) -> str:
    """Return the page of the docs."""
    lines = [
        "# On a GPU",
        "",
        "Made by `make gpu`; what each row compares is in the docstring of `benchmarks/gpu.py`.",
        f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores, torch {torch.__version__},"
        f" Python {platform.python_version()}.",
        "",
        "| measure | ours | other | unit | ratio |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {name} | {row.cells} |" for name, row in rows.items()),
        *(f"\nNot measured: {name}: {reason}." for name, reason in missing.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, help="file that gets the table")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--minutes", type=float, default=9, help="after which no measure begins")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here that torch can use: nothing is measured, nothing is written.")
        return 0
    rows, missing = measured(torch.device(given.device), given.minutes)
    if given.to and given.device == "cuda":
        given.to.write_text(page(rows, missing))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
