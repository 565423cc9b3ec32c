"""Training throughput: raynas's data layer and training loop against a plain torchvision loop.

Both sides train the same NAS-Bench-201 network on the same random 32 x 32 RGB images with pad-crop,
flip, normalization, SGD with Nesterov momentum, a cosine schedule and gradient clipping. The
other side is the loop a user would write: a torchvision-style data set of Pillow images with
RandomCrop, RandomHorizontalFlip, ToTensor and Normalize, in a DataLoader with no worker or with
one, whichever is faster. The sides alternate in rounds; medians are reported.

    python -m benchmarks.data [--quick] [--json]

Measures: `cpu` and `gpu` (whole loop), `cpu_data` and `gpu_data` (images alone, to the device).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import search_spaces
from trials.data import Data, load
from trials.training import Train, TrainingTrial

CELL = (
    "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|"
    "+|avg_pool_3x3~0|nor_conv_3x3~1|skip_connect~2|"
)
SPACE = search_spaces.get("nasbench201", channels=8, cells=1)
ARCH = SPACE.from_string(CELL)
BATCH = 64


class PillowImages(Dataset[tuple[Tensor, int]]):
    """What torchvision's CIFAR10 does: an array in memory, a Pillow image per item."""

    def __init__(self, data: Data):
        store, self.indices = data.train.store, data.train.indices
        self.images, self.labels = store.images, store.labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        index = self.indices[item]
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class PlainLoop:
    """The loop a user would write."""

    def __init__(self, data: Data, device: torch.device, workers: int):
        torch.manual_seed(0)
        self.device = device
        self.loader = DataLoader(
            PillowImages(data),
            BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )
        self.network = SPACE.build(ARCH, data.input_shape, data.num_classes).to(device)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 1000)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.loader:
            yield images.to(self.device), labels.to(self.device)

    def epoch(self) -> None:
        self.network.train()
        for images, labels in self.batches():
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.network(images), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self.optimizer.step()
            self.schedule.step()


class OurLoop:
    """raynas's own: `TrainingTrial`, without the pass over the validation part."""

    def __init__(self, data: Data, device: torch.device):
        self.data, self.device = data, device
        trial = Train(batch_size=BATCH).trial(SPACE, ARCH, data, 1000, 0, device)
        assert isinstance(trial, TrainingTrial)
        self.trial = trial

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.data.train.batches(BATCH, self.device, seed=self.trial.epoch, augment=True)

    def epoch(self) -> None:
        self.trial._train_epoch()
        self.trial.epoch += 1


def drain(batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]) -> None:
    """Read one epoch and do nothing with it."""
    for _ in batches():
        pass


def rate(work: Callable[[], None], images: int, device: torch.device) -> float:
    """Return images per second of one call."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images / (time.perf_counter() - start)


def compare(
    ours: Callable[[], None],
    others: list[Callable[[], None]],
    images: int,
    rounds: int,
    device: torch.device,
) -> dict[str, float | str]:
    """Return medians over alternating rounds; the best of the others counts."""
    sides = [ours, *others]
    for side in sides:
        side()
    rates = [[rate(side, images, device) for side in sides] for _ in range(rounds)]
    median = [statistics.median(column) for column in zip(*rates, strict=True)]
    best = max(median[1:])
    return {
        "ours": round(median[0]),
        "other": round(best),
        "ratio": round(median[0] / best, 2),
        "unit": "images/s",
    }


def measure(device: torch.device, images: int, rounds: int) -> dict[str, dict[str, float | str]]:
    """Return all measures on one device."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images * 8 // 5, 32, 32, 3), dtype=np.uint8)
    data = load((pixels, np.arange(len(pixels)) % 10), crop=4, flip=True)
    count = len(data.train) // BATCH * BATCH
    ours = OurLoop(data, device)
    plain = [PlainLoop(data, device, workers) for workers in (0, 1)]
    name = "gpu" if device.type == "cuda" else "cpu"
    return {
        name: compare(ours.epoch, [side.epoch for side in plain], count, rounds, device),
        f"{name}_data": compare(
            lambda: drain(ours.batches),
            [lambda side=side: drain(side.batches) for side in plain],
            count,
            rounds,
            device,
        ),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fit in a minute on two cores")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 3 if arguments.quick else 5
    results = measure(torch.device("cpu"), 1_000 if arguments.quick else 3_000, rounds)
    if torch.cuda.is_available():
        results |= measure(torch.device("cuda"), 50_000, rounds)
    if arguments.json:
        print(json.dumps(results))
        return
    for name, result in results.items():
        ours, other, ratio = result["ours"], result["other"], result["ratio"]
        print(f"{name:9} ours {ours:>9} other {other:>9} {result['unit']}  ratio {ratio}")


if __name__ == "__main__":
    main()
