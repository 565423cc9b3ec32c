"""Ray: connecting to it, what it can hold, how it is kept quiet, and how its workers begin."""

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import ray
import torch

from raynas.errors import InvalidArgument, RaynasError, Terminated

_PROBE_SECONDS = 5.0  # for an answer from the cluster

#: Set where the user has not: idle threads sleep instead of spinning (otherwise two processes on
#: one core slow each other down tenfold), workers are as urgent as other processes, Tune writes
#: none of its own logs, tables and snapshots, and at the end waits no ten minutes for an epoch.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "100000",
}


@dataclass(frozen=True)
class Resources:
    """What a trial may use, and how many run at the same time.

    Attributes:
        cpus: CPU cores of one process of a trial.
        gpus: GPUs of one, likewise.
        held: trials that the cluster holds at the same time.
        concurrent: trials that run at the same time; more would wait for each other.
        workers: processes of one trial, which may be on several nodes.
    """

    cpus: float
    gpus: float
    held: int
    concurrent: int
    workers: int = 1

    @property
    def threads(self) -> int:
        """Return the threads of one process."""
        return max(1, int(self.cpus))

    @property
    def of_trial(self) -> tuple[float, float]:
        """Return the cores and the GPUs of all processes of a trial."""
        return self.cpus * self.workers, self.gpus * self.workers


@contextmanager
def connected() -> Iterator[None]:
    """Use the Ray that is there: this process's, the cluster's, or one started for the while.

    Raises:
        RaynasError: when there is a cluster that cannot be reached, or none can be started.
    """
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    if ray.is_initialized():
        yield
        return
    _start()
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM, which machines get before they are taken away, end a run as Ctrl-C does.

    Raises:
        Terminated: once what was at work has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only there are signals handled
        return
    terminated = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        interrupt = signal.getsignal(signal.SIGINT)  # Tune has its own while it runs
        if not callable(interrupt):  # ignored in the background of a shell
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    except KeyboardInterrupt:
        if terminated:
            raise Terminated from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _start() -> None:
    """Start Ray, or reach the cluster; once more where that took too long, as on a busy machine."""
    _check_reachable(os.environ.get("RAY_ADDRESS", ""))
    for again in (True, False):
        words: list[str] = []
        try:
            with _rays_own_words(words):
                ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
            return
        except ConnectionError as error:
            token = (
                "It wants the token that it was started with: set RAY_AUTH_MODE=token and the same"
                " RAY_AUTH_TOKEN here."
                if any("InvalidAuthToken" in said for said in words)
                else "Is RAY_ADDRESS right? RAY_ADDRESS=local starts one here instead."
            )
            raise RaynasError(f"The Ray cluster cannot be reached: {error}. {token}") from error
        except Exception as error:  # Ray has no types of its own for these
            if "ersion mismatch" in str(error):
                raise RaynasError(
                    "The Ray cluster has other versions than this process, and the two must be the"
                    f" same. {' '.join(str(error).split())}. Install those of the cluster here, or"
                    " these on all its nodes; RAY_ADDRESS=local starts a cluster here instead."
                ) from error
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if not again:
                raise RaynasError(
                    "Ray did not start on this machine in time, tried twice: it is too busy, or"
                    " short of memory. Try again when it is not, or use a cluster: RAY_ADDRESS."
                ) from error


def _check_reachable(address: str) -> None:
    """Refuse an address where nobody listens, for which Ray would wait for minutes.

    Args:
        address: `host:port`; others, such as `auto` and `ray://host:port`, are left to Ray.

    Raises:
        RaynasError: when there is no connection.
    """
    host, _, port = address.rpartition(":")
    if not host or "://" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RaynasError(
            f"The Ray cluster cannot be reached: nobody answers at {address} ({error}). Is"
            " RAY_ADDRESS right? RAY_ADDRESS=local starts one here instead."
        ) from error


@contextmanager
def _rays_own_words(words: list[str]) -> Iterator[None]:
    """Keep what Ray's libraries print while it starts from the user, who gets one sentence.

    They write to the file of standard error themselves, a warning a second for half a minute.

    Args:
        words: takes them.
    """
    with tempfile.TemporaryFile() as file:
        standard_error = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
            file.seek(0)
            words.append(file.read().decode(errors="replace"))


def slots(cpus: float, gpus: float | None, workers: int = 1) -> tuple[float, int]:
    """Return (GPUs of one process, number of trials that the cluster holds at the same time).

    Args:
        cpus: CPU cores of one process.
        gpus: GPUs of one process; None: 1 when the cluster has any.
        workers: processes of one trial, each of which fits on a node of its own.

    Raises:
        InvalidArgument: when not even one trial fits, or several processes would share a GPU.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    for argument, key, amount in (("gpus_per_trial", "GPU", gpus), ("cpus_per_trial", "CPU", cpus)):
        largest = max((node.get(key, 0) for node in nodes), default=0)
        if amount > largest:
            raise InvalidArgument(
                f"{argument}={amount:g}: the largest node of the cluster has {largest:g} {key}s,"
                f" all nodes together {sum(node.get(key, 0) for node in nodes):g}."
            )
    held = sum(_held(node, cpus, gpus) for node in nodes)
    if held == 0:
        raise InvalidArgument(
            f"cpus_per_trial={cpus:g} and gpus_per_trial={gpus:g}: no node has both."
        )
    if workers > 1 and gpus % 1:
        raise InvalidArgument(
            f"gpus_per_trial={gpus:g}: trials of {workers} workers need whole GPUs for each."
        )
    if held < workers:
        raise InvalidArgument(
            f"{workers} workers of one training (workers_per_trial, retrain_workers) with"
            f" cpus_per_trial={cpus:g} and gpus_per_trial={gpus:g} each: the cluster holds {held}."
        )
    return gpus, held // workers


def largest_node(gpus: float = 0.0) -> int:
    """Return the CPU cores of the largest node that has so many GPUs."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cores = [node.get("CPU", 0) for node in nodes if node.get("GPU", 0) >= gpus]
    return int(max(cores, default=1)) or 1


def _held(node: dict[str, Any], cpus: float, gpus: float) -> int:
    shares = [node.get("CPU", 0) / cpus] + ([node.get("GPU", 0) / gpus] if gpus else [])
    return int(min(shares) + 1e-6)  # 1 / 0.2 may be a little less than 5


def prepare_process(threads: int) -> torch.device:
    """Make this worker use its share of the machine and repeatable kernels; return its device."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda" if ray.get_gpu_ids() else "cpu")


def reason_of(error: Exception) -> str:
    """Return an error as the journal has it."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return f"out of memory: {error}"
    return f"{type(error).__name__}: {error}"


def resources(
    cpus: float, gpus: float | None, concurrent: int | None, workers: int = 1
) -> Resources:
    """Return what trials may use.

    Args:
        cpus: CPU cores of one process.
        gpus: GPUs of one process; None: 1 when the cluster has any.
        concurrent: trials at the same time; None: as many as the cluster holds.
        workers: processes of one trial.

    Raises:
        InvalidArgument: when not even one trial fits on any node.
    """
    gpus, held = slots(cpus, gpus, workers)
    return Resources(cpus, gpus, held, min(concurrent or held, held), workers)
