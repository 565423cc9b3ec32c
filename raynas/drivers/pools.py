"""Cheap evaluations, milliseconds each: in batches, on plain Ray actors all over the cluster.

A Ray Tune trial costs more than such an evaluation takes; so proxies, tables and supernets, whether
asked for by `score`, by a warm start or by a whole search, go this way.
"""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

import ray

from raynas.cluster import prepare_process
from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.estimate import Estimate, estimated
from trials.trial import Estimator

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Itself = TypeVar("Itself", bound="WorkerPool[Any, Any]")

_MOST = 256  # items of a batch
_RESTARTS = 3  # of a worker that dies


class WorkerPool(ABC, Generic[Item, Outcome]):
    """Workers that take items in batches.

    A batch takes about half a second (`seconds`). A worker that dies costs its batch, which other
    workers do again.

    Args:
        new_worker: starts one; its `estimate.remote(items)` gives (seconds, their outcomes).
        workers: how many.
        most: items of a batch.
        end: called with each worker at the end.
    """

    #: that a batch should take
    seconds: ClassVar[float] = 0.5

    def __init__(
        self,
        new_worker: Callable[[], Any],
        workers: int,
        most: int = _MOST,
        end: Callable[[Any], None] = ray.kill,
    ):
        self._new_worker, self._end = new_worker, end
        self._idle = [self._new_worker() for _ in range(workers)]
        self._most = min(_MOST, max(1, most))
        self._deaths: Counter[Item] = Counter()
        self._retried: list[Item] = []
        self._busy: dict[Any, tuple[Any, list[Item]]] = {}
        self._seconds = self.seconds  # of one item, as seen lately

    @abstractmethod
    def given_up(self, item: Item, reason: str) -> Outcome:
        """Return the outcome of an item that several workers have died of."""

    def __enter__(self: Itself) -> Itself:
        return self

    def __exit__(self, *error: object) -> None:
        for actor in (*self._idle, *(actor for actor, _ in self._busy.values())):
            self._end(actor)

    def map(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """Yield the outcomes of all items, as they come."""
        waiting = iter(items)
        yield from self.run(lambda: next(waiting, None))

    def run(self, next_one: Callable[[], Item | None]) -> Iterator[Outcome]:
        """Yield outcomes of what `next_one` gives, until it gives None and nothing is under way.

        While something is under way, None only means that there is nothing just now.
        """
        while True:
            while self._idle:
                batch = self._batch(next_one)
                if not batch:
                    break
                actor = self._idle.pop()
                self._busy[actor.estimate.remote(batch)] = (actor, batch)
            if not self._busy:
                return
            (done, *_), _ = ray.wait(list(self._busy), num_returns=1)
            actor, batch = self._busy.pop(done)
            try:
                seconds, outcomes = ray.get(done)
            except ray.exceptions.RayActorError as error:
                yield from self._give_again(batch, error)
                continue
            self._idle.append(actor)
            self._seconds = max(seconds / len(batch), 1e-6)
            yield from outcomes

    def _batch(self, next_one: Callable[[], Item | None]) -> list[Item]:
        if self._retried:
            return [self._retried.pop()]  # alone, so that it takes no others with it
        batch: list[Item] = []
        size = min(self._most, max(1, int(self.seconds / self._seconds)))
        while len(batch) < size and (item := next_one()) is not None:
            batch.append(item)
        return batch

    def _give_again(self, batch: list[Item], error: Exception) -> Iterator[Outcome]:
        """Start another actor for what a dead one had; give up what has killed several."""
        self._idle.append(self._new_worker())
        for item in batch:
            self._deaths[item] += 1
            if self._deaths[item] > _RESTARTS:
                yield self.given_up(item, f"worker died: {error}")
            else:
                self._retried.append(item)


class Pool(WorkerPool[Architecture, Estimate]):
    """Workers that estimate architectures."""

    def given_up(self, item: Architecture, reason: str) -> Estimate:
        """See `WorkerPool`."""
        return Estimate(item, None, reason)


class EstimatorPool(Pool):
    """Actors that hold an estimator.

    Args:
        estimator: what they do.
        space: of the architectures.
        data: in the object store.
        seed: of the estimator.
        actors: how many.
        cpus: of each.
        gpus: of each.
        most: architectures of a batch.
    """

    def __init__(
        self, estimator: Estimator, space: SearchSpace, data: "ray.ObjectRef[Data]", seed: int,
        actors: int, cpus: float = 1, gpus: float = 0, most: int = _MOST,
    ):  # fmt: skip
        actor: Any = ray.remote(_EstimatorActor).options(num_cpus=cpus, num_gpus=gpus)
        threads = max(1, int(cpus))
        super().__init__(lambda: actor.remote(estimator, space, data, seed, threads), actors, most)


class _EstimatorActor:
    """Holds an estimator that is ready."""

    def __init__(
        self,
        estimator: Estimator,
        space: SearchSpace,
        data: Data,
        seed: int,
        threads: int,
    ):
        device = prepare_process(threads)
        self.estimate_one = estimator.open(space, data, seed, device)

    def estimate(self, archs: list[Architecture]) -> tuple[float, list[Estimate]]:
        """Return (seconds, what came of each)."""
        start = time.perf_counter()
        estimates = [estimated(self.estimate_one, arch) for arch in archs]
        return time.perf_counter() - start, estimates
