"""What each part of the default recipe gains: one network, one data set, with and without it.

A ResNet9 (`c16-w2d1-w2d0-w2d1` of the space `convnet`) is trained for the same number of passes
over training and validation part with the default recipe, with each part of it taken out, with each
other part that `Train` knows put in, and with `Train`'s own defaults. Printed are test accuracies
and their differences from the default recipe, in points, means over the seeds with standard errors.

    python -m benchmarks.recipe run --images FOLDER --results FILE [--passes 60] [--sets ...]
        [--seeds 2]
    python -m benchmarks.recipe show --results FILE

FOLDER is that of `benchmarks.default`. What FILE has already is not trained again.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import search_spaces
from benchmarks.default import FIXED, SETS
from raynas.planning.defaults import MIXUP, RECIPE
from search_spaces.naming import construct
from trials import EVALUATORS, Train
from trials.data import Data

#: {what: options that differ from the default recipe}
VARIANTS: dict[str, dict[str, Any]] = {
    "the default": {},
    "without mixup": {"mixup": None},
    "without label smoothing": {"label_smoothing": 0.0},
    "without warm-up": {"warmup": None},
    "with averaged weights": {"averaging": 0.99},
    "with cutout": {"cutout": 8},
    "without decay of norms": {"decay_norms": False},
    "with twice the decay": {"weight_decay": 1e-3},
    "in float32": {"precision": "float32"},
}


def recipe() -> Train:
    """Return the default recipe for images that are seen often, in bfloat16."""
    trained = construct("evaluate", RECIPE, EVALUATORS)
    assert isinstance(trained, Train)
    return replace(trained, precision="bfloat16", mixup=MIXUP)


def accuracy(trained: Train, data: Data, passes: int, seed: int) -> float:
    """Return the test accuracy after so many passes."""
    space = search_spaces.get("convnet")
    arch = space.from_string(FIXED)
    trial = trained.retraining(space, arch, data, passes, seed, torch.device("cpu"))
    for _ in range(passes - 1):
        trial.train_epoch()  # without judging
        trial.epoch += 1
    return trial.step()["val_accuracy"]  # of the test part


def run(arguments: argparse.Namespace) -> None:
    """Train what the results lack."""
    torch.set_num_threads(arguments.threads)
    known = set()
    if arguments.results.exists():
        rows = [json.loads(line) for line in arguments.results.read_text().splitlines()]
        known = {(r["set"], r["what"], r["seed"], r["passes"]) for r in rows}
    for seed in range(arguments.seeds):
        for name in arguments.sets:
            data = SETS[name](arguments.images, seed)
            default = recipe()
            variants = {w: replace(default, **changed) for w, changed in VARIANTS.items()}
            variants["as without a time budget"] = Train(precision="bfloat16")
            for what, trained in variants.items():
                if (name, what, seed, arguments.passes) in known:
                    continue
                row = {"set": name, "what": what, "seed": seed, "passes": arguments.passes}
                found = {**row, "accuracy": accuracy(trained, data, arguments.passes, seed)}
                print(json.dumps(found), flush=True)
                with arguments.results.open("a") as file:
                    file.write(json.dumps(found) + "\n")


def show(arguments: argparse.Namespace) -> None:
    """Print the table."""
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in arguments.results.read_text().splitlines():
        row = json.loads(line)
        found[row["what"]][row["set"]][row["seed"]] = 100 * row["accuracy"]
    default = found.pop("the default")
    sets = list(default)
    print("| recipe | " + " | ".join(sets) + " | mean |\n" + "| --- " * (len(sets) + 2) + "|")
    print(_line("the default", [list(default[name].values()) for name in sets]))
    for what, by_set in found.items():
        gains = [
            [value - default[name][seed] for seed, value in by_set[name].items()] for name in sets
        ]
        print(_line(what, gains, "+"))


def _line(what: str, values: list[list[float]], sign: str = "") -> str:
    cells = [_cell(row, sign) for row in values]
    every = [float(np.mean(row)) for row in values if row]
    return f"| {what} | " + " | ".join([*cells, f"{np.mean(every):{sign}.1f}"]) + " |"


def _cell(values: list[float], sign: str) -> str:
    if not values:
        return ""
    text = f"{np.mean(values):{sign}.1f}"
    if len(values) > 1:
        text += f" +- {np.std(values, ddof=1) / len(values) ** 0.5:.1f}"
    return text


def main() -> None:
    """Read the arguments, and do it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("--images", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--passes", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    arguments = parser.parse_args()
    {"run": run, "show": show}[arguments.what](arguments)


if __name__ == "__main__":
    main()
