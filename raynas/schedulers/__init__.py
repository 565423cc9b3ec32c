"""Schedulers: which trials go on after an epoch, one rule a file."""

from collections.abc import Callable

from raynas.schedulers.asha import Asha
from raynas.schedulers.asha_stratified import AshaStratified
from raynas.schedulers.fifo import Fifo
from raynas.schedulers.scheduler import Scheduler

__all__ = ["SCHEDULERS", "Asha", "AshaStratified", "Fifo", "Scheduler"]

SCHEDULERS: dict[str, Callable[..., Scheduler]] = {
    "asha": Asha,
    "asha-stratified": AshaStratified,
    "fifo": Fifo,
}
