"""Trials per second when a trial does nothing: what orchestration costs.

Three sides in one run on one Ray: raynas with its journal and TensorBoard on; Ray Tune with reused
actors and its default loggers; Ray Tune as it comes. The first two take turns. The clock runs from
the first end of a trial to the last, so the start of the first workers, which every side pays once,
is left out.

    python benchmarks/orchestration.py [--quick] [--json]
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
import torch
from ray import tune

import raynas
from raynas.cluster import connected
from raynas.record import events as kinds
from raynas.record.journal import read_events
from search_spaces import Architecture, SearchSpace
from trials import data as trial_data
from trials.data import Data


class EmptyTrial(raynas.Trial):
    """One epoch that takes no time."""

    epochs = 1

    def __init__(self, value: float):
        self.value = value

    def step(self) -> dict[str, float]:
        self.epoch += 1
        return {"val_accuracy": self.value}


class Empty(raynas.Evaluator):
    """Evaluates nothing."""

    def trial(
        self,
        space: SearchSpace,
        arch: Architecture,
        data: Data,
        epochs: int,
        seed: int,
        device: torch.device,
    ) -> EmptyTrial:
        return EmptyTrial((seed % 1000) / 1000)

    def retraining(self, *arguments: object) -> None:
        """Leave it to `Train()`."""


class EmptyTrainable(tune.Trainable):
    """The same for Tune."""

    def setup(self, config: dict) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict) -> bool:
        self.value = (new_config["seed"] % 1000) / 1000
        return True

    def step(self) -> dict:
        return {"val_accuracy": self.value, "done": True}


def empty_function(config: dict) -> None:
    """Do the same as a function, the form that Tune's tutorials show."""
    tune.report({"val_accuracy": (config["seed"] % 1000) / 1000})


class Finished(tune.Callback):
    """Notes when trials end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_trial_complete(
        self, iteration: int, trials: list, trial: object, **info: object
    ) -> None:
        self.times.append(time.time())


def rate(times: list[float]) -> float:
    """Return trials per second between the first and the last end of a trial."""
    return (len(times) - 1) / (max(times) - min(times))


def of_raynas(samples: int, folder: Path, data: Data, name: str) -> float:
    """Return trials per second of a search by raynas."""
    raynas.run(
        space="nasbench201:channels=4,cells=1", data=data, search="random", evaluate=Empty(),
        scheduler="fifo", samples=samples, epochs=1, storage_path=folder, name=name,
    )  # fmt: skip
    events = read_events(folder / name)
    return rate([event.time for event in events if isinstance(event, kinds.Finished)])


def of_tune(trainable: object, samples: int, folder: Path, reuse: bool) -> float:
    """Return trials per second of a search by Ray Tune."""
    finished = Finished()
    tune.Tuner(
        trainable,
        param_space={"seed": tune.randint(0, 1_000_000)},
        tune_config=tune.TuneConfig(num_samples=samples, reuse_actors=reuse),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            verbose=0,
            callbacks=[finished],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False) if reuse else None,
        ),
    ).fit()
    return rate(finished.times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="within a minute on two cores")
    options = parser.parse_args()
    samples, rounds, plain = (400, 1, 6) if options.quick else (400, 3, 20)
    ours, reuse = [], []
    with tempfile.TemporaryDirectory() as temporary, connected():
        folder = Path(temporary)
        images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
        data = trial_data.load((images, np.arange(60) % 2))
        for turn in range(rounds):
            ours.append(of_raynas(samples, folder, data, f"raynas-{turn}"))
            with default_loggers():
                reuse.append(of_tune(EmptyTrainable, samples, folder, reuse=True))
        with default_loggers():
            default = of_tune(empty_function, plain, folder, reuse=False)
    measured = statistics.median(ours)
    result = {
        measure: {
            "ours": round(measured, 2),
            "other": round(other, 2),
            "ratio": round(measured / other, 2),
            "unit": "trials/s",
        }
        for measure, other in (("reuse", statistics.median(reuse)), ("default", default))
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"raynas, journal and TensorBoard on:        {measured:6.1f} trials/s")
    for measure, label in (
        ("reuse", "Ray Tune, reused actors, default loggers:"),
        ("default", "Ray Tune as it comes:"),
    ):
        row = result[measure]
        print(f"{label:43}{row['other']:6.1f} trials/s, ratio {row['ratio']:.1f}")


class default_loggers:
    """Tune as if raynas had not been there: without the environment that it sets."""

    def __enter__(self) -> None:
        names = [key for key in os.environ if key.startswith("TUNE_")]
        self.removed = {key: os.environ.pop(key) for key in names}

    def __exit__(self, *error: object) -> None:
        os.environ.update(self.removed)


if __name__ == "__main__":
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    ray.logger.setLevel(logging.ERROR)
    main()
