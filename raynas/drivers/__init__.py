"""Drivers: how a search is carried out, one way a file. An evaluator names its driver."""

from raynas.drivers.batches import Batches
from raynas.drivers.driver import Driver
from raynas.drivers.session import Session
from raynas.drivers.supernet import Supernet
from raynas.drivers.tune_trials import TuneTrials

__all__ = ["DRIVERS", "Driver", "Session"]

DRIVERS: dict[str, Driver] = {
    "trials": TuneTrials(),
    "batches": Batches(),
    "supernet": Supernet(),
}
