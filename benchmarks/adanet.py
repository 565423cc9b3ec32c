"""What pruning costs an ensemble that grows: AdaNet alone and with each rule, on digits.

22 evaluations, two for each of the paper's eleven iterations (with convolutional members there are
more iterations, since the last ones have one candidate: nothing is deeper). Members are trained
for 25 epochs of 18 steps (450; the paper has 454). The spaces have their defaults: dense members
of 32 units, convolutional ones of 16 channels and 64 units. Printed are the number of members at
the end and the test accuracy, and what the latter differs from that of the ensemble that nothing
was pruned of, with standard errors over the seeds. Without Ray; what searches of one seed have in
common is trained once.

    python -m benchmarks.adanet [--seeds 5] [--rate 0.1] [--json]
"""

import argparse
import json
import math
import statistics
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import search_spaces
from raynas import AdaNet, Fifo, Train
from raynas.ensemble.combination import fit
from raynas.record.events import Status
from raynas.search.search import Search
from trials.data import load
from trials.training import predict

#: what grows: name of a row, searcher
GROWING = {
    "none": AdaNet("none"),
    "prs": AdaNet("prs"),
    "pap": AdaNet("pap"),
    "pie": AdaNet("pie"),
    "pie, any cost": AdaNet("pie", tolerance=1),
}
SPACES = ("dense", "convolutional")

_EPOCHS = 25


class Trained:
    """Networks trained without Ray, and what they predict; a `HeldOut`.

    Args:
        space: name of the search space.
        seed: of the data's division and of the searches.
        rate: learning rate.
    """

    def __init__(self, space: str, seed: int, rate: float = 0.1):
        self.space, self.seed = search_spaces.get(space), seed
        self.data, self.recipe = load("digits", seed=seed), Train(learning_rate=rate)
        self.labels = self.data.validation.labels
        self._search: Search | None = None
        self._known: dict[tuple[Any, int], list[NDArray[np.float32]]] = {}

    def ensemble(self, searcher: AdaNet, samples: int = 22) -> tuple[int, float]:
        """Return (members, test accuracy) of what a search ends with."""
        search = Search(self.space, searcher, Fifo(), samples, 1, self.seed, held_out=self)
        self._search = search
        while (evaluation := search.suggest()) is not None:
            search.report(evaluation.index, {"val_accuracy": 0.5})
            search.finish(evaluation.index, Status.COMPLETED)
        parts = [self._predictions(i) for i in searcher.ensemble]
        validation, test = (np.stack(part) for part in zip(*parts, strict=True))
        together = fit(searcher.combine, validation, self.labels)
        return len(parts), together.measure(test, self.data.test.labels)["accuracy"]

    def logits(self, evaluation: int) -> NDArray[np.float32]:
        """See `HeldOut`."""
        return self._predictions(evaluation)[0]

    def _predictions(self, index: int) -> list[NDArray[np.float32]]:
        """Return the logits on the validation part, and on the test part."""
        assert self._search is not None
        arch, seed = self._search.architectures[index], self._search.seed_of(index)
        if (arch, seed) not in self._known:
            cpu = torch.device("cpu")
            trial = self.recipe.trial(self.space, arch, self.data, _EPOCHS, seed, cpu)
            for _ in range(_EPOCHS):
                trial.step()
            parts = (self.data.validation, self.data.test)
            self._known[arch, seed] = [
                predict(trial.network, part, cpu)[0].numpy() for part in parts
            ]
        return self._known[arch, seed]


def main() -> None:
    """Grow, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.1, help="learning rate")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for space in SPACES:
        seeds = [Trained(space, seed, given.rate) for seed in range(given.seeds)]
        whole = [trained.ensemble(GROWING["none"])[1] for trained in seeds]
        for rule, searcher in GROWING.items():
            found = [trained.ensemble(searcher) for trained in seeds]
            differences = [100 * (a - b) for (_, a), b in zip(found, whole, strict=True)]
            rows.append(
                {
                    "space": space,
                    "rule": rule,
                    "members": statistics.fmean(members for members, _ in found),
                    "accuracy": 100 * statistics.fmean(accuracy for _, accuracy in found),
                    "difference": statistics.fmean(differences),
                    "error": statistics.stdev(differences) / math.sqrt(len(differences)),
                }
            )
    if given.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['space']:14}{row['rule']:15}{row['members']:5.1f} members"
            f"{row['accuracy']:8.2f} %{row['difference']:+8.2f} +- {row['error']:.2f}"
        )


if __name__ == "__main__":
    main()
