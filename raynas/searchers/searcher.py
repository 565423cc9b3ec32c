"""The contract of a search algorithm: ask and tell.

A searcher is a pure algorithm. It knows no Ray, no trials and no journal; the same object is
driven by a real run, by a replay of its journal, and by the simulator.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from search_spaces import Architecture, SearchSpace
from trials.deployed import Kind
from trials.proxies import Score


class Scoring(NamedTuple):
    """What a searcher wants to have scored before the search, and by which proxy, or function."""

    proxy: str | Score
    architectures: list[Architecture]


class HeldOut(Protocol):
    """Predictions on a part of the data that nothing was trained on."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the true class of each image."""

    def logits(self, evaluation: int) -> NDArray[np.float32] | None:
        """Return those of an evaluation, `images x classes`; None when it has none of use."""


class Searcher(ABC):
    """Proposes architectures and learns from their values.

    The life of a searcher:

        searcher.start(space, seed)          once
        searcher.tell_scores({arch: 1650.2}) once, if it asks for scores by `scoring`
        arch = searcher.ask()                an architecture to evaluate, or None: none just now
        searcher.hear(arch, 0.52, 1)         its validation accuracy after its first epoch
        searcher.tell(arch, 0.91, 4)         its validation accuracy after 4 epochs
        searcher.tell(arch, -inf, 1)         it failed
        searcher.decline(arch)               right after `ask`: it is not evaluated

    Calls come in any order that parallel evaluation brings about: several `ask` before the first
    `tell`, results in another order than they were asked for, more than one `tell` for an
    architecture that was asked for more than once, and `tell` for architectures that were never
    asked for. `ask` costs milliseconds at most, never waits for a result, and when it returns
    None changes nothing. Between two runs with the same seed and the same calls, the answers
    are the same; so nothing of a searcher is stored, and a replay of the calls that a journal
    records brings one back to where it was.

    What a searcher needs beyond this it declares by the attributes `needs_predictions`,
    `needs_full_training`, `repeats`, `driver` and `fewest_samples`, which whoever drives it reads
    after the searcher was made and before `start`. Every searcher answers for the ensemble that it
    grows (see `GrowingSearcher`); by default it grows none.
    """

    space: SearchSpace
    rng: np.random.Generator
    #: set by `start` where architectures are to be scored before the first `ask`
    scoring: "Scoring | None" = None
    #: whether it decides by what trained members predict (see `GrowingSearcher`)
    needs_predictions: bool = False
    #: whether everything that it asks for must be trained to the end
    needs_full_training: bool = False
    #: whether all that it asks for is paid for, also what computes the same function as before
    repeats: bool = False
    #: the driver of `raynas.drivers` that makes ready what it asks for, where one must
    driver: str | None = None
    #: of each search of that driver
    epochs_of_search: int | None = None
    #: evaluations without which it comes to nothing
    fewest_samples: int = 1
    #: says whether an architecture would be evaluated now, set before `start` where not every one
    #: would (see `raynas.searchers.constraints`); for searchers that choose among many
    admits: "Callable[[Architecture], bool] | None" = None

    def check(self, space: SearchSpace) -> None:  # noqa: B027  most search any
        """Refuse a space that this cannot search, before anything starts.

        Raises:
            InvalidArgument: saying why, and which spaces it can.
        """

    def start(self, space: SearchSpace, seed: int) -> None:
        """Begin a search in `space`; all randomness comes from `seed`."""
        self.space = space
        self.rng = np.random.default_rng(seed)

    def tell_scores(self, scores: Mapping[Architecture, float]) -> None:
        """Learn the scores that `scoring` asks for; minus infinity ranks last."""
        raise NotImplementedError(f"{type(self).__name__} asks for no scores.")

    def learn(self, architecture: Architecture) -> None:
        """Take what its `driver` has derived, to ask for it."""
        raise NotImplementedError(f"{type(self).__name__} has no driver of its own.")

    @abstractmethod
    def ask(self) -> Architecture | None:
        """Return the next architecture to evaluate; None: there is none before a result comes."""

    @abstractmethod
    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """Learn a result.

        Args:
            architecture: what was evaluated.
            value: larger is better; minus infinity for a failed evaluation.
            budget: epochs behind the value. A trial that a scheduler stopped early comes with
                fewer than the others, and its value is not comparable with theirs.
        """

    def hear(self, architecture: Architecture, value: float, epochs: int) -> None:  # noqa: B027
        """Learn the value after an epoch of an evaluation, whether it goes on or not.

        When it does not, `tell` follows. A scheduler may have it go on after that. Nothing needs to
        come of it, and where results are known at once nothing is heard before them.
        """

    def decline(self, architecture: Architecture) -> None:
        """Learn that what `ask` has just returned is not evaluated: it breaks a constraint.

        It may be asked for again; a quota that is full now may have room later. By default it
        counts as failed, so that nobody waits for its result.
        """
        self.tell(architecture, -math.inf, 0)

    def merits(self) -> Mapping[Architecture, float]:
        """Return what the outcome is chosen by; only these architectures may be the outcome.

        Empty (the default): any may, each by its own value. More epochs come first either way.
        """
        return {}

    @property
    def ensemble(self) -> Sequence[int]:
        """Return the evaluations that are members of the ensemble, in the order they joined."""
        return ()

    @property
    def combine(self) -> Kind | None:
        """Return how members are combined, unless the user says otherwise; None: no opinion."""
        return None

    def penalties(self, members: Sequence[int]) -> Sequence[float]:
        """Return what the objective adds for the weight of each of these evaluations."""
        return [0.0] * len(members)

    @property
    def undecided(self) -> Sequence[int]:
        """Return the evaluations whose predictions decide the next step; empty: none is due."""
        return ()

    def decide(self, held_out: HeldOut) -> dict[str, Any]:
        """Return the next step as JSON data; changes nothing. Called only if `undecided`."""
        return {}

    def grow(self, decision: Mapping[str, Any]) -> None:  # noqa: B027  most grow nothing
        """Take the step that `decide` has returned, then or when a journal is replayed."""
