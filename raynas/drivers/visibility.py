"""Whether all nodes of the cluster see the run folder, asked before the first trial."""

import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raynas.errors import StorageError
from raynas.record.folder import RunFolder, write
from trials.places import as_os_errors, is_local

_SECONDS = 60.0  # for a node to answer; what is too busy is not asked again


def check_visible(folder: RunFolder) -> None:
    """Refuse a run folder that a node of the cluster does not see, or cannot write.

    The driver writes a marker, and a task on each node looks for it. A node that does not answer
    in time is left alone, and one that joins later says so in its first trial.

    Raises:
        StorageError: naming the nodes, and the remedy.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if is_local(folder.path) and len(nodes) < 2:
        return  # the driver's own, which has written here
    token = uuid.uuid4().hex
    marker = folder.journal / f"seen-{token}"
    write(marker, lambda partial: partial.write_text(token))
    try:
        reasons = _asked(nodes, marker, token)
    finally:
        with suppress(OSError), as_os_errors(marker):
            marker.unlink(missing_ok=True)
    if reasons:
        raise StorageError(
            f"The run folder {folder.path} is not there for every node of the cluster:"
            f" {'; '.join(f'{name} {reason}' for name, reason in reasons.items())}. Give a"
            " storage_path that all nodes share under the same name: a network folder, or an object"
            " store (s3://bucket/runs) for which every node has the packages and the credentials."
        )


def _asked(nodes: list[dict[str, Any]], marker: Path, token: str) -> dict[str, str]:
    """Return {node: what it says} of those that cannot use the folder of the marker."""
    waiting = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task: Any = ray.remote(_problem).options(num_cpus=0, scheduling_strategy=there)
        waiting[task.remote(marker, token)] = f"node {node['NodeManagerAddress']}"
    ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=_SECONDS)
    reasons = {}
    for reference in ready:
        with suppress(ray.exceptions.RayError):  # not of the folder: a trial will tell
            if (reason := ray.get(reference)) is not None:
                reasons[waiting[reference]] = reason
    return reasons


def _problem(marker: Path, token: str) -> str | None:
    """Return why this node cannot use the folder in which a marker lies."""
    try:
        with as_os_errors(marker):
            if marker.read_text() != token:
                return "sees another folder under this name"
            own = marker.with_name(f"{marker.name}-{uuid.uuid4().hex}")
            own.write_text("")
            own.unlink()
    except FileNotFoundError:
        return "does not see it"
    except OSError as error:
        return f"cannot use it ({error})"
    return None
