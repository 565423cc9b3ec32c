"""Drivers: how a search is carried out, one way a file. An evaluator names its driver."""

from typing import TYPE_CHECKING

from search_spaces.naming import Table

if TYPE_CHECKING:  # a worker needs none of them
    from raynas.drivers.driver import Driver

DRIVERS: "Table[type[Driver]]" = Table(
    {
        "trials": "raynas.drivers.tune_trials:TuneTrials",
        "batches": "raynas.drivers.batches:Batches",
        "gradients": "raynas.drivers.gradients:GradientSearches",
        "supernet": "raynas.drivers.supernet:Supernet",
    }
)
