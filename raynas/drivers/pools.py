"""Cheap evaluations, milliseconds each: in batches, on plain Ray actors all over the cluster.

A Ray Tune trial costs more than such an evaluation takes; so proxies, tables and supernets, whether
asked for by `score`, by a warm start or by a whole search, go this way.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray

from raynas.cluster import prepare_process
from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.estimate import Estimate, estimated
from trials.trial import Estimator

_SECONDS = 0.5  # that a batch should take
_MOST = 256  # architectures of a batch
_RESTARTS = 3  # of a worker that dies


class Pool:
    """Workers that estimate architectures in batches; each batch takes about half a second.

    Args:
        new_worker: starts one; its `estimate.remote(architectures)` gives (seconds, estimates).
        workers: how many.
        most: architectures of a batch.
        end: called with each worker at the end.
    """

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
        self._deaths: Counter[Architecture] = Counter()
        self._retried: list[Architecture] = []
        self._busy: dict[Any, tuple[Any, list[Architecture]]] = {}
        self._seconds = _SECONDS  # of one architecture, as seen lately

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        for actor in (*self._idle, *(actor for actor, _ in self._busy.values())):
            self._end(actor)

    def map(self, archs: Iterable[Architecture]) -> Iterator[Estimate]:
        """Yield the estimates of all architectures, as they come."""
        waiting = iter(archs)
        yield from self.run(lambda: next(waiting, None))

    def run(self, next_one: Callable[[], Architecture | None]) -> Iterator[Estimate]:
        """Yield estimates of what `next_one` gives, until it gives None and nothing is under way.

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
                seconds, estimates = ray.get(done)
            except ray.exceptions.RayActorError as error:
                yield from self._give_again(batch, error)
                continue
            self._idle.append(actor)
            self._seconds = max(seconds / len(batch), 1e-6)
            yield from estimates

    def _batch(self, next_one: Callable[[], Architecture | None]) -> list[Architecture]:
        if self._retried:
            return [self._retried.pop()]  # alone, so that it takes no others with it
        batch: list[Architecture] = []
        size = min(self._most, max(1, int(_SECONDS / self._seconds)))
        while len(batch) < size and (arch := next_one()) is not None:
            batch.append(arch)
        return batch

    def _give_again(self, batch: list[Architecture], error: Exception) -> Iterator[Estimate]:
        """Start another actor for what a dead one had; give up what has killed several."""
        self._idle.append(self._new_worker())
        for arch in batch:
            self._deaths[arch] += 1
            if self._deaths[arch] > _RESTARTS:
                yield Estimate(arch, None, f"worker died: {error}")
            else:
                self._retried.append(arch)


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
