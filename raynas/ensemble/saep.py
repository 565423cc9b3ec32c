"""SAEP: prune an ensemble to a few members that are good together.

Bian et al.: Sub-Architecture Ensemble Pruning in Neural Architecture Search (IEEE TNNLS 2021, arXiv
1910.00370). Three rules say which member goes: at random (PRS), by accuracy contribution (PAP),
or by information, diversity against relevance (PIE, by the greedy COMEP procedure). Here they
are applied after a search, again and again until the ensemble is as small as is wanted, and by
`raynas.searchers.adanet` during one.

Every decision is made on one held-out part of the data, the same images for all members. (The
authors' code looks at one mini-batch, another one for each member and for the labels.) A member
that is pruned is gone: it is no candidate again and not in what is exported.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from numbers import Integral
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Interval
from numpy.typing import NDArray
from pydantic import NonNegativeFloat
from scipy.special import softmax

from raynas.ensemble.combination import Labels, Logits, accuracies
from raynas.ensemble.information import (
    Floats,
    mutual_information,
    tdac,
    tdac_matrix,
    variation_of_information,
)
from raynas.errors import InvalidArgument
from search_spaces.naming import converted
from trials.deployed import Kind

__all__ = [
    "RULES",
    "SAEP",
    "Rule",
    "comep",
    "mutual_information",
    "removal_order",
    "tdac",
    "tdas",
    "variation_of_information",
]

_FEWEST = 2  # members of an ensemble; with so few the rules prune nothing
_ROUNDING = 1e-9  # of accuracies
_DIGITS = 10  # of a gain; what differs less is equal, and the first member wins
_STEP = 2.0**-40  # of a probability

RuleName = Literal["prs", "pap", "pap-literal", "pie", "greedy"]


class Rule(ABC):
    """A pruning rule, ready for some members.

    Args:
        logits: of all members on the held-out part, `members x images x classes`.
        labels: the true classes.
        rng: of the rule's draws.
        alpha: lambda of TDAC, for the rule that uses it.
        weights: w, one for each member, where the vote is weighted; None: all alike.
    """

    def __init__(
        self,
        logits: Logits,
        labels: Labels,
        rng: np.random.Generator,
        alpha: float = 0.5,
        weights: Sequence[float] | None = None,
    ):
        self.logits, self.labels, self.rng, self.alpha = logits, labels, rng, alpha
        self.weights = np.ones(len(logits)) if weights is None else np.asarray(weights)

    def keep(self, among: Sequence[int]) -> list[int]:
        """Which of these members stay after the rule was applied once, as during a search.

        All of them where there are no more than two.
        """
        return list(among) if len(among) <= _FEWEST else self._kept(list(among))

    @abstractmethod
    def goes(self, among: Sequence[int]) -> int:
        """Which of these members goes first, where one must."""

    def _kept(self, among: list[int]) -> list[int]:
        gone = self.goes(among)
        return [member for member in among if member != gone]


class PRS(Rule):
    """Pruning by random selection: half of the time one member goes, whichever it is."""

    def goes(self, among: Sequence[int]) -> int:
        """A uniform draw."""
        return among[int(self.rng.integers(len(among)))]

    def _kept(self, among: list[int]) -> list[int]:
        return among if self.rng.random() < 0.5 else super()._kept(among)


class PAP(Rule):
    """Pruning by accuracy performance: those go whose removal does not raise the error.

    Of d_j = err(F) - err(F without j), F = argmax sum_j w_j softmax(h_j), those with d_j < 0 are
    kept; where these are fewer than two, the two with the smallest d_j. (The authors' code keeps
    those with d_j > 0, whose removal would have helped: `pap-literal`.)
    """

    def goes(self, among: Sequence[int]) -> int:
        """The one whose removal raises the error least; of equals, the one that errs most."""
        contributions = self._contributions(among)
        return min(zip(contributions, -self.errors[list(among)], among, strict=True))[2]

    @cached_property
    def shares(self) -> Floats:
        """What each member adds to the common vote, `members x images x classes`.

        In steps so that sums are exact, and the same whatever they are made of.
        """
        shares: Floats = softmax(self.logits, axis=2) * (self.weights / _STEP)[:, None, None]
        return np.rint(shares, out=shares)

    @cached_property
    def errors(self) -> Floats:
        """Of each member alone."""
        errors: Floats = (self.logits.argmax(2) != self.labels).mean(axis=1)
        return errors

    @cached_property
    def _most(self) -> float:
        return float(self.shares.max())

    @cached_property
    def _counted(self) -> tuple[set[int], Floats]:
        """Some members and the sum of their shares, which `_together` changes."""
        return set(), np.zeros(self.logits.shape[1:])

    def _together(self, among: Sequence[int]) -> Floats:
        """The sum of the shares of these members."""
        members, together = self._counted
        for member in members.symmetric_difference(among):
            if member in members:
                together -= self.shares[member]
            else:
                together += self.shares[member]
        members.clear()
        members.update(among)
        return together

    def _kept(self, among: list[int]) -> list[int]:
        return self._two_or(among, [d > 0 for d in self._contributions(among)], fewest=2)

    def _two_or(self, among: list[int], wanted: list[bool], fewest: int) -> list[int]:
        """Those that are wanted, unless they are too few: then the two that contribute most."""
        if sum(wanted) >= fewest:
            return [member for member, good in zip(among, wanted, strict=True) if good]
        contributions = self._contributions(among)
        return sorted(sorted(among, key=lambda j: -contributions[among.index(j)])[:_FEWEST])

    def _contributions(self, among: Sequence[int]) -> list[float]:
        together = self._together(among)
        shares = (self.shares[member] for member in among)
        rises: list[float] = contributions(shares, self._most, together, self.labels).tolist()
        return rises


class LiteralPAP(PAP):
    """PAP as the authors' code has it, for comparison: those stay whose removal would help.

    With d_j as in `PAP`, the members with d_j > 0 are kept; where there is none, the two with the
    largest d_j.
    """

    def _kept(self, among: list[int]) -> list[int]:
        return self._two_or(among, [d > 0 for d in self._contributions(among)], fewest=1)

    def _contributions(self, among: Sequence[int]) -> list[float]:
        return [-d for d in super()._contributions(among)]


class PIE(Rule):
    """Pruning by information entropy: the one member goes that COMEP leaves to the end."""

    @cached_property
    def tdac(self) -> Floats:
        """Of every pair of members."""
        return tdac_matrix(self.logits.argmax(2), self.labels, self.alpha)

    def goes(self, among: Sequence[int]) -> int:
        """The one that is not among the n - 1 that COMEP chooses."""
        chosen = comep(self.tdac[np.ix_(among, among)], len(among) - 1, self.rng)
        (left,) = set(range(len(among))) - set(chosen)
        return among[left]


class Greedy(Rule):
    """Greedy forward selection, the common baseline; not a rule of the paper.

    From the best member on, the one is added with which the averaged probabilities have the
    least loss (Caruana et al.: Ensemble Selection from Libraries of Models, 2004; here each member
    at most once, so that sizes compare). Members go in the reverse order.
    """

    @cached_property
    def order(self) -> list[int]:
        """All members in the order in which they are added."""
        every = np.arange(len(self.labels))
        return _forward_selection(softmax(self.logits, axis=2)[:, every, self.labels])

    def goes(self, among: Sequence[int]) -> int:
        """The one that was added last."""
        return max(among, key=self.order.index)


RULES: dict[RuleName, type[Rule]] = {
    "prs": PRS,
    "pap": PAP,
    "pap-literal": LiteralPAP,
    "pie": PIE,
    "greedy": Greedy,
}


@dataclass(frozen=True)
class SAEP:
    """How the trained architectures of a run become an ensemble; `run(ensemble=SAEP(...))`.

    Args:
        rule: `prs`, `pap`, `pie`; `pap-literal` is PAP with the sign of the authors' code, `greedy`
            is greedy forward selection, the common baseline.
        size: how many members to keep; None: as few as `tolerance` allows.
        alpha: lambda of PIE, the weight of diversity against relevance.
        tolerance: without `size`, the pruning ends before the validation accuracy has fallen by
            more than this below that of all members together.
        combine: `average` (of probabilities), `vote`, `weighted-vote` or `mixture` (learnt weights
            of the logits); None: `average`, or as the searcher grew the ensemble.
        temperature: whether to fit a temperature to the combination.
        stopped: whether evaluations that the scheduler stopped early may be members too.
    """

    rule: RuleName = "pie"
    size: Annotated[int, Ge(_FEWEST)] | None = None
    alpha: Annotated[float, Interval(ge=0, le=1)] = 0.5
    tolerance: NonNegativeFloat = 0.005
    combine: Kind | None = None
    temperature: bool = True
    stopped: bool = False

    def prune(self, logits: Logits, labels: Sequence[int], seed: int = 0) -> list[int]:
        """Which members to keep, rising.

        Args:
            logits: of all members on a held-out part, `members x images x classes`.
            labels: the true classes, as numbers from 0.
            seed: of the rule's draws.

        Raises:
            InvalidArgument: for a wrong option or seed, fewer than two members, logits that are not
                finite, a member that predicts one class only, or labels that do not fit.
        """
        unset = [key for key in ("size", "combine") if getattr(self, key) is None]
        given = {key: value for key, value in asdict(self).items() if key not in unset}
        converted("ensemble", "saep", SAEP, given)
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
        """Which members are kept, rising, when they are removed in this order.

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
        """How many members to keep, at least two, given what smaller and smaller ensembles reach.

        Args:
            accuracies: (members, validation accuracy), all members first.
        """
        falling = iter(accuracies)
        settled, whole = next(falling)
        for size, accuracy in falling:
            if size < _FEWEST or fell(whole, accuracy, self.tolerance):
                break
            settled = size
        return settled


