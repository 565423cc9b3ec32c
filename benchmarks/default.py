"""What the default gains on a data set in a given time, against what one would do by hand.

Every side has the same wall time on the same cores, and is measured on the same test images, which
choose nothing:

- raynas: `raynas.run(data=..., time_budget=...)`;
- random: the same with random search;
- fixed: the same with one architecture in place of the search, a ResNet9 of 16 channels, so that
  what is left is recipe and retraining;
- before: `raynas.run(data=...)` without a time budget, with all defaults; it takes its own time;
- plain: six convolutions as one writes them by hand; resnet18, mobilenet: torchvision's ResNet-18
  and MobileNetV3-small, the first stride taken out. They are trained for the whole time on training
  and validation part, with a one-cycle schedule up to 0.1, pad-and-crop and, for colored images,
  mirroring.

    python -m benchmarks.default run --images FOLDER --results FILE [--minutes 5] [--sets ...]
        [--sides ...] [--seeds 3]
    python -m benchmarks.default show --results FILE

FOLDER has cifar10-train.parquet and cifar10-test.parquet. What FILE has already is not run again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import raynas
from search_spaces.modules import ConvBNReLU, GlobalPoolClassifier
from trials.data import Data, load
from trials.training import evaluate

TEST_IMAGES = 4000
PLAIN = (32, 64, 128)
FIXED = "c16-w2d1-w2d0-w2d1"


def _cifar10(images: Path, size: int | None = None) -> tuple[Any, Any, Any, Any]:
    """Return training images and labels, test images and labels of CIFAR-10."""
    scaled = f",size={size}" if size else ""
    data = load(
        f"parquet:{images}/cifar10-train.parquet,test={images}/cifar10-test.parquet{scaled}"
    )
    store = data.train.store
    train = np.sort(data.train_and_validation.indices)
    test = data.test.indices[:TEST_IMAGES]
    return store.images[train], store.labels[train], store.images[test], store.labels[test]


def _subset(
    images: Path,
    seed: int,
    of_class: Callable[[int], int],
    classes: Sequence[int] = range(10),
    size: int | None = None,
) -> Data:
    """Return so many training images of each class, and all test images of those classes.

    With a size the images are that small, and gray.
    """
    x, y, test_x, test_y = _cifar10(images, size)
    rng, chosen = np.random.default_rng(seed), []
    for number, label in enumerate(classes):
        members = rng.permutation(np.flatnonzero(y == label))
        chosen.append(members[: of_class(number)])
    train, test = np.sort(np.concatenate(chosen)), np.flatnonzero(np.isin(test_y, classes))
    numbers = {label: number for number, label in enumerate(classes)}
    renamed = [np.array([numbers[v] for v in part]) for part in (y[train], test_y[test])]
    pixels = [x[train], test_x[test]]
    if size is not None:
        pixels = [np.rint(p.mean(-1, keepdims=True)).astype(np.uint8) for p in pixels]
    return load((pixels[0], renamed[0]), seed=seed, test=(pixels[1], renamed[1]))


def _tail(number: int) -> int:
    """Return the images of a class in the long tail: 1,000 of the first, 10 of the tenth."""
    return round(1000 * 0.01 ** (number / 9))


SETS: dict[str, Callable[[Path, int], Data]] = {
    "digits": lambda images, seed: load("digits", seed=seed),
    "cifar10 1 %": lambda images, seed: _subset(images, seed, lambda c: 50),
    "cifar10 5 %": lambda images, seed: _subset(images, seed, lambda c: 250),
    "cifar10 20 %": lambda images, seed: _subset(images, seed, lambda c: 1000),
    "gray 16 x 16": lambda images, seed: _subset(images, seed, lambda c: 500, size=16),
    "cat or dog": lambda images, seed: _subset(images, seed, lambda c: 2500, classes=(3, 5)),
    "long tail": lambda images, seed: _subset(images, seed, _tail),
}  # fmt: skip


def _plain(channels: int, classes: int) -> nn.Module:
    """Return six 3x3 convolutions with batch normalization, pooling after every two."""
    layers: list[nn.Module] = []
    for number, width in enumerate(PLAIN):
        layers += [nn.MaxPool2d(2)] if number else []
        layers += [ConvBNReLU(channels, width, 3), ConvBNReLU(width, width, 3)]
        channels = width
    return nn.Sequential(*layers, GlobalPoolClassifier(channels, classes))


def _torchvision(name: str, channels: int, classes: int) -> nn.Module:
    """Return a network of torchvision for small images."""
    import torchvision

    network: nn.Module = getattr(torchvision.models, name)(num_classes=classes)
    if name == "resnet18":
        network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    else:
        network.features[0][0] = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    return network


BY_HAND: dict[str, Callable[[int, int], nn.Module]] = {
    "plain": _plain,
    "resnet18": lambda channels, classes: _torchvision("resnet18", channels, classes),
    "mobilenet": lambda channels, classes: _torchvision("mobilenet_v3_small", channels, classes),
}
SEARCHES: dict[str, dict[str, Any]] = {
    "raynas": {},
    "random": {"search": "random"},
    "fixed": {"architectures": [FIXED], "space": "convnet", "select": 1},
    "before": {"time_budget": None},
}
SIDES = [*SEARCHES, *BY_HAND]


def by_hand(make: Callable[[int, int], nn.Module], data: Data, seconds: float, seed: int) -> float:
    """Train a network for so many seconds, all told; return its test accuracy."""
    start = time.monotonic()
    torch.manual_seed(seed)
    network = make(data.input_shape[0], data.num_classes).to(memory_format=torch.channels_last)
    part, cpu = data.train_and_validation, torch.device("cpu")
    batch = min(64, len(part) // 4)
    weights = network.parameters()
    optimizer = torch.optim.SGD(weights, 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=1000)
    progress, epoch, step = 0.0, 0, 0
    while progress < 1:
        network.train()
        for images, labels in part.batches(batch, seed=seed * 100_003 + epoch, augment=True):
            progress = (time.monotonic() - start) / seconds
            if progress >= 1:
                break
            optimizer.zero_grad()
            functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            while step < min(998, int(progress * 1000)):
                cycle.step()
                step += 1
        epoch += 1
    return evaluate(network, data.test, cpu)[1]


def by_raynas(arguments: dict[str, Any], data: Data, seconds: float, seed: int) -> dict[str, Any]:
    """Return the test accuracy of a run in so many seconds, and what it was of."""
    with tempfile.TemporaryDirectory() as folder:
        result = raynas.run(
            data=data, storage_path=folder, name="run", seed=seed,
            **{"time_budget": seconds, **arguments},
        )  # fmt: skip
        metrics = result.best.metrics
        return {
            "accuracy": metrics["test_accuracy"],
            "architecture": result.best.architecture,
            "evaluations": len(result.trials),
        }


def one(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one side on one set."""
    data = SETS[arguments.set](arguments.images, arguments.seed)
    start, seconds = time.monotonic(), arguments.minutes * 60
    if arguments.side in BY_HAND:
        found: dict[str, Any] = {
            "accuracy": by_hand(BY_HAND[arguments.side], data, seconds, arguments.seed)
        }
    else:
        found = by_raynas(SEARCHES[arguments.side], data, seconds, arguments.seed)
    return {
        "set": arguments.set, "side": arguments.side, "seed": arguments.seed,
        "minutes": arguments.minutes, **found, "wall": round(time.monotonic() - start, 1),
    }  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Run what the results lack, each side in a process of its own."""
    results, known = arguments.results, set()
    if results.exists():
        rows = [json.loads(line) for line in results.read_text().splitlines()]
        known = {(r["set"], r["side"], r["seed"], r["minutes"]) for r in rows}
    for seed in range(arguments.seeds):
        for name in arguments.sets:
            for side in arguments.sides:
                if (name, side, seed, arguments.minutes) in known:
                    continue
                command = [
                    sys.executable, "-m", "benchmarks.default", "one", "--images", arguments.images,
                    "--set", name, "--side", side, "--seed", seed, "--minutes", arguments.minutes,
                ]  # fmt: skip
                done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    print(f"{side} on {name} failed", file=sys.stderr)
                    continue
                line = done.stdout.splitlines()[-1]
                print(line, flush=True)
                with results.open("a") as file:
                    file.write(line + "\n")


def show(arguments: argparse.Namespace) -> None:
    """Print the table: accuracies in percent, means over the seeds, with standard errors."""
    table: dict[Any, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in arguments.results.read_text().splitlines():
        row = json.loads(line)
        table[row["minutes"], row["set"]][row["side"]].append(100 * row["accuracy"])
    sides = [side for side in SIDES if any(side in row for row in table.values())]
    print("| minutes | data | " + " | ".join(sides) + " |\n" + "| --- " * (len(sides) + 2) + "|")
    ranks: dict[str, list[float]] = defaultdict(list)
    for (minutes, name), row in table.items():
        means = {side: float(np.mean(values)) for side, values in row.items()}
        for side, mean in means.items():
            ranks[side].append(1 + sum(other > mean for other in means.values()))
        cells = [_cell(row.get(side, []), means, side) for side in sides]
        print(f"| {minutes:g} | {name} | " + " | ".join(cells) + " |")
    print("| | mean rank | " + " | ".join(f"{np.mean(ranks[s]):.1f}" for s in sides) + " |")


def _cell(values: list[float], means: dict[str, float], side: str) -> str:
    if not values:
        return ""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
    text = f"{means[side]:.1f}" + ("" if error is None else f" +- {error:.1f}")
    return f"**{text}**" if means[side] == max(means.values()) else text


def main() -> None:
    """Read the arguments, and do it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "one", "show"))
    parser.add_argument("--images", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--set", choices=SETS)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "one":
        print(json.dumps(one(arguments)))
    else:
        {"run": run, "show": show}[arguments.what](arguments)


if __name__ == "__main__":
    main()
