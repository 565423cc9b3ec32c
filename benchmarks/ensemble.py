"""What pruning an ensemble costs in accuracy, on trained networks.

For every seed a search is run (or found finished in DIR), all its architectures trained to the end,
and pruned to half of them by every rule. Rules that draw are applied 20 times with other draws, of
which the mean counts. Printed are, with standard errors over the seeds, on the test part, which
decides nothing: the accuracy and the loss of all members together, of the best member alone (by
validation accuracy), and what each rule's half differs from all members. `pap-literal` is PAP with
the sign of the authors' code, which keeps those whose removal would help.

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
from raynas.ensemble.combination import KINDS, fit
from raynas.ensemble.members import collect
from raynas.ensemble.rules import PAP, RULES, Rule
from raynas.record.history import Evaluation
from trials.data import load

_DRAWS = 20


class LiteralPAP(PAP):
    """PAP as the authors' code has it: those stay whose removal would help.

    With d_j as in `PAP`, the members with d_j > 0 are kept; where there is none, the two with the
    largest d_j.
    """

    def contributions(self, among: Sequence[int]) -> list[float]:
        """Return d_j of each of these members."""
        return [-d for d in super().contributions(among)]

    def _kept(self, among: list[int]) -> list[int]:
        contributions = dict(zip(among, self.contributions(among), strict=True))
        useful = [member for member in among if contributions[member] > 0]
        return useful or sorted(sorted(among, key=lambda j: -contributions[j])[:2])


ALL_RULES: dict[str, type[Rule]] = {**RULES, "pap-literal": LiteralPAP}


def halves(run: raynas.Result, combine: Any) -> dict[str, dict[str, float]]:
    """Return {what: accuracy and loss on the test part} of one run."""
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
    validation = np.stack([member.validation for member in members])
    test = np.stack([member.test for member in members])
    labels, truth = data.validation.labels, data.test.labels

    def measured(chosen: Sequence[int]) -> dict[str, float]:
        some = sorted(chosen)
        together = fit(combine, validation[some], labels)
        found = together.measure(test[some], truth)
        return {"accuracy": 100 * found["accuracy"], "loss": found["loss"]}

    alone = (validation.argmax(2) == labels).mean(axis=1)
    size = len(members) // 2
    found = {
        "members": {"accuracy": len(members), "loss": len(members)},
        "all": measured(range(len(members))),
        "best alone": measured([int(np.argmax(alone))]),
    }
    for name, rule in ALL_RULES.items():
        draws = _DRAWS if name in ("prs", "pie") else 1
        points = [
            measured(rule(validation, labels, np.random.default_rng(draw)).removals()[-size:])
            for draw in range(draws)
        ]
        found[name] = {
            measure: statistics.fmean(point[measure] for point in points) for measure in points[0]
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
