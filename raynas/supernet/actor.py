"""The shared supernet of a run: one named actor that trains it, and judges architectures with it.

It is made outside of Tune. Its checkpoints are in the run folder, `supernet/<group>.pt`, so that
after a crash, its own or the driver's, it goes on from the last epoch; Ray starts it again and
repeats what it was asked, so callers only wait. Any process of the cluster may ask it; what
several ask at the same time is answered together. Replicas, on other GPUs or nodes, judge with the
weights that it has published, and share its queue.
"""

import asyncio
import copy
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from raynas.cluster import prepare_process
from raynas.errors import DeadlineExceeded, InvalidArgument, StorageError
from raynas.record.checkpoints import load_state, save_state
from raynas.record.folder import RunFolder, write
from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.estimate import Estimate, estimated
from trials.weight_sharing.evaluator import WeightSharing
from trials.weight_sharing.shared_weights import SharedWeights
from trials.weight_sharing.training import SupernetTraining

NAMESPACE = "raynas"
MOST = 1024  # architectures that are judged together
_POLL_SECONDS = 0.02
_GATHER_SECONDS = 0.03  # at the most, before requests are taken


@dataclass
class _Request:
    """What one caller asks, and where the answer goes."""

    archs: list[Architecture]
    answer: "asyncio.Future[list[Estimate]]"


@dataclass(frozen=True)
class Setting:
    """What the processes of a supernet are made from."""

    recipe: WeightSharing
    space: SearchSpace
    #: inside of another argument, so that Ray leaves it where it is
    data: "ray.ObjectRef[Data]"
    seed: int
    folder: RunFolder
    threads: int


class _Judge:
    """Holds the supernets of all groups, with the weights that the run folder has."""

    def __init__(self, setting: Setting):
        self.threads, self.folder = setting.threads, setting.folder
        device = prepare_process(setting.threads)
        data: Data = ray.get(setting.data)
        self.weights = SharedWeights(setting.recipe, setting.space, data, setting.seed, device)
        for training in self.weights.trainings:
            _load(training, self.folder)

    def judge(self, archs: list[Architecture]) -> list[Estimate]:
        """Return what comes of architectures: together, or where that fails each for itself."""
        torch.set_num_threads(self.threads)  # of the thread that calls
        try:
            metrics = self.weights.evaluate(archs)
            return [Estimate(arch, own) for arch, own in zip(archs, metrics, strict=True)]
        except Exception:  # out of memory, say
            return [estimated(lambda arch: self.weights.evaluate([arch])[0], a) for a in archs]


