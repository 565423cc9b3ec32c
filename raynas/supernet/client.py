"""The supernet's actor as any process of the cluster sees it, and how it is started."""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ray

from raynas.errors import DeadlineExceeded, RaynasError
from raynas.record.folder import RunFolder
from raynas.supernet.actor import MOST, NAMESPACE, Replica, Setting, SupernetActor
from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.estimate import Estimate
from trials.places import make_folder
from trials.weight_sharing.children import Children
from trials.weight_sharing.evaluator import WeightSharing

_CALLERS = 10_000  # that may wait at the same time
_GRACE_SECONDS = 1.0


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
        """Return the handle of the actor."""
        return ray.get_actor(self.name, NAMESPACE)

    def train_epoch(self, group: int, epoch: int) -> dict[str, float]:
        """See `SupernetActor`."""
        return _answer(self.actor.train_epoch.remote(group, epoch), None)  # type: ignore[no-any-return]

    def evaluate(
        self, archs: Sequence[Architecture], deadline: float | None = None
    ) -> list[dict[str, float]]:
        """Return `val_accuracy`, `val_loss` and more of architectures, with the shared weights.

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


@contextmanager
def shared_supernet(
    recipe: WeightSharing,
    space: SearchSpace,
    data: "ray.ObjectRef[Data]",
    seed: int,
    folder: RunFolder,
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
        folder: of the run; checkpoints and rankings are in its `supernet/`.
        cpus: CPU cores of each process.
        gpus: GPUs of each process.
        most: architectures that are judged together.
    """
    make_folder(folder.supernet)
    groups = len(Children(space, recipe.groups, recipe.grouping, recipe.canonical))
    name = f"supernet-{uuid.uuid4().hex[:12]}"
    options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": -1}
    setting = Setting(recipe, space, data, seed, folder, max(1, int(cpus)))
    names = [f"{name}-replica-{i}" for i in range(recipe.replicas)]
    front: Any = ray.remote(SupernetActor).options(
        name=name, namespace=NAMESPACE, max_concurrency=_CALLERS, **options
    )
    actors = [front.remote(setting, names, most)]  # before the replicas, so that it has a place
    for other in names:
        replica: Any = ray.remote(Replica).options(
            name=other, namespace=NAMESPACE, **{**options, "max_task_retries": 0}
        )
        actors.append(replica.remote(setting))
    try:
        yield SharedSupernet(name, groups, recipe.replicas)
    finally:
        for actor in actors:
            ray.kill(actor)


def _answer(reference: Any, deadline: float | None) -> Any:
    """Return what an actor answers; raise its own errors as they are."""
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
