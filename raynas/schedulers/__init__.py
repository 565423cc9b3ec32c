"""Schedulers: which trials go on after an epoch, one rule a file."""

from collections.abc import Callable

from raynas.schedulers.asha import Asha
from raynas.schedulers.fifo import Fifo
from raynas.schedulers.scheduler import Scheduler

__all__ = ["SCHEDULERS", "Asha", "Fifo", "Scheduler"]

SCHEDULERS: dict[str, Callable[..., Scheduler]] = {"asha": Asha, "fifo": Fifo}
