"""Drivers: how a search is carried out, one way a file. An evaluator, or a searcher, names one."""

from typing import TYPE_CHECKING

from search_spaces.naming import Table, importer

if TYPE_CHECKING:  # a worker needs none of them
    from raynas.drivers.driver import Driver

__all__ = ["DRIVERS", "Driver"]

DRIVERS: "Table[type[Driver]]" = Table(
    {
        "trials": "raynas.drivers.tune_trials:TuneTrials",
        "batches": "raynas.drivers.batches:Batches",
        "gradients": "raynas.drivers.gradients:GradientSearches",
        "supernet": "raynas.drivers.supernet:Supernet",
    }
)

_MODULES = {"Driver": "raynas.drivers.driver"}

if not TYPE_CHECKING:  # with it, type checkers would take any name for one of this package
    __getattr__ = importer(__name__, _MODULES)
