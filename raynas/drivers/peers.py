"""The processes of a trial: the one that reports and saves, and its peers, which share the work.

The peers are actors of the first one's own, and end with it. In a Tune trial they take the other
bundles of its placement group, else what the cluster has. They are kept from trial to trial.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raynas.cluster import Resources, prepare_process
from raynas.errors import StorageError
from raynas.record.checkpoints import Checkpoint
from trials.data import Data
from trials.places import as_os_errors
from trials.trial import Trial
from trials.workers import PATIENCE, is_lost_connection, join, leave, listen

AnyTrial = TypeVar("AnyTrial", bound=Trial)
T = TypeVar("T")

#: makes a trial of the data, on a device
Make = Callable[[Data, torch.device], Trial]

_PATIENCE = PATIENCE.total_seconds()
_DEATHS = 3  # of peers, before a trial fails
_OUTCOMES = 30.0  # seconds for peers to say what became of them, when one is gone


class WorkerDied(Exception):
    """A process of a trial is gone, or no longer answers."""


class Team:
    """Runs one trial after another, each in as many processes as its resources say.

    Args:
        resources: of a trial.
        threads: of each process.
        data: reference to the data.

    Attributes:
        data: what is referred to.
        device: of this process.
        trial: that was begun last; None: there is none, or it could not be made.
    """

    def __init__(self, resources: Resources, threads: int, data: "ray.ObjectRef[Data]"):
        self.data: Data = ray.get(data)
        self.device = prepare_process(threads)
        self.trial: Trial | None = None
        self._resources, self._threads, self._reference = resources, threads, data
        self._peers: list[Any] = []
        self._deaths = 0

    def begin(self, make: Make, path: Path) -> list[dict[str, float]]:
        """Make a trial in every process; return the metrics of the epochs that it has done.

        Args:
            make: makes the trial.
            path: of the file from which it goes on, see `begun`.

        Raises:
            WorkerDied: when peers have died three times.
            Exception: whatever the trial raises, in any of the processes.
        """
        self._make, self._path, self._deaths = make, path, 0
        return self._begin()

    def step(self) -> dict[str, float]:
        """Run the next epoch of the trial; return its metrics.

        Where a peer dies, the trial goes on from its file, with others.

        Raises:
            WorkerDied: when peers have died three times.
            Exception: whatever the trial raises, in any of the processes.
        """
        assert self.trial is not None
        if self._alone:
            return self.trial.step()
        wanted = self.trial.epoch + 1
        while True:
            try:
                stepping = [peer.step.remote() for peer in self._peers]
                metrics, _ = self._together(self.trial.step, stepping)
                if self.trial.epoch >= wanted:
                    return metrics
            except WorkerDied as error:
                self._count(error)
                self._begin()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the trial, which is the same in all processes."""
        assert self.trial is not None
        return self.trial.state_dict()

    def free(self) -> None:
        """Forget the trial, and give back the memory of the device."""
        self.trial = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def dismiss(self) -> None:
        """End the peers; the next trial has others."""
        peers, self._peers = self._peers, []
        for peer in peers:
            ray.kill(peer)
        leave()

    @property
    def _alone(self) -> bool:
        return self._resources.workers == 1

    def _begin(self) -> list[dict[str, float]]:
        while True:
            self.free()
            try:
                if not (self._alone or self._peers):
                    self._gather()
                self.trial, history = begun(
                    lambda: self._make(self.data, self.device), self._path, self.device
                )
                path = self._path if history else None
                beginning = [peer.begin.remote(self._make, path) for peer in self._peers]
                _, epochs = self._together(lambda: None, beginning)
            except WorkerDied as error:
                self._count(error)
                continue
            if any(epoch != self.trial.epoch for epoch in epochs):
                raise StorageError(
                    f"{self._path} is not the same on all nodes: storage_path must be a folder"
                    " that they share."
                )
            return history

    def _gather(self) -> None:
        """Start the peers, and open the group with them."""
        count = self._resources.workers
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._peers = [self._peer(rank) for rank in range(1, count)]
        # Only when all of them are there: the first would wait in vain for one that died.
        starting = [peer.ready.remote() for peer in self._peers]
        self._together(lambda: None, starting, patience=None)
        store = listen(address, count)
        joining = [
            peer.join.remote((address, store.port), rank, count)
            for rank, peer in enumerate(self._peers, start=1)
        ]
        self._together(lambda: join(store, 0, count, self.device), joining)

    def _peer(self, rank: int) -> Any:
        """Start one peer, in its bundle of the trial's placement group where there is one."""
        group = ray.util.get_current_placement_group()
        place: Any = None if group is None else PlacementGroupSchedulingStrategy(group, rank)
        actor: Any = ray.remote(_Peer).options(
            num_cpus=self._resources.cpus, num_gpus=self._resources.gpus, scheduling_strategy=place
        )
        return actor.remote(self._threads, self._reference)

    def _together(
        self,
        own: Callable[[], T],
        started: Sequence[Any],
        patience: float | None = _PATIENCE,
    ) -> tuple[T, list[Any]]:
        """Do this process's part while peers do theirs; return what it and what they returned.

        Where that fails, no peer is left: one that is fine would wait for the others.

        Args:
            own: this process's part.
            started: references to what peers return.
            patience: seconds until they have, after this process; None: any number.

        Raises:
            WorkerDied: when a peer is gone.
            Exception: of the trial, in this process or a peer.
        """
        try:
            return own(), ray.get(started, timeout=patience)
        except Exception as error:
            cause = _cause(error, started)
            self.dismiss()
            if cause is error:
                raise
            raise cause from error

    def _count(self, death: WorkerDied) -> None:
        self._deaths += 1
        if self._deaths >= _DEATHS:
            raise death


