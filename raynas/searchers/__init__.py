"""Search algorithms, one a file, all through the contract of `searcher.py`."""

from collections.abc import Callable

from raynas.searchers.evolution import Evolution
from raynas.searchers.random_search import RandomSearch
from raynas.searchers.searcher import Searcher

__all__ = ["SEARCHERS", "Evolution", "RandomSearch", "Searcher"]

SEARCHERS: dict[str, Callable[..., Searcher]] = {"evolution": Evolution, "random": RandomSearch}
