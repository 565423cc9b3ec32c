"""What pruning an ensemble costs in accuracy, on trained networks.

For every seed a search is run (or found finished in DIR), all its architectures trained to the end,
and pruned to half of them by every rule. Rules that draw are applied 20 times with other draws, of
which the mean counts. Printed are, with standard errors over the seeds, on the test part, which
decides nothing: the accuracy and the loss of all members together, of the best member alone (by
validation accuracy), and what each rule's half differs from all members.

    python -m benchmarks.ensemble DATA DIR [--space ...] [--samples 20] [--epochs 5] [--seeds 3]
        [--combine average] [--json]

The table for digits in docs/ensembles.md: `digits DIR --samples 24 --epochs 12 --seeds 5`.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

import raynas
import search_spaces
from raynas.cluster import Resources, connected
from raynas.ensemble.candidates import Candidates
from raynas.ensemble.combination import KINDS, fit
from raynas.ensemble.members import collect
from raynas.ensemble.saep import RULES, SAEP, removal_order
from raynas.record.history import Evaluation
from trials.data import load

_DRAWS = 20


def halves(run: raynas.Result, combine: Any) -> dict[str, dict[str, float]]:
    """{what: accuracy and loss on the test part} of one run."""
    config = run.config
    data = load(config["data"], seed=config["seed"])
    space = search_spaces.get(config["space"])
    rows = run.trials.query("status == 'completed'")
    evaluations = [Evaluation(row.evaluation, row.architecture) for row in rows.itertuples()]
    with connected():
        members, excluded = collect(
            run.folder, space, ray.put(data), evaluations, Resources(1, 0, 1, 1)
        )
    for index, reason in excluded.items():
        print(f"{run.path.name}: #{index} is no member: {reason}", flush=True)
    candidates = Candidates(members, data, [0.0] * len(members), SAEP(), config["seed"])
    labels, truth = data.validation.labels, data.test.labels

    def measured(chosen: Sequence[int]) -> dict[str, float]:
        some = sorted(chosen)
        together = fit(combine, candidates.validation[some], labels)
        found = together.measure(candidates.test[some], truth)
        return {"accuracy": 100 * found["accuracy"], "loss": found["loss"]}

    alone = (candidates.validation.argmax(2) == labels).mean(axis=1)
    size = len(members) // 2
    found = {
        "members": {"accuracy": len(members), "loss": len(members)},
        "all": measured(range(len(members))),
        "best alone": measured([int(np.argmax(alone))]),
    }
    for rule in RULES:
        draws = _DRAWS if rule in ("prs", "pie") else 1
        points = [
            measured(removal_order(rule, candidates.validation, labels, draw)[-size:])
            for draw in range(draws)
        ]
        found[rule] = {
            name: statistics.fmean(point[name] for point in points) for name in points[0]
        }
    best = np.argsort(-alone, kind="stable")[:size]
    found["best by accuracy"] = measured(best.tolist())
    return found


def main() -> None:
    """Run, prune, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("folder")
    parser.add_argument("--name", default="digits")
    parser.add_argument("--space", default="nasbench201:channels=8,cells=1")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--combine", default="average", choices=KINDS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = []
    for seed in range(given.seeds):
        run = raynas.run(
            space=given.space, data=given.data, search="evolution", scheduler="fifo",
            samples=given.samples, epochs=given.epochs, retrain_epochs=1, seed=seed,
            max_concurrent=1, storage_path=given.folder, name=f"{given.name}-{seed}",
        )  # fmt: skip
        found.append(halves(run, given.combine))
    if given.json:
        print(json.dumps(found))
        return
    print(f"{'':18}accuracy, %        loss")
    for what in found[0]:
        columns = []
        for name in ("accuracy", "loss"):
            plain = what in ("all", "best alone", "members")
            values = [f[what][name] - (0 if plain else f["all"][name]) for f in found]
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            digits = 2 if name == "accuracy" else 4
            columns.append(
                f"{values and statistics.fmean(values):+.{digits}f} +- {error:.{digits}f}"
            )
        print(f"{what:18}{columns[0]:19}{columns[1]}")


if __name__ == "__main__":
    main()
