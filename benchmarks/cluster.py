"""What a cluster makes of its machines: slots that are kept at work, nodes, workers of one trial.

`slots`: trials that sleep for one second on 16 slots, by raynas and by Ray Tune with reused actors
and without loggers; 16 trials a second are ideal. All slots start together, and their first trials
are not counted. `scaling`: trainings a second on two nodes of one core against one such node.
`workers`: images a second of two data-parallel processes against one, of one thread each, which
take turns. Cores that do other work at the same time falsify the last two.

    python -m benchmarks.cluster {slots,scaling,workers} [--quick] [--json]
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.multiprocessing
from ray import tune
from ray.cluster_utils import Cluster
from torch import nn

import raynas
import search_spaces
from benchmarks.orchestration import Finished
from raynas.cluster import ENVIRONMENT
from raynas.record import events as kinds
from raynas.record.journal import read_events
from search_spaces import UserSpace
from trials import data as trial_data
from trials import workers

SLOTS = 16
CPU = torch.device("cpu")
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"


def build(configuration: dict[str, Any], shape: tuple[int, ...], classes: int) -> nn.Module:
    """Build the same network for all numbers."""
    space = search_spaces.get("nasbench201:channels=8,cells=1")
    return space.build(space.from_string(CELL), shape, classes)


def numbers() -> UserSpace:
    """Return a space of architectures that differ in nothing, so that all take the same time."""
    return UserSpace("numbers", {"number": tuple(range(10_000))}, build)


def images(count: int, side: int) -> trial_data.Data:
    """Return random images of two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return trial_data.load((pixels, np.arange(count) % 2))


def rate(ends: Sequence[float], slots: int) -> float:
    """Return trials per second after each slot has ended one."""
    ends = sorted(ends)
    return (len(ends) - slots) / (ends[-1] - ends[slots - 1])


def of_raynas(folder: Path, name: str, slots: int, **arguments: Any) -> float:
    """Return trials per second of a search by raynas."""
    raynas.run(
        space=numbers(), search="random", scheduler="fifo", storage_path=folder, name=name,
        retrain_epochs=1, **arguments,
    )  # fmt: skip
    events = read_events(folder / name)
    return rate([event.time for event in events if isinstance(event, kinds.Finished)], slots)