def fell(before: float, after: float, tolerance: float) -> bool:
    """Whether an accuracy has fallen by more than it may."""
    return before - after > tolerance + _ROUNDING


def removal_order(
    rule: RuleName, logits: Logits, labels: Labels, seed: int, alpha: float = 0.5
) -> list[int]:
    """All members in the order in which a rule that is applied again and again removes them.

    Its last k are the ensemble of k members.
    """
    ready = RULES[rule](logits, labels, np.random.default_rng(seed), alpha)
    among, order = list(range(len(logits))), []
    while len(among) > 1:
        order.append(ready.goes(among))
        among.remove(order[-1])
    return order + among


def comep(tdac: Floats, size: int, rng: np.random.Generator) -> list[int]:
    """COMEP: `size` members, chosen greedily; in the order of choosing.

    The first is drawn; then that one is added for which the sum of TDAC with all that were chosen
    is largest (differences of 1e-10 are none, then the first of them is taken).

    Args:
        tdac: of every pair, `members x members`; see `tdac_matrix`.
        size: how many to choose.
        rng: draws the first.

    Raises:
        InvalidArgument: for a size that is not in 1..members.
    """
    if not 1 <= size <= len(tdac):
        raise InvalidArgument(f"size={size}: give 1 to {len(tdac)}, the number of members.")
    chosen = [int(rng.integers(len(tdac)))]
    gains = np.zeros(len(tdac))
    while len(chosen) < size:
        gains += tdac[chosen[-1]]
        gains[chosen[-1]] = -np.inf
        chosen.append(int(np.argmax(gains.round(_DIGITS))))
    return chosen


