"""The contract of a search algorithm: ask and tell.

A searcher is a pure algorithm. It knows no Ray, no trials and no journal; the same object is
driven by a real run, by a replay of its journal, and by the simulator.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from search_spaces import Architecture, SearchSpace
from trials.deployed import Kind


class Scoring(NamedTuple):
    """What a searcher wants to have scored before the search, and by which proxy."""

    proxy: str
    architectures: list[Architecture]


class HeldOut(Protocol):
    """Predictions on a part of the data that nothing was trained on."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The true class of each image."""

    def logits(self, evaluation: int) -> NDArray[np.float32] | None:
        """Of an evaluation, `images x classes`; None when it has none that can be used."""


class Searcher(ABC):
    """Proposes architectures and learns from their values.

    The life of a searcher:

        searcher.start(space, seed)          once
        searcher.tell_scores({arch: 1650.2}) once, if it asks for scores by `scoring`
        arch = searcher.ask()                an architecture to evaluate, or None: none just now
        searcher.tell(arch, 0.91, 4)         its validation accuracy after 4 epochs
        searcher.tell(arch, -inf, 1)         it failed
        searcher.state()                     JSON data; load_state() continues the same sequence

    Calls come in any order that parallel evaluation brings about: several `ask` before the first
    `tell`, results in another order than they were asked for, more than one `tell` for an
    architecture that was asked for more than once, and `tell` for architectures that were never
    asked for. `ask` costs milliseconds at most, never waits for a result, and when it returns
    None changes nothing. Between two runs with the same seed and the same calls, the answers
    are the same.
    """

    space: SearchSpace
    rng: np.random.Generator
    #: set by `start` where architectures are to be scored before the first `ask`
    scoring: "Scoring | None" = None
    #: whether it grows an ensemble: everything that it asks for is trained to the end, also what
    #: was trained before (with another seed), and it decides by predictions, not by values
    grows: ClassVar[bool] = False

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

    @abstractmethod
    def ask(self) -> Architecture | None:
        """The next architecture to evaluate; None when there is none before a result comes."""

    @abstractmethod
    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """Learn a result.

        Args:
            architecture: what was evaluated.
            value: larger is better; minus infinity for a failed evaluation.
            budget: epochs behind the value. A trial that a scheduler stopped early comes with
                fewer than the others, and its value is not comparable with theirs.
        """

    def merits(self) -> Mapping[Architecture, float]:
        """What the outcome of the search is chosen by; only these architectures may be it.

        Empty (the default): any may, each by its own value. More epochs come first either way.
        """
        return {}

    # Where an ensemble grows

    @property
    def ensemble(self) -> Sequence[int]:
        """The evaluations that are members of the ensemble now."""
        return ()

    @property
    def combine(self) -> Kind:
        """How its members are combined, unless the user says otherwise."""
        return "average"

    @property
    def undecided(self) -> Sequence[int]:
        """The evaluations by whose predictions the next step is to be decided; empty: not yet."""
        return ()

    def decide(self, held_out: HeldOut) -> dict[str, Any]:
        """What the next step is, as JSON data; changes nothing."""
        raise NotImplementedError(f"{type(self).__name__} grows no ensemble.")

    def grow(self, decision: Mapping[str, Any]) -> None:
        """Take the step that was decided, now or, when a journal is replayed, then."""
        raise NotImplementedError(f"{type(self).__name__} grows no ensemble.")

    def state(self) -> dict[str, Any]:
        """All that changes, as JSON data."""
        return {"rng": copy.deepcopy(self.rng.bit_generator.state)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue, after `start`, from where `state` was taken."""
        self.rng.bit_generator.state = state["rng"]
