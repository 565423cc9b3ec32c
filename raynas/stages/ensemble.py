"""The ensemble of a run: the stage that prunes the trained architectures, and what comes of it.

`ensemble/` in the run folder: `model.pt2` (one `torch.export` program), `members.parquet`,
`curves.parquet` (what every rule's ensembles of every size are worth), `diversity.parquet`, both as
figures, and, written last, `ensemble.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raynas.drivers.trainable import Job, checkpoint_path
from raynas.ensemble.combination import Combination, Logits, fit
from raynas.ensemble.information import disagreement_matrix, vi_matrix
from raynas.ensemble.members import Member, collect, latency_ms, load_network, read_state
from raynas.ensemble.saep import RULES, SAEP, RuleName, removal_order
from raynas.errors import InvalidArgument
from raynas.record.models import export, write_json
from raynas.reports.ensemble import curves_figure, diversity_figure, recorded
from raynas.search.search import Evaluation
from trials.data import Data
from trials.deployed import Committee, ImageClassifier
from trials.trial import derived_seed

_ALL_SIZES = 32  # up to so many members every size is measured, beyond it about every tenth


@dataclass(frozen=True)
class Candidates:
    """Members side by side, with the labels of both parts.

    Args:
        members: at least two.
        data: of the run.
        penalties: of their weights in a mixture.
    """

    members: Sequence[Member]
    data: Data
    penalties: Sequence[float]

    @cached_property
    def validation(self) -> Logits:
        """Logits, `members x images x classes`."""
        return np.stack([member.validation for member in self.members])

    @cached_property
    def test(self) -> Logits:
        """Logits of the test part, for reports only."""
        return np.stack([member.test for member in self.members])

    def measured(self, chosen: Sequence[int], together: Combination) -> dict[str, float]:
        """What an ensemble of some is worth and costs; one member runs after the other."""
        labels = self.data.validation.labels, self.data.test.labels
        row: dict[str, float] = {"members": len(chosen)}
        for part, logits, truth in zip(
            ("val", "test"), (self.validation, self.test), labels, strict=True
        ):
            values = together.measure(logits[list(chosen)], truth)
            row |= {f"{part}_{name}": value for name, value in values.items()}
        costs = [self.members[i] for i in chosen]
        return row | {
            "params": sum(member.counts.params for member in costs),
            "macs": sum(member.counts.macs for member in costs),
            "latency_ms": sum(member.latency_ms for member in costs),
        }

    def fitted(self, saep: SAEP, chosen: Sequence[int]) -> Combination:
        """The combination of some members, fitted on the validation part."""
        return fit(
            saep.combine or "average", self.validation[list(chosen)], self.data.validation.labels,
            saep.temperature, [self.penalties[i] for i in chosen],
        )  # fmt: skip


def make_ensemble(
    saep: SAEP, prune: bool, evaluations: Sequence[Evaluation], penalties: Mapping[int, float],
    job: Job, data: Data, seed: int, asked: str, cpus: float, gpus: float,
) -> dict[str, Any]:  # fmt: skip
    """Prune trained architectures to an ensemble, measure it, export it.

    Args:
        saep: how.
        prune: whether at all; otherwise all of them are its members.
        evaluations: the candidates, trained.
        penalties: {evaluation: of its weight in a mixture}, where it is not 0.
        job: the run's.
        data: of the run.
        seed: of the run.
        asked: what the run's arguments say, to know later whether this is it.
        cpus: CPU cores for the examination of a member.
        gpus: GPUs for it.

    Returns:
        What `ensemble.json` has.

    Raises:
        InvalidArgument: when fewer than two can be members; the message says why.
    """
    members, excluded = collect(job, evaluations, cpus, gpus)
    if len(members) < 2:
        reasons = "; ".join(f"#{index} {reason}" for index, reason in excluded.items())
        raise InvalidArgument(
            f"ensemble: {len(members)} of {len(evaluations)} trained architectures can be members,"
            f" and an ensemble needs two. {reasons or 'Evaluate more architectures (samples)'}."
        )
    costs = [penalties.get(member.evaluation, 0.0) for member in members]
    candidates = Candidates(members, data, costs)
    orders = {name: _order(candidates, saep, name, seed) for name in RULES}
    curves = pd.DataFrame(
        {"rule": name, **_point(candidates, saep, sorted(order[-size:]))}
        for name, order in orders.items()
        for size in _sizes(len(members))
    )
    kept = list(range(len(members)))
    if prune:
        kept = saep.kept(orders[saep.rule], candidates.validation, data.validation.labels, costs)
    together = candidates.fitted(saep, kept)
    folder = job.folder / "ensemble"
    folder.mkdir(exist_ok=True)
    (folder / "ensemble.json").unlink(missing_ok=True)  # its presence says that the folder is whole
    latency = _export(candidates, evaluations, kept, together, job, folder)
    found = {
        "asked": asked,
        "evaluations": [e.index for e in evaluations],
        "rule": saep.rule if prune else None,
        "combination": together.kind,
        "temperature": together.temperature,
        "metrics": candidates.measured(kept, together) | {"latency_ms": latency},
        "unpruned": _point(candidates, saep, list(range(len(members)))),
        "excluded": {str(index): reason for index, reason in excluded.items()},
    }
    table = _table(candidates, kept, together)
    table.to_parquet(folder / "members.parquet")
    curves.to_parquet(folder / "curves.parquet")
    diversity = _diversity(candidates)
    diversity.to_parquet(folder / "diversity.parquet")
    (folder / "curves.png").write_bytes(curves_figure(curves, found))
    (folder / "diversity.png").write_bytes(diversity_figure(diversity, table["evaluation"]))
    write_json(folder / "ensemble.json", found)
    return found


def is_current(folder: Path, asked: str, evaluations: Sequence[Evaluation]) -> bool:
    """Whether a run folder holds this ensemble already."""
    made = recorded(folder / "ensemble")
    wanted = (asked, [e.index for e in evaluations])
    return made is not None and (made["asked"], made["evaluations"]) == wanted


def _order(candidates: Candidates, saep: SAEP, rule: RuleName, seed: int) -> list[int]:
    number = list(RULES).index(rule)
    labels = candidates.data.validation.labels
    return removal_order(
        rule, candidates.validation, labels, derived_seed(seed, 0, number), saep.alpha
    )


def _point(candidates: Candidates, saep: SAEP, chosen: Sequence[int]) -> dict[str, float]:
    return candidates.measured(chosen, candidates.fitted(saep, chosen))


def _sizes(members: int) -> list[int]:
    """The sizes that are measured, falling to 1."""
    sizes, size = [], members
    while size > 0:
        sizes.append(size)
        size -= 1 if size <= _ALL_SIZES else max(1, size // 10)
    return sizes


def _export(
    candidates: Candidates, evaluations: Sequence[Evaluation], kept: Sequence[int],
    together: Combination, job: Job, folder: Path,
) -> float:  # fmt: skip
    """Write the kept members as one program; its latency on the CPU in milliseconds."""
    data = candidates.data
    by_index = {e.index: e for e in evaluations}
    networks = []
    for i in kept:
        index = candidates.members[i].evaluation
        state = read_state(checkpoint_path(job.folder, index), data)
        networks.append(load_network(job.space, by_index[index].architecture, data, state))
    committee = Committee(networks, together.kind, together.weights, together.temperature)
    model = ImageClassifier(committee, data.mean, data.std)
    export(model, data.input_shape, folder, ["pt2"])
    return latency_ms(model, data.input_shape, job.threads)


def _table(candidates: Candidates, kept: Sequence[int], together: Combination) -> pd.DataFrame:
    """The members of the ensemble, those that contribute most first."""
    labels = candidates.data.validation.labels
    logits = candidates.validation[list(kept)]
    accuracy = together.measure(logits, labels)["accuracy"]
    rows = []
    for place, i in enumerate(kept):
        member = candidates.members[i]
        rest = Combination(
            together.kind, _without(together.weights, place, together.kind), together.temperature
        )
        left = rest.measure(np.delete(logits, place, axis=0), labels)["accuracy"]
        rows.append(
            {
                "evaluation": member.evaluation,
                "architecture": member.architecture,
                "weight": together.weights[place],
                "contribution": accuracy - left,
                "val_accuracy": float((member.validation.argmax(1) == labels).mean()),
                "epochs": member.epochs,
                "params": member.counts.params,
                "macs": member.counts.macs,
                "latency_ms": member.latency_ms,
            }
        )
    return pd.DataFrame(rows).sort_values(["contribution", "val_accuracy"], ascending=False)


def _without(weights: Sequence[float], place: int, kind: str) -> tuple[float, ...]:
    """The weights without one; they sum to 1 again, except in a mixture."""
    rest = [w for i, w in enumerate(weights) if i != place]
    total = 1.0 if kind == "mixture" else sum(rest)
    return tuple(w / total if total else 1 / len(rest) for w in rest)


def _diversity(candidates: Candidates) -> pd.DataFrame:
    """One row for each pair of candidates: `disagreement` and `vi`, of the validation part."""
    predictions = candidates.validation.argmax(2)
    names = [member.evaluation for member in candidates.members]
    first, second = np.triu_indices(len(names), k=1)
    return pd.DataFrame(
        {
            "first": np.array(names)[first],
            "second": np.array(names)[second],
            "disagreement": disagreement_matrix(predictions)[first, second],
            "vi": vi_matrix(predictions)[first, second],
        }
    )
