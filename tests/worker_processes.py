"""What the processes of `test_workers` do, which import no more than they need."""

import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from search_spaces import UserSpace
from trials import Train, workers
from trials.data import load
from trials.workers import Workers

CPU = torch.device("cpu")
DATA = "digits:fraction=0.3"
EPOCHS = 2


class Plain(nn.Module):
    """Without normalization; with an auxiliary head, and a layer that most steps leave out."""

    def __init__(self, channels, classes):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.rare = nn.Conv2d(channels, channels, 1)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(channels * 64, classes)
        self.auxiliary = nn.Linear(channels * 64, classes)
        self.auxiliary_logits = None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, images):
        features = self.stem(images).relu()
        if self.training:
            self.steps += 1
            if int(self.steps) % 3 == 1:
                features = features + self.rare(features)
        flat = features.flatten(1)
        self.auxiliary_logits = self.auxiliary(flat) if self.training else None
        return self.head(flat)


class Normalized(nn.Sequential):
    """With batch normalization; smooth, since a ReLU near 0 makes much of the last digit."""

    def __init__(self, channels, classes):
        super().__init__(
            nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.SiLU(),
            nn.Conv2d(channels, channels, 3, stride=2), nn.BatchNorm2d(channels, momentum=None),
            nn.SiLU(), nn.Flatten(), nn.Linear(9 * channels, 16), nn.BatchNorm1d(16, affine=False),
            nn.Linear(16, classes),
        )  # fmt: skip


def build(arch, input_shape, num_classes):
    return {"plain": Plain, "normalized": Normalized}[arch["network"]](4, num_classes)


SPACE = UserSpace("networks", {"network": ("plain", "normalized")}, build)

#: {name: (network, workers, options)}
CASES = {
    "plain": ("plain", 2, {}),
    "uneven": ("plain", 3, {"label_smoothing": 0.1}),
    "mixup": ("plain", 2, {"mixup": 0.5, "averaging": 0.8, "warmup": 0.2, "decay_norms": False}),
    "bfloat16": ("plain", 2, {"precision": "bfloat16"}),
    "sync_norm": ("normalized", 2, {"sync_norm": True}),
    "uneven sync_norm": ("normalized", 3, {"sync_norm": True, "cutout": 3, "averaging": 0.8}),
}  # fmt: skip


def trial(case, **more):
    network, _, options = CASES[case]
    recipe = Train(**{"batch_size": 64, "learning_rate": 0.02, **options, **more})
    arch = SPACE.from_string(f"network={network}")
    return recipe.trial(SPACE, arch, load(DATA), EPOCHS, 3, CPU)


def outcome(trained):
    """Train to the end; return the metrics of all epochs and the last state."""
    metrics = [trained.step() for _ in range(trained.epochs - trained.epoch)]
    return metrics, trained.state_dict()


def work(rank, ports, folder):
    """Be a worker of a group of two, the first two, and then of one of three."""
    torch.set_num_threads(1)
    for count, port in ports.items():
        if rank >= count:
            continue
        workers.join(("127.0.0.1", port), rank, count, CPU)
        for case in [case for case in CASES if CASES[case][1] == count]:
            torch.save(outcome(trial(case)), folder / f"{case}-{rank}.pt")
        if count == 2:
            halves(rank, folder)
            hang(rank, folder)
        workers.leave()


def halves(rank, folder):
    """One epoch, saved by the first; both go on from there."""
    begun = trial("plain")
    begun.step()
    if rank == 0:
        torch.save(begun.state_dict(), folder / "half.pt")
    Workers.present().same(torch.zeros(1))  # written, then read
    resumed = trial("plain")
    resumed.load_state_dict(torch.load(folder / "half.pt", weights_only=True))
    torch.save(outcome(resumed), folder / f"resumed-{rank}.pt")


def hang(rank, folder):
    """The second no longer answers; the first notes what it hears of that."""
    group = dist.new_group(timeout=timedelta(seconds=1))
    heard = folder / "heard.txt"
    if rank == 0:
        try:
            dist.broadcast(torch.zeros(1), 1, group=group)
        except Exception as error:
            heard.write_text(f"{workers.is_lost_connection(error)} {error}")
        else:
            heard.write_text("nothing")
    while not heard.exists():
        time.sleep(0.1)