class SupernetActor(_Judge):
    """Trains and judges, one thing at a time; requests wait until the training is done.

    Args:
        setting: what it is made from.
        replicas: names of actors that judge as well.
        most: architectures that are judged together.
    """

    def __init__(self, setting: Setting, replicas: Sequence[str] = (), most: int = MOST):
        super().__init__(setting)
        self._thread = ThreadPoolExecutor(1)  # so that requests are heard during the work
        self._replicas, self._most = replicas, most
        self._waiting: list[_Request] = []
        self._judges: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()

    async def pids(self) -> list[int]:
        """Return the numbers of this actor's process and of its replicas'."""
        replicas = [ray.get_actor(name, NAMESPACE) for name in self._replicas]
        return [os.getpid(), *(await asyncio.gather(*map(_back, replicas)))]

    async def train_epoch(self, group: int, epoch: int) -> dict[str, float]:
        """Return the metrics of an epoch, counted from 0; train it if it has not been yet."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._train_epoch, group, epoch)

    def _train_epoch(self, group: int, epoch: int) -> dict[str, float]:
        torch.set_num_threads(self.threads)
        training = self.weights.trainings[group]
        while training.epoch <= epoch:
            training.train_epoch()
            _save(training, self.folder)
        if self.weights.trained and self.weights.rankings:
            _write_rankings(self.weights, self.folder.rankings)
        return training.history[epoch]

    async def evaluate(
        self, archs: list[Architecture], until: float | None = None
    ) -> list[Estimate]:
        """Return what comes of architectures, once the training is done.

        Args:
            archs: which.
            until: when the caller stops waiting, in seconds since 1970.

        Raises:
            InvalidArgument: when there are none.
            InvalidArchitecture: when one is of another space.
            DeadlineExceeded: when the time is over.
        """
        if not archs:
            raise InvalidArgument("architectures: none are given.")
        for arch in archs:
            self.weights.space.check(arch)
        while not self.weights.trained:
            if until is not None and time.time() > until:
                raise DeadlineExceeded("The deadline has passed; the supernet is in training.")
            await asyncio.sleep(_POLL_SECONDS)
        if not self._judges:
            serving = [self._serve(None), *map(self._serve, self._replicas)]
            self._judges = [asyncio.create_task(one) for one in serving]
        request = _Request(archs, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._news.set()
        try:
            return await asyncio.wait_for(
                request.answer, None if until is None else until - time.time()
            )
        except TimeoutError:
            raise DeadlineExceeded(
                f"The deadline has passed; {len(archs)} architectures have not been judged."
            ) from None

    async def estimate(self, archs: list[Architecture]) -> tuple[float, list[Estimate]]:
        """Return (seconds, what came of each), for a `Pool`."""
        start = time.perf_counter()
        estimates = await self.evaluate(archs)
        return time.perf_counter() - start, estimates

    async def _judge_here(self, archs: list[Architecture]) -> list[Estimate]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.judge, archs)

    async def _serve(self, name: str | None) -> None:
        """Let a replica (None: this actor) answer what waits, as much at a time as it may have.

        What a replica cannot answer waits again, for another judge; one that died takes part
        again when it is back, one that cannot judge does not.
        """
        replica = None if name is None else ray.get_actor(name, NAMESPACE)
        if replica is not None:
            await _back(replica)  # it may have no place yet
        while True:
            await self._news.wait()
            await self._gather()
            requests = self._taken()
            if not requests:
                self._news.clear()
                continue
            archs = list(dict.fromkeys(arch for request in requests for arch in request.archs))
            try:
                judged = self._judge_here(archs) if replica is None else replica.judge.remote(archs)
                answers = {estimate.architecture: estimate for estimate in await judged}
            except Exception as error:
                if replica is None:
                    _answered(requests, error)
                    continue
                self._waiting = [*requests, *self._waiting]
                self._news.set()
                if not isinstance(error, ray.exceptions.RayActorError):
                    return
                await _back(replica)
                continue
            _answered(requests, answers)

    async def _gather(self) -> None:
        """Wait as long as more requests keep coming, but not for long."""
        count, most = 0, self._most if self._most > 1 else 0
        deadline = time.monotonic() + _GATHER_SECONDS
        while count < len(self._waiting) < most and time.monotonic() < deadline:
            count = len(self._waiting)
            await asyncio.sleep(_GATHER_SECONDS / 30)

    def _taken(self) -> list[_Request]:
        """Take the next requests for one judge: its share of all whose callers still wait."""
        self._waiting = [request for request in self._waiting if not request.answer.done()]
        count = sum(len(request.archs) for request in self._waiting)
        share = min(self._most, -(-count // len(self._judges)))
        taken: list[_Request] = []
        while self._waiting and (not taken or share >= len(self._waiting[0].archs)):
            taken.append(self._waiting.pop(0))
            share -= len(taken[-1].archs)
        return taken


async def _back(replica: Any) -> int:
    """Wait until a replica is there, at first or after it died; return its process's number."""
    while True:
        try:
            return int(await replica.pid.remote())
        except ray.exceptions.RayActorError:
            await asyncio.sleep(_POLL_SECONDS)


def _answered(
    requests: Sequence[_Request], answers: Mapping[Architecture, Estimate] | Exception
) -> None:
    """Give callers that have not left their answers, or all the same error."""
    for request in requests:
        if request.answer.done():
            continue
        if isinstance(answers, Exception):
            request.answer.set_exception(answers)
        else:
            request.answer.set_result([answers[arch] for arch in request.archs])


class Replica(_Judge):
    """Judges with the weights that the supernet's actor has published in the run folder."""

    def pid(self) -> int:
        """Return the number of this process."""
        return os.getpid()

    def judge(self, archs: list[Architecture]) -> list[Estimate]:
        """See `_Judge`."""
        if not self.weights.trained:
            for training in self.weights.trainings:
                _load(training, self.folder)
        if not self.weights.trained:
            raise StorageError(
                f"{self.folder.supernet} does not hold the weights: do all nodes see it?"
            )
        return super().judge(archs)


def _save(training: SupernetTraining, folder: RunFolder) -> None:
    state = training.state_dict()
    save_state(state, folder.weights(training.group))


def _load(training: SupernetTraining, folder: RunFolder) -> None:
    """Go on from the last checkpoint; one that cannot be read counts as none."""
    path = folder.weights(training.group)
    if not path.exists():
        return
    before = copy.deepcopy(training.state_dict())
    try:
        training.load_state_dict(load_state(path, training.device))
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception:  # damaged files raise anything
        training.load_state_dict(before)


def _write_rankings(weights: SharedWeights, path: Path) -> None:
    import pyarrow as pa  # takes long, and most supernets have no probes
    import pyarrow.parquet as pq

    names = ("kind", "offset", "architecture", "accuracy")
    columns = map(list, zip(*weights.rankings, strict=True))
    table = pa.table(dict(zip(names, columns, strict=True)))
    write(path, lambda partial: pq.write_table(table, partial))
