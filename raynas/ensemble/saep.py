"""SAEP: prune an ensemble to a few members that are good together.

Bian et al.: Sub-Architecture Ensemble Pruning in Neural Architecture Search (IEEE TNNLS 2021, arXiv
1910.00370). A rule of `raynas.ensemble.rules` says which member goes: at random (PRS), by accuracy
contribution (PAP), or by information, diversity against relevance (PIE, by the greedy COMEP
procedure). Here a rule is applied after a search, again and again until the ensemble is as small
as is wanted.

Every decision is made on one held-out part of the data, the same images for all members. (The
authors' code looks at one mini-batch, another one for each member and for the labels.) A member
that is pruned is gone: it is no candidate again and not in what is exported.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval
from numpy.typing import NDArray
from pydantic import NonNegativeFloat

from raynas.ensemble.combination import Labels, Logits, accuracies
from raynas.ensemble.rules import FEWEST, RULES, removal_order
from raynas.errors import InvalidArgument
from search_spaces.naming import converted, lookup
from trials.deployed import Kind

_ROUNDING = 1e-9  # of accuracies


@dataclass(frozen=True)
class SAEP:
    """How the trained architectures of a run become an ensemble; `run(ensemble=SAEP(...))`.

    Args:
        rule: any of `raynas.ensemble.rules.RULES`: `prs`, `pap`, `pie`, or `greedy`, greedy forward
            selection, the common baseline and the best of them in docs/ensembles.md.
        size: how many members to keep; None: as few as `tolerance` allows.
        alpha: lambda of PIE, the weight of diversity against relevance.
        tolerance: without `size`, the pruning ends before the validation accuracy has fallen by
            more than this below that of all members together.
        combine: `average` (of probabilities), `average-logits`, `vote`, `weighted-vote`, or
            `mixture` (learnt weights of the logits); None: `average`, or as the searcher grew the
            ensemble.
        temperature: whether to fit a temperature to the combination.
        stopped: whether evaluations that the scheduler stopped early may be members too.
    """

    rule: str = "greedy"
    size: Annotated[int, Ge(FEWEST)] | None = None
    alpha: Annotated[float, Interval(ge=0, le=1)] = 0.5
    tolerance: NonNegativeFloat = 0.005
    combine: Kind | None = None
    temperature: bool = True
    stopped: bool = False

    def __post_init__(self) -> None:
        lookup("ensemble: rule", self.rule, RULES)

    def prune(self, logits: Logits, labels: Sequence[int], seed: int = 0) -> list[int]:
        """Return the members to keep, rising.

        Args:
            logits: of all members on a held-out part, `members x images x classes`.
            labels: the true classes, as numbers from 0.
            seed: of the rule's draws.

        Raises:
            InvalidArgument: for a wrong option or seed, fewer than two members, logits that are not
                finite, a member that predicts one class only, or labels that do not fit.
        """
        unset = [key for key in ("size", "combine") if getattr(self, key) is None]
        options = {key: value for key, value in asdict(self).items() if key not in unset}
        converted("ensemble", "saep", SAEP, options)
        if not isinstance(seed, Integral) or seed < 0:
            raise InvalidArgument(f"seed={seed}: give a whole number from 0.")
        try:
            checked, truth = np.ascontiguousarray(logits, np.float32), np.atleast_1d(labels)
        except (ValueError, TypeError, RuntimeError) as error:  # ragged, text, with gradients
            raise InvalidArgument(
                f"logits and labels must be arrays of numbers: {error}."
            ) from None
        check_members(checked, truth)
        truth = truth.astype(np.int64)
        return self.kept(removal_order(self.rule, checked, truth, seed, self.alpha), checked, truth)

    def kept(
        self, order: Sequence[int], logits: Logits, labels: Labels,
        penalties: Sequence[float] | None = None,
    ) -> list[int]:  # fmt: skip
        """Return the members that are kept, rising, when they are removed in this order.

        Args:
            order: all members.
            logits: as of `prune`.
            labels: likewise.
            penalties: of the members' weights in a mixture.
        """
        size = self.size
        if size is None:
            kind = self.combine or "average"
            size = self.settled_size(accuracies(kind, logits, labels, order, penalties))
        return sorted(order[-size:])

    def settled_size(self, accuracies: Iterable[tuple[int, float]]) -> int:
        """Return how many to keep, at least two, given what smaller and smaller ensembles reach.

        Args:
            accuracies: (members, validation accuracy), all members first.
        """
        falling = iter(accuracies)
        settled, whole = next(falling)
        for size, accuracy in falling:
            if size < FEWEST or fell(whole, accuracy, self.tolerance):
                break
            settled = size
        return settled


def fell(before: float, after: float, tolerance: float) -> bool:
    """Return whether an accuracy has fallen by more than it may."""
    return before - after > tolerance + _ROUNDING


def check_members(logits: Logits, labels: Labels) -> None:
    """Refuse members that no rule can judge.

    Raises:
        InvalidArgument: naming the member and the remedy.
    """
    if logits.ndim != 3 or labels.shape != logits.shape[1:2] or not len(labels):
        raise InvalidArgument(
            f"logits of shape {logits.shape} with {len(labels)} labels: give members x images x"
            " classes, and the label of each of the same images."
        )
    if labels.dtype.kind not in "iu":
        raise InvalidArgument(f"labels are {labels.dtype}: give classes as numbers from 0.")
    if labels.min() < 0 or labels.max() >= logits.shape[2]:
        raise InvalidArgument(
            f"labels from {labels.min()} to {labels.max()} with logits of {logits.shape[2]}"
            " classes: the members were trained with other labels."
        )
    if len(logits) < FEWEST:
        raise InvalidArgument(f"{len(logits)} members: an ensemble needs at least {FEWEST}.")
    for member, own in enumerate(logits):
        reason = unusable(own)
        if reason:
            raise InvalidArgument(f"member {member} {reason}: leave it out.")


def unusable(logits: NDArray[np.float32]) -> str | None:
    """Return why a member with these logits, `images x classes`, cannot be in an ensemble.

    None where it can.
    """
    if not np.isfinite(logits).all():
        return "has logits that are not finite"
    predicted = logits.argmax(axis=1)
    if (predicted == predicted[0]).all():
        return f"predicts class {predicted[0]} for every image"
    return None