def wait_for_all(folder: Path, slots: int) -> None:
    """Return when so many processes as there are slots have come here, at once from then on."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < slots:
        time.sleep(0.05)


class SleepingTrial(raynas.Trial):
    """One epoch of a second."""

    epochs = 1

    def __init__(self, folder: Path, slots: int):
        self.folder, self.slots = folder, slots

    def step(self) -> dict[str, float]:
        wait_for_all(self.folder, self.slots)
        time.sleep(1)
        self.epoch += 1
        return {"val_accuracy": 0.5}


class Sleeping(raynas.Evaluator):
    """Evaluates nothing."""

    def __init__(self, folder: Path, slots: int):
        self.folder, self.slots = folder, slots

    def trial(self, *arguments: object) -> SleepingTrial:  # type: ignore[override]
        return SleepingTrial(self.folder, self.slots)

    def retraining(self, *arguments: object) -> None:  # type: ignore[override]
        """Leave it to `Train()`."""


class SleepingTrainable(tune.Trainable):
    """The same for Tune."""

    def setup(self, config: dict) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict) -> bool:
        self.folder, self.slots = Path(new_config["folder"]), new_config["slots"]
        return True

    def step(self) -> dict:
        wait_for_all(self.folder, self.slots)
        time.sleep(1)
        return {"val_accuracy": 0.5, "done": True}


def of_tune(folder: Path, samples: int, waiting: Path) -> float:
    """Return trials per second of a search by Ray Tune."""
    ends = Finished()
    tune.Tuner(
        SleepingTrainable,
        param_space={"seed": tune.randint(0, 1_000_000), "folder": str(waiting), "slots": SLOTS},
        tune_config=tune.TuneConfig(
            num_samples=samples, reuse_actors=True, max_concurrent_trials=SLOTS
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder), verbose=0, callbacks=[ends],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()  # fmt: skip
    return rate(ends.times, SLOTS)


def slots(quick: bool) -> dict[str, float | str]:
    """Compare the trials per second of raynas and of Ray Tune, one after the other."""
    samples = SLOTS * (6 if quick else 30)
    os.environ.update(ENVIRONMENT)
    ray.init(
        num_cpus=SLOTS, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        waiting = [folder / "raynas-waiting", folder / "tune-waiting"]
        for one in waiting:
            one.mkdir()
        ours = of_raynas(
            folder, "run", SLOTS, data=images(60, 8), evaluate=Sleeping(waiting[0], SLOTS),
            samples=samples, epochs=1,
        )  # fmt: skip
        other = of_tune(folder, samples, waiting[1])
    return {"ours": ours, "other": other, "unit": f"trials/s, {SLOTS} are ideal"}


def nodes(count: int, samples: int) -> None:
    """Print the trainings per second on so many nodes of one core."""
    os.environ.update(ENVIRONMENT)
    cluster = Cluster()  # type: ignore[no-untyped-call]
    for _ in range(count):
        cluster.add_node(num_cpus=1)  # type: ignore[no-untyped-call]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        print(
            of_raynas(
                Path(temporary), "run", count, data=images(3000, 16), evaluate="train",
                samples=samples, epochs=1,
            )
        )  # fmt: skip
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]


def scaling(quick: bool) -> dict[str, float | str]:
    """Compare two nodes with one, each cluster in a process of its own."""
    rounds, samples = (1, 6) if quick else (3, 16)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, measured in rates.items():
            command = [sys.executable, "-m", "benchmarks.cluster", "nodes", str(count)]
            done = subprocess.run(
                [*command, str(samples)], capture_output=True, text=True, check=True,
                env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
            )  # fmt: skip
            measured.append(float(done.stdout.splitlines()[-1]))
    return {
        "ours": statistics.median(rates[2]),
        "other": statistics.median(rates[1]),
        "unit": "trainings/s",
    }


def train(data: trial_data.Data) -> float:
    """Return the training images per second of all workers that are there."""
    space = search_spaces.get("nasbench201:channels=16,cells=1")
    arch = space.from_string(CELL)
    trial = raynas.Train().trial(space, arch, data, 2, 0, CPU)
    trial.train_epoch()  # the first steps allocate memory
    start = time.perf_counter()
    trial.epoch = 1
    trial.train_epoch()
    return trial.steps * trial.batch_size / (time.perf_counter() - start)


def worker(rank: int, ports: Sequence[int], count: int, file: Path) -> None:
    """Train alone, if this is the first worker, then with the other one; and again."""
    torch.set_num_threads(1)
    data = images(count, 32)
    alone, together = [], []
    for port in ports:
        if rank == 0:
            alone.append(train(data))
        workers.join(("127.0.0.1", port), rank, 2, CPU)  # where the other one waits meanwhile
        together.append(train(data))
        workers.leave()
    if rank == 0:
        file.write_text(json.dumps([statistics.median(together), statistics.median(alone)]))


def two_workers(quick: bool) -> dict[str, float | str]:
    """Compare two data-parallel processes with one."""
    rounds, count = (1, 640) if quick else (5, 2560)
    stores = [workers.listen("127.0.0.1", 2) for _ in range(rounds)]
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "rates.json"
        ports = [store.port for store in stores]
        torch.multiprocessing.spawn(worker, (ports, count, file), nprocs=2)  # type: ignore[no-untyped-call]
        ours, other = json.loads(file.read_text())
    return {"ours": ours, "other": other, "unit": "images/s"}


MODES = {"slots": slots, "scaling": scaling, "workers": two_workers}
LABELS = {
    "slots": ("raynas", "Ray Tune with reused actors"),
    "scaling": ("two nodes of one core", "one node of one core"),
    "workers": ("two workers of a trial", "one"),
}


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["nodes"]:  # a part of `scaling`
        nodes(int(sys.argv[2]), int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer trials, rounds and images")
    options = parser.parse_args()
    row = MODES[options.mode](options.quick)
    row["ratio"] = float(row["ours"]) / float(row["other"])
    if options.mode == "slots":
        row["share of the ideal"] = float(row["ours"]) / SLOTS
    row = {
        key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()
    }
    if options.json:
        print(json.dumps({options.mode: row}))
        return
    for label, value in zip(LABELS[options.mode], (row["ours"], row["other"]), strict=True):
        print(f"{label:30}{value:10.2f} {row['unit']}")
    print(f"ratio {row['ratio']:.2f}")
    if options.mode == "slots":
        print(f"share of the ideal {row['share of the ideal']:.3f}")


if __name__ == "__main__":
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    ray.logger.setLevel(logging.ERROR)
    main()
