"""What is drawn from the seed of a differentiable search."""

from enum import IntEnum


class Role(IntEnum):
    """The second number of a derived seed; these stay, so that searches can be continued."""

    WEIGHTS = 0
    ARCHITECTURE = 1
    HALVES = 2
    TRAIN_BATCHES = 3
    ARCHITECTURE_BATCHES = 4
    RULE = 5
    VALIDATION = 6
    EIGENVALUE = 7
