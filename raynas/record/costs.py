"""What a run has used of the cluster: cores and GPUs, times how long its work held them.

It counts from when work gets its place (`Placed`) until it ends, or the driver does. Batches of
cheap evaluations and shared supernets, which no event places, are not in it.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

from raynas.record.events import Placed


@dataclass(frozen=True)
class Place:
    """Where work runs, and what it holds.

    Attributes:
        node: the name of the machine; empty: not known.
        cpus: cores.
        gpus: GPUs.
        since: until when it has been counted, in seconds since 1970.
    """

    node: str
    cpus: float
    gpus: float
    since: float


class Costs:
    """Core and GPU seconds of a run, from its events."""

    def __init__(self) -> None:
        #: {(work, number): place} of what runs
        self.places: dict[tuple[str, int], Place] = {}
        self._cpu_seconds = 0.0
        #: {work: GPU seconds}
        self._gpu_seconds: dict[str, float] = defaultdict(float)

    def place(self, event: Placed) -> None:
        """Begin to count work; what it held elsewhere is counted until now."""
        self.leave(event.work, event.number, event.time)
        place = Place(event.node, event.cpus, event.gpus, event.time)
        self.places[event.work, event.number] = place

    def count(self, work: str, number: int, time: float) -> None:
        """Count work until a time at which it was seen to run."""
        place = self.places.get((work, number))
        if place is not None:
            seconds = max(0.0, time - place.since)
            self._cpu_seconds += place.cpus * seconds
            self._gpu_seconds[work] += place.gpus * seconds
            self.places[work, number] = replace(place, since=time)

    def leave(self, work: str, number: int, time: float) -> None:
        """Take notice that work has ended."""
        self.count(work, number, time)
        self.places.pop((work, number), None)

    def interrupt(self, time: float) -> None:
        """Take notice that the driver ended, and with it all that ran."""
        for work, number in list(self.places):
            self.leave(work, number, time)

    def drop(self, work: str) -> None:
        """Take notice that all work of a kind had ended when it was last counted."""
        self.places = {key: place for key, place in self.places.items() if key[0] != work}

    def cpu_seconds(self, now: float) -> float:
        """Return the core-seconds until now, in seconds since 1970."""
        return self._cpu_seconds + sum(p.cpus * _held(p, now) for p in self.places.values())

    def gpu_seconds(self, now: float, work: str | None = None) -> float:
        """Return the GPU-seconds until now.

        Args:
            now: in seconds since 1970.
            work: which alone is counted; None: all.
        """
        running = [(key[0], place) for key, place in self.places.items()]
        counted = [*self._gpu_seconds.items()] + [(w, p.gpus * _held(p, now)) for w, p in running]
        return sum(seconds for of, seconds in counted if work in (None, of))


def _held(place: Place, now: float) -> float:
    return max(0.0, now - place.since)