def tdas(tdac: Floats, chosen: Sequence[int]) -> float:
    """TDAS of a set of members: half the sum of TDAC over all its ordered pairs.

    Args:
        tdac: of every pair, `members x members`; see `tdac_matrix`.
        chosen: the set.
    """
    return float(tdac[np.ix_(chosen, chosen)].sum() / 2)


def contributions(
    shares: Iterable[Floats], most: float, together: Floats, labels: Labels
) -> Floats:
    """By how much the error would rise without each member, as a share of the images.

    Args:
        shares: what each member adds to the common vote, not negative, `images x classes`.
        most: no share is larger.
        together: the sum of all of them.
        labels: the true classes.
    """
    second, first = np.partition(together, (-2, -1), axis=1)[:, -2:].T
    near = np.flatnonzero(first - second <= most)  # elsewhere no single member changes the vote
    vote, lead = together[near].argmax(axis=1), (first - second)[near]
    rises = []
    for own in shares:
        close = own[near, vote] >= lead  # nor does this one elsewhere
        images = near[close]
        without, truth = (together[images] - own[images]).argmax(axis=1), labels[images]
        rises.append(int((without != truth).sum()) - int((vote[close] != truth).sum()))
    return np.array(rises) / len(labels)


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
    if len(logits) < _FEWEST:
        raise InvalidArgument(f"{len(logits)} members: an ensemble needs at least {_FEWEST}.")
    for member, own in enumerate(logits):
        reason = unusable(own)
        if reason:
            raise InvalidArgument(f"member {member} {reason}: leave it out.")


def unusable(logits: NDArray[np.float32]) -> str | None:
    """Why a member with these logits, `images x classes`, cannot be in an ensemble, if so."""
    if not np.isfinite(logits).all():
        return "has logits that are not finite"
    predicted = logits.argmax(axis=1)
    if (predicted == predicted[0]).all():
        return f"predicts class {predicted[0]} for every image"
    return None


def _forward_selection(truth: NDArray[np.floating]) -> list[int]:
    """Members in the order of greedy forward selection.

    Args:
        truth: the probability that each gives to the true class, `members x images`.
    """
    rest, order = list(range(len(truth))), []
    together = np.zeros(truth.shape[1])
    tiny = np.finfo(np.float32).tiny
    while rest:
        losses = [-np.log(np.maximum(together + truth[j], tiny)).mean() for j in rest]
        order.append(rest.pop(int(np.argmin(losses))))
        together += truth[order[-1]]
    return order
