"""Differentiable search: one loop (`search.py`), and one rule a file.

from trials.differentiable import Differentiable, MiLeNAS
search = Differentiable(rule=MiLeNAS()).trial(space, data, epochs=50, seed=0, device=device)
while search.epoch < search.epochs and not search.stopped:
    metrics = search.step()
search.derived, search.records
"""

from trials.differentiable.darts import Darts
from trials.differentiable.gdas import GDAS
from trials.differentiable.milenas import MiLeNAS
from trials.differentiable.na_darts import NADarts
from trials.differentiable.recipe import Differentiable
from trials.differentiable.records import Record
from trials.differentiable.rule import Rule
from trials.differentiable.search import GradientSearch
from trials.differentiable.single_level import SingleLevel

__all__ = [
    "GDAS",
    "RULES",
    "Darts",
    "Differentiable",
    "GradientSearch",
    "MiLeNAS",
    "NADarts",
    "Record",
    "Rule",
    "SingleLevel",
]

RULES: dict[str, type[Rule]] = {
    "darts": Darts,
    "milenas": MiLeNAS,
    "single-level": SingleLevel,
    "gdas": GDAS,
    "na-darts": NADarts,
}
