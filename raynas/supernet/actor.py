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
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from raynas.drivers.batches import Estimate, Pool, estimated
from raynas.drivers.trainable import prepare_process
from raynas.errors import DeadlineExceeded, InvalidArgument, RaynasError, StorageError
from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.weight_sharing.children import Children
from trials.weight_sharing.recipe import SharedWeights, WeightSharing
from trials.weight_sharing.training import SupernetTraining

NAMESPACE = "raynas"
RANKINGS = "rankings.parquet"

MOST = 1024  # architectures that are judged together
_CALLERS = 10_000  # that may wait at the same time
_POLL_SECONDS = 0.02
_GRACE_SECONDS = 1.0
_GATHER_SECONDS = 0.03  # at the most, before requests are taken


@dataclass
class _Request:
    """What one caller asks, and where the answer goes."""

    archs: list[Architecture]
    answer: "asyncio.Future[list[Estimate]]"


@dataclass(frozen=True)
class _Setting:
    """What the processes of a supernet are made from."""

    recipe: WeightSharing
    space: SearchSpace
    #: inside of another argument, so that Ray leaves it where it is
    data: "ray.ObjectRef[Data]"
    seed: int
    folder: Path
    threads: int


class _Judge:
    """Holds the supernets of all groups, with the weights that the run folder has."""

    def __init__(self, setting: _Setting):
        self.threads, self.folder = setting.threads, setting.folder
        device = prepare_process(setting.threads)
        data: Data = ray.get(setting.data)
        self.weights = SharedWeights(setting.recipe, setting.space, data, setting.seed, device)
        for training in self.weights.trainings:
            _load(training, self.folder)

    def judge(self, archs: list[Architecture]) -> list[Estimate]:
        """What comes of architectures: together, or where that fails each for itself."""
        torch.set_num_threads(self.threads)  # of the thread that calls
        try:
            found = self.weights.evaluate(archs)
            return [Estimate(arch, metrics) for arch, metrics in zip(archs, found, strict=True)]
        except Exception:  # out of memory, say
            return [estimated(lambda arch: self.weights.evaluate([arch])[0], a) for a in archs]


