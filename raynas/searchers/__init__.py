"""Search algorithms, one a file, all through the contract of `searcher.py`."""

from collections.abc import Callable

from raynas.searchers.adanet import AdaNet
from raynas.searchers.area import Area
from raynas.searchers.auto import Auto
from raynas.searchers.evolution import Evolution
from raynas.searchers.growing import GrowingSearcher
from raynas.searchers.local_search import LocalSearch
from raynas.searchers.naswot import Naswot
from raynas.searchers.neighborhood import NeighborhoodAware, na_rs
from raynas.searchers.random_search import RandomSearch
from raynas.searchers.searcher import HeldOut, Scoring, Searcher

__all__ = [
    "SEARCHERS",
    "AdaNet",
    "Area",
    "Auto",
    "Evolution",
    "GrowingSearcher",
    "HeldOut",
    "LocalSearch",
    "Naswot",
    "NeighborhoodAware",
    "RandomSearch",
    "Scoring",
    "Searcher",
]

SEARCHERS: dict[str, Callable[..., Searcher]] = {
    "adanet": AdaNet,
    "area": Area,
    "auto": Auto,
    "evolution": Evolution,
    "local": LocalSearch,
    "naswot": Naswot,
    "random": RandomSearch,
    "na-rs": na_rs,
    "neighborhood": NeighborhoodAware,
}
