"""Search algorithms, one a file, all through the contract of `searcher.py`.

Everything here is imported when it is first asked for: names need no torch and no SciPy.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from search_spaces.naming import Table, importer

if TYPE_CHECKING:
    from raynas.searchers.adanet import AdaNet
    from raynas.searchers.area import Area
    from raynas.searchers.auto import Auto
    from raynas.searchers.constraints import Constraint, Limit, Penalty, Quota
    from raynas.searchers.evolution import Evolution
    from raynas.searchers.gradients import Gradients
    from raynas.searchers.growing import GrowingSearcher
    from raynas.searchers.listed import Listed
    from raynas.searchers.local_search import LocalSearch
    from raynas.searchers.naswot import Naswot
    from raynas.searchers.neighborhood import NeighborhoodAware
    from raynas.searchers.random_search import RandomSearch
    from raynas.searchers.searcher import HeldOut, Scoring, Searcher

__all__ = [
    "CONSTRAINTS",
    "SEARCHERS",
    "AdaNet",
    "Area",
    "Auto",
    "Constraint",
    "Evolution",
    "Gradients",
    "GrowingSearcher",
    "HeldOut",
    "Limit",
    "Listed",
    "LocalSearch",
    "Naswot",
    "NeighborhoodAware",
    "Penalty",
    "Quota",
    "RandomSearch",
    "Scoring",
    "Searcher",
]

SEARCHERS: "Table[Callable[..., Searcher]]" = Table(
    {
        "adanet": "raynas.searchers.adanet:AdaNet",
        "area": "raynas.searchers.area:Area",
        "auto": "raynas.searchers.auto:Auto",
        "darts": "raynas.searchers.gradients:darts",
        "evolution": "raynas.searchers.evolution:Evolution",
        "gdas": "raynas.searchers.gradients:gdas",
        "gradients": "raynas.searchers.gradients:Gradients",
        "listed": "raynas.searchers.listed:Listed",
        "local": "raynas.searchers.local_search:LocalSearch",
        "milenas": "raynas.searchers.gradients:milenas",
        "na-darts": "raynas.searchers.gradients:na_darts",
        "naswot": "raynas.searchers.naswot:Naswot",
        "single-level": "raynas.searchers.gradients:single_level",
        "random": "raynas.searchers.random_search:RandomSearch",
        "na-rs": "raynas.searchers.neighborhood:na_rs",
        "neighborhood": "raynas.searchers.neighborhood:NeighborhoodAware",
    }
)

CONSTRAINTS: "Table[Callable[..., Constraint]]" = Table(
    {
        "limit": "raynas.searchers.constraints:Limit",
        "penalty": "raynas.searchers.constraints:Penalty",
        "quota": "raynas.searchers.constraints:Quota",
    }
)

_MODULES = {
    "AdaNet": "raynas.searchers.adanet",
    "Area": "raynas.searchers.area",
    "Auto": "raynas.searchers.auto",
    "Constraint": "raynas.searchers.constraints",
    "Evolution": "raynas.searchers.evolution",
    "Gradients": "raynas.searchers.gradients",
    "GrowingSearcher": "raynas.searchers.growing",
    "HeldOut": "raynas.searchers.searcher",
    "Listed": "raynas.searchers.listed",
    "Limit": "raynas.searchers.constraints",
    "LocalSearch": "raynas.searchers.local_search",
    "Naswot": "raynas.searchers.naswot",
    "NeighborhoodAware": "raynas.searchers.neighborhood",
    "Penalty": "raynas.searchers.constraints",
    "Quota": "raynas.searchers.constraints",
    "RandomSearch": "raynas.searchers.random_search",
    "Scoring": "raynas.searchers.searcher",
    "Searcher": "raynas.searchers.searcher",
}

if not TYPE_CHECKING:  # with it, type checkers would take any name for one of this package
    __getattr__ = importer(__name__, _MODULES)
