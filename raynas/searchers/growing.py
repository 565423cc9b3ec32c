"""The contract of a search that grows an ensemble: decisions by predictions, not by values."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from raynas.searchers.searcher import Searcher
from trials.deployed import Kind


class HeldOut(Protocol):
    """Predictions on a part of the data that nothing was trained on."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The true class of each image."""

    def logits(self, evaluation: int) -> NDArray[np.float32] | None:
        """Of an evaluation, `images x classes`; None when it has none that can be used."""


class GrowingSearcher(Searcher):
    """A searcher that grows an ensemble.

    Everything that it asks for is trained to the end, also what was trained before (with another
    seed). Between its steps:

        searcher.undecided         evaluations whose predictions it needs, once they are trained
        searcher.decide(held_out)  the next step, as JSON data, which goes into the journal
        searcher.grow(decision)    takes it
        searcher.ensemble          the evaluations that are members now
    """

    needs_predictions: ClassVar[bool] = True
    needs_full_training: ClassVar[bool] = True
    repeats: ClassVar[bool] = True
    fewest_samples: ClassVar[int] = 4  # two candidates for each of two members

    @property
    @abstractmethod
    def ensemble(self) -> Sequence[int]:
        """The evaluations that are members of the ensemble now."""

    @property
    @abstractmethod
    def combine(self) -> Kind:
        """How its members are combined, unless the user says otherwise."""

    @abstractmethod
    def penalties(self, members: Sequence[int]) -> Sequence[float]:
        """What the objective asks for the weight of each of these evaluations, in a mixture."""

    @property
    @abstractmethod
    def undecided(self) -> Sequence[int]:
        """The evaluations by whose predictions the next step is to be decided; empty: not yet."""

    @abstractmethod
    def decide(self, held_out: HeldOut) -> dict[str, Any]:
        """What the next step is, as JSON data; changes nothing."""

    @abstractmethod
    def grow(self, decision: Mapping[str, Any]) -> None:
        """Take the step that was decided, now or, when a journal is replayed, then."""
