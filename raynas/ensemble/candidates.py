"""The candidates for an ensemble side by side: what any of their ensembles is worth and costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from raynas.ensemble.combination import Combination, Logits, fit
from raynas.ensemble.information import disagreement_matrix, vi_matrix
from raynas.ensemble.members import Member
from raynas.ensemble.saep import RULES, SAEP, RuleName, removal_order
from trials.data import Data
from trials.trial import derived_seed

_ALL_SIZES = 32  # up to so many members every size is measured, beyond it about every tenth


@dataclass(frozen=True)
class Candidates:
    """Members side by side, with the labels of both parts.

    Args:
        members: at least two.
        data: of the run.
        penalties: of their weights in a mixture.
        saep: how they are pruned and combined.
        seed: of the run.
    """

    members: Sequence[Member]
    data: Data
    penalties: Sequence[float]
    saep: SAEP
    seed: int

    @cached_property
    def validation(self) -> Logits:
        """Return the logits of the validation part, `members x images x classes`."""
        return np.stack([member.validation for member in self.members])

    @cached_property
    def test(self) -> Logits:
        """Return the logits of the test part, for reports only."""
        return np.stack([member.test for member in self.members])

    @cached_property
    def orders(self) -> dict[RuleName, list[int]]:
        """Return {rule: members in the order in which it removes them}."""
        return {name: self._order(name) for name in RULES}

    def _order(self, rule: RuleName) -> list[int]:
        labels, number = self.data.validation.labels, list(RULES).index(rule)
        seed = derived_seed(self.seed, 0, number)
        return removal_order(rule, self.validation, labels, seed, self.saep.alpha)

    @property
    def pruned(self) -> list[int]:
        """Return the members that the rule keeps."""
        return self.saep.kept(
            self.orders[self.saep.rule], self.validation, self.data.validation.labels,
            self.penalties,
        )  # fmt: skip

    def fitted(self, chosen: Sequence[int]) -> Combination:
        """Return the combination of some members, fitted on the validation part."""
        return fit(
            self.saep.combine or "average", self.validation[list(chosen)],
            self.data.validation.labels, self.saep.temperature,
            [self.penalties[i] for i in chosen],
        )  # fmt: skip

    def measured(self, chosen: Sequence[int], together: Combination) -> dict[str, float]:
        """Return what an ensemble of some is worth and costs; one member runs after the other."""
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

    def worth(self, chosen: Sequence[int]) -> dict[str, float]:
        """Return what some members are worth, fitted to one another."""
        return self.measured(chosen, self.fitted(chosen))

    def curves(self) -> pd.DataFrame:
        """Return what every rule's ensembles of every size are worth, one row each."""
        return pd.DataFrame(
            {"rule": name, **self.worth(sorted(order[-size:]))}
            for name, order in self.orders.items()
            for size in _sizes(len(self.members))
        )

    def table(self, chosen: Sequence[int], together: Combination) -> pd.DataFrame:
        """Return the members of an ensemble, those that contribute most first."""
        labels = self.data.validation.labels
        logits = self.validation[list(chosen)]
        accuracy = together.measure(logits, labels)["accuracy"]
        rows = []
        for place, i in enumerate(chosen):
            member = self.members[i]
            rest = Combination(
                together.kind, _without(together.weights, place, together.kind),
                together.temperature,
            )  # fmt: skip
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

    def diversity(self) -> pd.DataFrame:
        """Return one row for each pair: `disagreement` and `vi`, of the validation part."""
        predictions = self.validation.argmax(2)
        names = np.array([member.evaluation for member in self.members])
        first, second = np.triu_indices(len(names), k=1)
        return pd.DataFrame(
            {
                "first": names[first],
                "second": names[second],
                "disagreement": disagreement_matrix(predictions)[first, second],
                "vi": vi_matrix(predictions)[first, second],
            }
        )


def _sizes(members: int) -> list[int]:
    """Return the sizes that are measured, falling to 1."""
    sizes, size = [], members
    while size > 0:
        sizes.append(size)
        size -= 1 if size <= _ALL_SIZES else max(1, size // 10)
    return sizes


def _without(weights: Sequence[float], place: int, kind: str) -> tuple[float, ...]:
    """Return the weights without one; they sum to 1 again, except in a mixture."""
    rest = [w for i, w in enumerate(weights) if i != place]
    total = 1.0 if kind == "mixture" else sum(rest)
    return tuple(w / total if total else 1 / len(rest) for w in rest)