class _Peer:
    """A process that shares the trials of the first one's team."""

    def __init__(self, threads: int, data: Data):
        self.data, self.device = data, prepare_process(threads)
        self.trial: Trial | None = None

    def ready(self) -> None:
        """Return once the process is there."""

    def join(self, store: tuple[str, int], rank: int, count: int) -> None:
        """Open the group with the others."""
        join(store, rank, count, self.device)

    def begin(self, make: Make, path: Path | None) -> int:
        """Make a trial, and go on from a file where there is one; return the epochs done."""
        self.trial = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.trial = make(self.data, self.device)
        if path is not None:
            self.trial.load_state_dict(Checkpoint.load(path, self.device).trial)
        return self.trial.epoch

    def step(self) -> None:
        """Run the next epoch."""
        assert self.trial is not None
        self.trial.step()


def _cause(error: Exception, started: Sequence[Any]) -> Exception:
    """Return why a team failed, from what one of its processes met and what peers have done."""
    told: list[Exception] = [error]
    if _is_about_another(error):
        finished, _ = ray.wait(list(started), num_returns=len(started), timeout=_OUTCOMES)
        for reference in finished:
            try:
                ray.get(reference)
            except Exception as other:
                told.append(other)
    for one in told:
        if not _is_about_another(one):
            return one.cause if isinstance(one, RayTaskError) else one
    return WorkerDied(f"a worker of the trial is gone ({str(told[-1]).splitlines()[0]})")


def _is_about_another(error: Exception) -> bool:
    """Tell whether an error says that some other process is gone, and not what went wrong."""
    if isinstance(error, RayTaskError):
        return is_lost_connection(error.cause)
    return isinstance(error, RayError) or is_lost_connection(error)


def begun(
    make: Callable[[], AnyTrial], path: Path, device: torch.device
) -> tuple[AnyTrial, list[dict[str, float]]]:
    """Return a trial and the metrics of the epochs that it has done, from the state at `path`.

    Where there is none, or what is there is damaged, it is a new trial.

    Args:
        make: makes the trial.
        path: of the file; one that cannot be used is removed.
        device: where the trial runs.
    """
    trial = make()
    try:
        with as_os_errors(path):
            if not path.exists():
                return trial, []
            content = path.read_bytes()
        state = Checkpoint.read(content, device)
        trial.load_state_dict(state.trial)
        return trial, list(state.history)
    except (OSError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception:  # damaged files raise anything
        path.unlink()
    return make(), []
