"""AdaNet: an ensemble that grows by one member at a time, pruned by SAEP as it grows.

Cortes et al.: AdaNet: Adaptive Structural Learning of Artificial Neural Networks (ICML 2017); with
pruning, Bian et al.: Sub-Architecture Ensemble Pruning (arXiv 1910.00370), whose code this follows:
candidates do not read the members' layers, and are trained by their own loss.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval
from pydantic import NonNegativeFloat
from torch.nn import functional

from raynas.ensemble.combination import Combination, Labels, Logits, mixture_weights
from raynas.ensemble.rules import RULES
from raynas.ensemble.saep import fell
from raynas.errors import InvalidArgument
from raynas.searchers.growing import GrowingSearcher
from raynas.searchers.searcher import HeldOut
from search_spaces import Architecture, SearchSpace
from search_spaces.naming import lookup
from trials.deployed import Kind
from trials.trial import derived_seed

_DEPTH = "depth"  # the decision that grows
_TRIES = 1000  # draws of the other decisions


@dataclass
class AdaNet(GrowingSearcher):
    """Grows an ensemble in a space with a decision `depth`, such as `dense`, `convolutional`.

    An iteration, from the second on, first prunes the ensemble by the rule, once, unless that
    would lower its validation accuracy by more than `tolerance`. (The authors' code has no
    tolerance, but its pruned members come back; without either, `pie`, which drops one of three
    whatever it is worth, never gets beyond three.) Then two candidates are trained: one as deep as
    the member that was added last, and one that is one deeper (the first ones have the least depth
    and the next; other decisions are drawn). The candidate joins with which the objective

        F(w) = mean cross-entropy of sum_j w_j h_j + sum_j (lambda r(h_j) + beta) w_j

    is less, h being logits, w_j = 1/n or learnt, and r the square root of the depth. The ensemble
    is sum_j w_j h_j wherever it is judged: in F, in the test of a pruning, in the report and in
    what is exported. Everything is decided on the validation part. (The authors decide on the
    training data.) A run of `samples` evaluations has `samples` / 2 iterations.

    Args:
        rule: `prs`, `pap`, `pie` or another one of `raynas.ensemble.rules`; or `none`, which is
            AdaNet itself.
        alpha: lambda of TDAC, for `pie`.
        tolerance: validation accuracy, as a fraction, that a pruning may cost; 1: any.
        mixture: `uniform` (the authors' ".O") or `learnt` weights (".W").
        complexity: lambda of the objective.
        beta: of the objective.
    """

    rule: str = "pie"
    alpha: Annotated[float, Interval(ge=0, le=1)] = 0.5
    tolerance: NonNegativeFloat = 0.0
    mixture: Literal["uniform", "learnt"] = "uniform"
    complexity: NonNegativeFloat = 0.0
    beta: NonNegativeFloat = 0.0

    _iteration: int = field(default=0, init=False, repr=False)
    #: {evaluation: choices} of everything that was asked for
    _asked: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)
    #: {evaluation: value} of this iteration's candidates; None: not known yet
    _candidates: dict[int, float | None] = field(default_factory=dict, init=False, repr=False)
    _members: list[int] = field(default_factory=list, init=False, repr=False)
    #: choice of the depth of the member added last
    _last: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        lookup("rule", self.rule, {"none": None, **RULES})

    def check(self, space: SearchSpace) -> None:
        """See `Searcher`."""
        depths = {d.name: d.choices for d in space.decisions}.get(_DEPTH, ())
        whole = all(isinstance(depth, int) and depth >= 0 for depth in depths)
        if not depths or not whole or list(depths) != sorted(depths):
            raise InvalidArgument(
                f"space={space.name!r} has no decision {_DEPTH!r} of rising whole numbers, which"
                " search='adanet' lets grow: use space='dense', 'convolutional', or a UserSpace"
                " with such a decision."
            )

    def start(self, space: SearchSpace, seed: int) -> None:
        """Begin with an empty ensemble."""
        super().start(space, seed)
        self.check(space)
        self._seed = seed
        self._place = [decision.name for decision in space.decisions].index(_DEPTH)
        self._iteration, self._last = 0, 0
        self._asked, self._candidates, self._members = {}, {}, []

    @property
    def ensemble(self) -> Sequence[int]:
        """See `GrowingSearcher`."""
        return tuple(self._members)

    @property
    def combine(self) -> Kind:
        """See `GrowingSearcher`."""
        return "mixture" if self.mixture == "learnt" else "average-logits"

    def penalties(self, members: Sequence[int]) -> list[float]:
        """Return lambda r + beta of each."""
        choices = self.space.decisions[self._place].choices
        depths = [choices[self._asked[i][self._place]] for i in members]
        return [self.complexity * math.sqrt(depth) + self.beta for depth in depths]

    def ask(self) -> Architecture | None:
        """Return the next candidate of this iteration; None until it is decided."""
        if len(self._candidates) == self._offered:
            return None
        arch = self._drawn(self._last + len(self._candidates))
        index = len(self._asked)  # every architecture that is asked for becomes an evaluation
        self._asked[index] = list(arch.choices)
        self._candidates[index] = None
        return arch

    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """Note that a candidate is trained."""
        for index, result in self._candidates.items():
            if result is None and self._asked[index] == list(architecture.choices):
                self._candidates[index] = value
                return

    @property
    def undecided(self) -> Sequence[int]:
        """See `GrowingSearcher`: all members and candidates, once all candidates are trained."""
        if len(self._candidates) < self._offered or None in self._candidates.values():
            return ()
        return (*self._members, *self._candidates)

    @property
    def _offered(self) -> int:
        """Return the number of candidates in this iteration: one where nothing is deeper."""
        return min(2, len(self.space.decisions[self._place].choices) - self._last)

    def decide(self, held_out: HeldOut) -> dict[str, Any]:
        """Decide what is pruned, and which candidate joins.

        Returns:
            `iteration`, `pruned` (evaluations), `lost` (those whose weights are gone), `joined` (an
            evaluation, None when all failed), `members`, `objectives` ({evaluation: F}), and of the
            members `objective`.
        """
        logits = {
            i: own
            for i in self.undecided
            if self._candidates.get(i) != -math.inf  # it may have predicted before it failed
            and (own := held_out.logits(i)) is not None
        }
        before = [i for i in self._members if i in logits]
        kept = self._pruned(before, logits, held_out.labels)
        objectives = {
            i: self._objective([*kept, i], logits, held_out.labels)
            for i in self._candidates if i in logits
        }  # fmt: skip
        joined = min(objectives, key=lambda i: (objectives[i], i), default=None)
        return {
            "iteration": self._iteration,
            "pruned": sorted(set(before) - set(kept)),
            "lost": sorted(set(self._members) - set(before)),
            "joined": joined,
            "members": [*kept, *([] if joined is None else [joined])],
            "objectives": {str(i): value for i, value in objectives.items()},
            "objective": None if joined is None else objectives[joined],
        }

    def grow(self, decision: Mapping[str, Any]) -> None:
        """Take over what was decided."""
        self._members = list(decision["members"])
        if decision["joined"] is not None:
            self._last = self._asked[decision["joined"]][self._place]
        self._iteration += 1
        self._candidates = {}

    def _drawn(self, depth: int) -> Architecture:
        """Draw an architecture of this depth."""
        for _ in range(_TRIES):
            arch = self.space.replaced(self.space.sample(self.rng), self._place, depth)
            if self.space.is_valid(arch):
                return arch
        raise InvalidArgument(f"space={self.space.name!r}: drew no valid architecture so deep.")

    def _pruned(
        self, members: list[int], logits: Mapping[int, Logits], labels: Labels
    ) -> list[int]:
        """Return the members that the rule keeps."""
        if self.rule == "none" or not members:
            return members
        stacked = np.stack([logits[i] for i in members])
        rng = np.random.default_rng(derived_seed(self._seed, self._iteration))
        weights = self._weights(members, stacked, labels)
        rule = RULES[self.rule](stacked, labels, rng, self.alpha, weights.tolist())
        kept = [members[place] for place in rule.keep(range(len(members)))]
        before, after = (self._accuracy(some, logits, labels) for some in (members, kept))
        return members if fell(before, after, self.tolerance) else kept

    def _accuracy(self, members: list[int], logits: Mapping[int, Logits], labels: Labels) -> float:
        """Return the accuracy of an ensemble on the validation part."""
        stacked = np.stack([logits[i] for i in members])
        weights = self._weights(members, stacked, labels)
        together = Combination(self.combine, tuple(weights.tolist()))
        return together.measure(stacked, labels)["accuracy"]

    def _objective(self, members: list[int], logits: Mapping[int, Logits], labels: Labels) -> float:
        """Return F of an ensemble."""
        stacked = np.stack([logits[i] for i in members])
        weights = self._weights(members, stacked, labels)
        together = np.tensordot(weights.astype(np.float32), stacked, axes=1)
        loss = functional.cross_entropy(torch.from_numpy(together), torch.from_numpy(labels))
        return float(loss) + float(weights @ self.penalties(members))

    def _weights(
        self, members: list[int], logits: Logits, labels: Labels
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        if self.mixture == "uniform":
            return np.full(len(members), 1 / len(members))
        return mixture_weights(logits, labels, self.penalties(members))
