"""The rules that say which member of an ensemble goes: PRS, PAP, PIE, and greedy selection.

Bian et al.: Sub-Architecture Ensemble Pruning in Neural Architecture Search (IEEE TNNLS 2021, arXiv
1910.00370). Another rule is a subclass of `Rule` and a line in `RULES`. `raynas.ensemble.saep`
applies a rule after a search, again and again; a searcher that grows an ensemble may apply it
during one, once in each iteration.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from raynas.ensemble.combination import Labels, Logits
from raynas.ensemble.comep import comep
from raynas.ensemble.information import Floats, tdac_matrix

FEWEST = 2  # members of an ensemble; with so few the rules prune nothing
_STEP = 2.0**-40  # of a probability


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
        """Return the members that stay after the rule was applied once, as during a search.

        All of them where there are no more than two.
        """
        return list(among) if len(among) <= FEWEST else self._kept(list(among))

    def removals(self) -> list[int]:
        """Return all members in the order in which they go, the rule being applied repeatedly.

        The last k are the ensemble of k members.
        """
        among, order = list(range(len(self.logits))), []
        while len(among) > 1:
            order.append(self.goes(among))
            among.remove(order[-1])
        return order + among

    @abstractmethod
    def goes(self, among: Sequence[int]) -> int:
        """Return the one of these members that goes first, where one must."""

    def _kept(self, among: list[int]) -> list[int]:
        gone = self.goes(among)
        return [member for member in among if member != gone]


class PRS(Rule):
    """Pruning by random selection: half of the time one member goes, whichever it is."""

    def goes(self, among: Sequence[int]) -> int:
        """Draw one uniformly."""
        return among[int(self.rng.integers(len(among)))]

    def _kept(self, among: list[int]) -> list[int]:
        return among if self.rng.random() < 0.5 else super()._kept(among)


class PAP(Rule):
    """Pruning by accuracy performance: those go whose removal does not raise the error.

    Of d_j = err(F) - err(F without j), F = argmax sum_j w_j softmax(h_j), those with d_j < 0 are
    kept; where these are fewer than two, the two with the smallest d_j. (The authors' code keeps
    those with d_j > 0, whose removal would have helped; `benchmarks/ensemble.py` compares.)
    """

    def goes(self, among: Sequence[int]) -> int:
        """Return the one whose removal raises the error least; of equals, who errs most."""
        contributions = self.contributions(among)
        return min(zip(contributions, -self.errors[list(among)], among, strict=True))[2]

    def contributions(self, among: Sequence[int]) -> list[float]:
        """Return -d_j of each of these members, as a share of the images."""
        together = self._together(among)
        shares = (self.shares[member] for member in among)
        rises: list[float] = contributions(shares, self._most, together, self.labels).tolist()
        return rises

    @cached_property
    def shares(self) -> Floats:
        """Return what each member adds to the common vote, `members x images x classes`.

        In steps so that sums are exact, and the same whatever they are made of.
        """
        shares: Floats = softmax(self.logits, axis=2) * (self.weights / _STEP)[:, None, None]
        return np.rint(shares, out=shares)

    @cached_property
    def errors(self) -> Floats:
        """Return the error of each member alone, a share of the images."""
        errors: Floats = (self.logits.argmax(2) != self.labels).mean(axis=1)
        return errors

    @cached_property
    def _most(self) -> float:
        return float(self.shares.max())

    @cached_property
    def _counted(self) -> tuple[set[int], Floats]:
        """Return some members and the sum of their shares, which `_together` changes."""
        return set(), np.zeros(self.logits.shape[1:])

    def _together(self, among: Sequence[int]) -> Floats:
        """Return the sum of the shares of these members."""
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
        contributions = dict(zip(among, self.contributions(among), strict=True))
        useful = [member for member in among if contributions[member] > 0]
        if len(useful) >= FEWEST:
            return useful
        return sorted(sorted(among, key=lambda j: -contributions[j])[:FEWEST])


class PIE(Rule):
    """Pruning by information entropy: the one member goes that COMEP leaves to the end."""

    @cached_property
    def tdac(self) -> Floats:
        """Return TDAC of every pair of members, `members x members`."""
        return tdac_matrix(self.logits.argmax(2), self.labels, self.alpha)

    def goes(self, among: Sequence[int]) -> int:
        """Return the one that is not among the n - 1 that COMEP chooses."""
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
        """Return all members in the order in which they are added."""
        every = np.arange(len(self.labels))
        return _forward_selection(softmax(self.logits, axis=2)[:, every, self.labels])

    def goes(self, among: Sequence[int]) -> int:
        """Return the one that was added last."""
        return max(among, key=self.order.index)


RULES: dict[str, type[Rule]] = {"prs": PRS, "pap": PAP, "pie": PIE, "greedy": Greedy}


def removal_order(
    rule: str, logits: Logits, labels: Labels, seed: int, alpha: float = 0.5
) -> list[int]:
    """Return all members in the order in which a rule removes them; see `Rule.removals`."""
    return RULES[rule](logits, labels, np.random.default_rng(seed), alpha).removals()


def contributions(
    shares: Iterable[Floats], most: float, together: Floats, labels: Labels
) -> Floats:
    """Return by how much the error would rise without each member, as a share of the images.

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


def _forward_selection(truth: NDArray[np.floating]) -> list[int]:
    """Return the members in the order of greedy forward selection.

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
