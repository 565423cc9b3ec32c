"""What to evaluate next: what the searcher asks for, where that is new and admitted."""

from collections.abc import Sequence
from typing import Protocol

from raynas.search.admission import Admission
from raynas.search.deduplication import Deduplication
from raynas.searchers import Searcher
from search_spaces import Architecture
from trials.trial import derived_seed

_MAX_DUPLICATES = 1000  # in a row, before the space is gone through in order instead
_MAX_DECLINED = 100  # in a row, likewise
_DRAWS = 3  # the seed (run, evaluation, 3): of draws in place of what was declined


class Search(Protocol):
    """What proposals are made from."""

    searcher: Searcher
    deduplication: Deduplication
    admission: Admission
    seed: int

    @property
    def evaluations(self) -> Sequence[object]:
        """Return those that have begun."""

    def tell_known(self, index: int, asked: Architecture) -> None:
        """Tell the searcher the result that stands for what it asked for."""


class Proposals:
    """Asks the searcher of a search until it names something to pay for."""

    def __init__(self, search: Search):
        self._search = search
        self._all_seen = False

    @property
    def unpaid(self) -> int:
        """Return how often what was asked for was known already or was declined."""
        return self._search.deduplication.duplicates + self._search.admission.declined

    def next(self) -> Architecture | None:
        """Return the next new architecture; tell what is known already at once, unpaid.

        None: there is none before a result comes, or there is none at all.
        """
        if self._all_seen:
            return None
        search, declined = self._search, 0
        for _ in range(_MAX_DUPLICATES):
            asked = search.searcher.ask()
            if asked is None:
                return None
            index = search.deduplication.duplicated(asked)
            if index is not None:
                search.tell_known(index, asked)
                continue
            if search.admission.admitted(asked):
                return asked
            search.searcher.decline(asked)
            declined += 1
            if declined == _MAX_DECLINED:
                break
        seed = derived_seed(search.seed, len(search.evaluations), _DRAWS)
        unseen = search.admission.unseen(search.deduplication, seed)
        self._all_seen = unseen is None
        return unseen
