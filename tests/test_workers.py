"""Trials of several processes: what they learn together is what one process learns."""

import functools

import pytest
import torch
import torch.multiprocessing
from torch import nn

import search_spaces
from raynas import Train
from search_spaces import UserSpace
from trials import workers
from trials.data import load
from trials.workers import Workers

CPU = torch.device("cpu")
DATA = "digits:fraction=0.3"
TOLERANCE = 1e-3  # of weights and losses after two epochs in float32
EPOCHS = 2
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"


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
        self.steps = 0

    def forward(self, images):
        features = self.stem(images).relu()
        if self.training:
            self.steps += 1
            if self.steps % 3 == 1:
                features = features + self.rare(features)
        flat = features.flatten(1)
        self.auxiliary_logits = self.auxiliary(flat) if self.training else None
        return self.head(flat)


def build(arch, input_shape, num_classes):
    return Plain(arch["channels"], num_classes)


SPACES = {
    "plain": functools.partial(UserSpace, "plain", {"channels": (4, 6)}, build),
    "cell": functools.partial(search_spaces.get, "nasbench201:channels=4,cells=1"),
}
ARCHS = {"plain": "channels=4", "cell": CELL}

#: {name: (space, workers, options)}
CASES = {
    "plain": ("plain", 2, {}),
    "uneven": ("plain", 3, {"label_smoothing": 0.1}),
    "mixup": ("plain", 2, {"mixup": 0.5, "averaging": 0.8, "warmup": 0.2, "decay_norms": False}),
    "bfloat16": ("plain", 2, {"precision": "bfloat16"}),
    "sync_norm": ("cell", 2, {"sync_norm": True}),
    "uneven sync_norm": ("cell", 3, {"sync_norm": True, "cutout": 3, "averaging": 0.8}),
}  # fmt: skip


def trial(case, **more):
    name, _, options = CASES[case]
    recipe = Train(**{"batch_size": 32, "learning_rate": 0.02, **options, **more})
    space = SPACES[name]()
    return recipe.trial(space, space.from_string(ARCHS[name]), load(DATA), EPOCHS, 3, CPU)


def outcome(trained):
    """Train to the end; return the metrics of all epochs and the last state."""
    metrics = [trained.step() for _ in range(trained.epochs - trained.epoch)]
    return metrics, trained.state_dict()


def work(rank, count, port, folder):
    """Be one of `count` workers: train every case that has so many."""
    torch.set_num_threads(1)
    store = ("127.0.0.1", port)
    workers.join(store, rank, count, CPU)
    for case in [case for case in CASES if CASES[case][1] == count]:
        torch.save(outcome(trial(case)), folder / f"{case}-{rank}.pt")
    if count == 2:
        halves(rank, folder)
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of what all workers learned."""
    folder = tmp_path_factory.mktemp("workers")
    for count in (2, 3):
        store = workers.listen("127.0.0.1", count)
        torch.multiprocessing.spawn(work, (count, store.port, folder), nprocs=count)
    return folder


def loaded(folder, case, rank=0):
    return torch.load(folder / f"{case}-{rank}.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_workers_learn_what_one_process_learns(trained, case):
    metrics, state = loaded(trained, case)
    expected, expected_state = outcome(trial(case))
    tolerance = 0.03 if case == "bfloat16" else TOLERANCE
    for mine, theirs in zip(metrics, expected, strict=True):
        for name in ("train_loss", "val_loss"):
            assert mine[name] == pytest.approx(theirs[name], rel=tolerance), name
    assert state.keys() == expected_state.keys()
    for name, weights in state["network"].items():
        torch.testing.assert_close(
            weights, expected_state["network"][name], rtol=tolerance, atol=tolerance, msg=name
        )
    logits = state["validation_logits"]
    assert len(logits) == len(load(DATA).validation)
    torch.testing.assert_close(
        logits, expected_state["validation_logits"], rtol=10 * tolerance, atol=10 * tolerance
    )
