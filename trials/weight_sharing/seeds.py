"""The roles in which numbers are drawn from the seed of a supernet's training."""

from enum import IntEnum


class Role(IntEnum):
    """The second number of a derived seed; these stay, so that trainings can be continued."""

    WEIGHTS = 0
    ORDER = 1
    BATCHES = 2
    IMAGES = 3
    PROBES = 4
    CALIBRATION = 5
