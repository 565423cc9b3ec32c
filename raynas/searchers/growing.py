"""The contract of a search that grows an ensemble: decisions by predictions, not by values."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from raynas.searchers.searcher import HeldOut, Searcher
from trials.deployed import Kind


class GrowingSearcher(Searcher):
    """A searcher that grows an ensemble.

    Everything that it asks for is trained to the end, also what was trained before (with another
    seed). Between its steps:

        searcher.undecided         evaluations whose predictions it needs, once they are trained
        searcher.decide(held_out)  the next step, as JSON data, which goes into the journal
        searcher.grow(decision)    takes it
        searcher.ensemble          the evaluations that are members now
    """

    needs_predictions: bool = True
    needs_full_training: bool = True
    repeats: bool = True
    fewest_samples: int = 4  # two candidates for each of two members

    @property
    @abstractmethod
    def ensemble(self) -> Sequence[int]:
        """See `Searcher`."""

    @property
    @abstractmethod
    def combine(self) -> Kind:
        """See `Searcher`."""

    @abstractmethod
    def penalties(self, members: Sequence[int]) -> Sequence[float]:
        """See `Searcher`."""

    @property
    @abstractmethod
    def undecided(self) -> Sequence[int]:
        """See `Searcher`."""

    @abstractmethod
    def decide(self, held_out: HeldOut) -> dict[str, Any]:
        """See `Searcher`."""

    @abstractmethod
    def grow(self, decision: Mapping[str, Any]) -> None:
        """See `Searcher`."""