class SupernetActor(_Judge):
    """Trains and judges, one thing at a time; requests wait until the training is done.

    Args:
        setting: what it is made from.
        replicas: names of actors that judge as well.
        most: architectures that are judged together.
    """

    def __init__(self, setting: _Setting, replicas: Sequence[str] = (), most: int = MOST):
        super().__init__(setting)
        self._thread = ThreadPoolExecutor(1)  # so that requests are heard during the work
        self._replicas, self._most = replicas, most
        self._waiting: list[_Request] = []
        self._judges: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()

    async def pids(self) -> list[int]:
        """The numbers of this actor's process and of its replicas'."""
        replicas = [ray.get_actor(name, NAMESPACE) for name in self._replicas]
        return [os.getpid(), *(await asyncio.gather(*map(_back, replicas)))]

    async def train_epoch(self, group: int, epoch: int) -> dict[str, float]:
        """The metrics of an epoch, counted from 0, which is trained if it has not been yet."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._train_epoch, group, epoch)

    def _train_epoch(self, group: int, epoch: int) -> dict[str, float]:
        torch.set_num_threads(self.threads)
        training = self.weights.trainings[group]
        while training.epoch <= epoch:
            training.train_epoch()
            _save(training, self.folder)
        if self.weights.trained and self.weights.rankings:
            _write_rankings(self.weights, self.folder / RANKINGS)
        return training.history[epoch]

    async def evaluate(
        self, archs: list[Architecture], until: float | None = None
    ) -> list[Estimate]:
        """What comes of architectures, once the training is done.

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
        """(seconds, what came of each), for a `Pool`."""
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
                found = {estimate.architecture: estimate for estimate in await judged}
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
            _answered(requests, found)

    async def _gather(self) -> None:
        """Wait as long as more requests keep coming, but not for long."""
        count, most = 0, self._most if self._most > 1 else 0
        deadline = time.monotonic() + _GATHER_SECONDS
        while count < len(self._waiting) < most and time.monotonic() < deadline:
            count = len(self._waiting)
            await asyncio.sleep(_GATHER_SECONDS / 30)

    def _taken(self) -> list[_Request]:
        """The next requests for one judge: its share of all whose callers still wait."""
        self._waiting = [request for request in self._waiting if not request.answer.done()]
        count = sum(len(request.archs) for request in self._waiting)
        share = min(self._most, -(-count // len(self._judges)))
        taken: list[_Request] = []
        while self._waiting and (not taken or share >= len(self._waiting[0].archs)):
            taken.append(self._waiting.pop(0))
            share -= len(taken[-1].archs)
        return taken


async def _back(replica: Any) -> int:
    """Wait until a replica is there, for the first time or after it died; its process's number."""
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


class _Replica(_Judge):
    """Judges with the weights that the supernet's actor has published in the run folder."""

    def pid(self) -> int:
        """The number of this process."""
        return os.getpid()

    def judge(self, archs: list[Architecture]) -> list[Estimate]:
        """See `_Judge`."""
        if not self.weights.trained:
            for training in self.weights.trainings:
                _load(training, self.folder)
        if not self.weights.trained:
            raise StorageError(f"{self.folder} does not hold the weights: do all nodes see it?")
        return super().judge(archs)


@dataclass(frozen=True)
class SharedSupernet:
    """The supernet of a run, as any process of the cluster sees it; can be pickled.

    Args:
        name: of the actor.
        groups: number of its supernets.
        replicas: further judges.
    """

    name: str
    groups: int
    replicas: int = 0

    @cached_property
    def actor(self) -> Any:
        """The handle of the actor."""
        return ray.get_actor(self.name, NAMESPACE)

    def train_epoch(self, group: int, epoch: int) -> dict[str, float]:
        """See `SupernetActor`."""
        return _answer(self.actor.train_epoch.remote(group, epoch), None)  # type: ignore[no-any-return]

    def evaluate(
        self, archs: Sequence[Architecture], deadline: float | None = None
    ) -> list[dict[str, float]]:
        """`val_accuracy`, `val_loss` and more of architectures, with the shared weights.

        Waits until the supernet is trained, and while its actor starts again after a crash.

        Args:
            archs: which, at least one.
            deadline: seconds to wait at the most; None: as long as it takes.

        Raises:
            InvalidArgument: when there are none.
            InvalidArchitecture: when one is of another space.
            DeadlineExceeded: when the deadline has passed.
            RaynasError: when one cannot be judged; the message is the reason.
        """
        until = None if deadline is None else time.time() + deadline
        estimates: list[Estimate] = _answer(
            self.actor.evaluate.remote(list(archs), until), deadline
        )
        for estimate in estimates:
            if estimate.metrics is None:
                raise RaynasError(f"{estimate.architecture}: {estimate.reason}")
        return [dict(estimate.metrics or {}) for estimate in estimates]

    def pool(self, most: int) -> Pool:
        """Judges for a search: as many batches at a time as there are, and one that waits."""
        return Pool(lambda: self.actor, 2 + self.replicas, most, end=lambda _: None)


@contextmanager
def shared_supernet(
    recipe: WeightSharing,
    space: SearchSpace,
    data: "ray.ObjectRef[Data]",
    seed: int,
    folder: Path,
    cpus: float = 1,
    gpus: float = 0,
    most: int = MOST,
) -> Iterator[SharedSupernet]:
    """Start the actor of a supernet and its replicas; they end with the context.

    Args:
        recipe: how it is trained.
        space: of the architectures.
        data: what with, in the object store.
        seed: of everything.
        folder: for checkpoints and rankings; all nodes must see it.
        cpus: CPU cores of each process.
        gpus: GPUs of each process.
        most: architectures that are judged together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = len(Children(space, recipe.groups, recipe.grouping, recipe.canonical))
    name = f"supernet-{uuid.uuid4().hex[:12]}"
    options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": -1}
    setting = _Setting(recipe, space, data, seed, folder, max(1, int(cpus)))
    names = [f"{name}-replica-{i}" for i in range(recipe.replicas)]
    front: Any = ray.remote(SupernetActor).options(
        name=name, namespace=NAMESPACE, max_concurrency=_CALLERS, **options
    )
    actors = [front.remote(setting, names, most)]  # before the replicas, so that it has a place
    for other in names:
        replica: Any = ray.remote(_Replica).options(
            name=other, namespace=NAMESPACE, **{**options, "max_task_retries": 0}
        )
        actors.append(replica.remote(setting))
    try:
        yield SharedSupernet(name, groups, recipe.replicas)
    finally:
        for actor in actors:
            ray.kill(actor)


def _answer(reference: Any, deadline: float | None) -> Any:
    """What an actor answers; its own errors as they are."""
    try:
        # The actor says first that the time is over, if it is there at all.
        return ray.get(reference, timeout=None if deadline is None else deadline + _GRACE_SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise DeadlineExceeded(f"deadline={deadline}: the supernet has not answered.") from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from None
        raise
    except ray.exceptions.ActorDiedError as error:
        raise RaynasError(f"The supernet's actor is gone: {error}") from error


def _path(training: SupernetTraining, folder: Path) -> Path:
    return folder / f"{training.group:03d}.pt"


def _save(training: SupernetTraining, folder: Path) -> None:
    path = _path(training, folder)
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        torch.save(training.state_dict(), partial)
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from error


def _load(training: SupernetTraining, folder: Path) -> None:
    """Go on from the last checkpoint; one that cannot be read counts as none."""
    path = _path(training, folder)
    if not path.exists():
        return
    before = copy.deepcopy(training.state_dict())
    try:
        state = torch.load(path, map_location=training.device, weights_only=True)
        training.load_state_dict(state)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception:  # damaged files raise anything
        training.load_state_dict(before)


def _write_rankings(weights: SharedWeights, path: Path) -> None:
    names = ("kind", "offset", "architecture", "accuracy")
    columns = map(list, zip(*weights.rankings, strict=True))
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), partial)
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from error
