"""How many trials run at the same time, in a cluster whose nodes come and go."""

import time
from contextlib import suppress

from raynas.cluster import Resources, slots
from raynas.errors import InvalidArgument

_SECONDS = 2.0  # between two looks at the cluster


class Concurrency:
    """The number of trials that may run now: what the user wants, or what the cluster holds.

    Args:
        resources: of one trial, and what the cluster held when the run began.
        wanted: by the user; None: as many as the cluster holds.
    """

    def __init__(self, resources: Resources, wanted: int | None):
        self.resources, self.wanted = resources, wanted
        self._held, self._looked = resources.held, time.monotonic()

    def __call__(self) -> int:
        """Return the number; it follows a cluster that has changed after two seconds."""
        if self.wanted is not None:
            return self.wanted
        if time.monotonic() - self._looked > _SECONDS:
            self._looked = time.monotonic()
            with suppress(InvalidArgument):  # while no node holds any, trials wait for one
                _, self._held = slots(
                    self.resources.cpus, self.resources.gpus, self.resources.workers
                )
        return self._held
