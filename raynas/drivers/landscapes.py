"""The loss surfaces that a run tells: of its winner, of its widest and of its narrowest cells.

Shu, Wang, Cai: Understanding Architectures Learnt by Cell-based NAS (ICLR 2020), section 4.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor

from raynas.drivers.session import Session
from raynas.drivers.surfaces import surface
from raynas.errors import StorageError
from raynas.record.checkpoints import Checkpoint
from raynas.record.events import Status
from raynas.record.folder import write
from raynas.record.results import Result
from raynas.record.table import read_parquet
from trials.trial import derived_seed

#: the columns of the table beside those of `surface`
KEYS = ("network", "evaluation", "epoch")

_IMAGES = 256  # of the test part
_POINTS, _VARIANCE_POINTS = 21, 9  # per axis
_BATCHES = 8  # of those images, between which the gradient varies, at most
_MEASURED = ("x", "y", "loss", "accuracy", "variance", "relative_variance")


@dataclass(frozen=True)
class Network:
    """A trained network of a run.

    Attributes:
        name: what it is: `winner, retrained`, `widest`, `narrowest`.
        evaluation: whose architecture it has.
        epoch: after which its weights were kept.
        load: reads them.
    """

    name: str
    evaluation: int
    epoch: int
    load: Callable[[], Checkpoint]

    def weights(self) -> Mapping[str, Tensor] | None:
        """Return its weights; None where none are left."""
        try:
            return self.load().weights
        except (OSError, StorageError):
            return None

    @property
    def key(self) -> tuple[str, int, int]:
        """Return what tells it from the others."""
        return self.name, self.evaluation, self.epoch


def landscapes(session: Session, path: Path) -> pd.DataFrame:
    """Compute what a file lacks of the surfaces of a run; return them all.

    Args:
        session: of a run whose winner is retrained.
        path: a Parquet file, written after every network.

    Returns:
        One row for each point of each network: `KEYS`, `x`, `y`, `loss`, `accuracy`; on a coarser
        grid, where loss and accuracy are not computed, `variance` and `relative_variance`. What
        has left no weights is left out.

    Raises:
        StorageError: when nothing has left any.
    """
    known = read_parquet(path) if path.exists() else pd.DataFrame(columns=list(KEYS))
    done = set(known[list(KEYS)].itertuples(index=False, name=None))
    wanted = list(networks(session))
    tables = [
        rows
        for key, rows in known.groupby(list(KEYS), sort=False)
        if key in {n.key for n in wanted}
    ]
    for network in wanted:
        if network.key in done:
            continue
        weights = network.weights()
        if weights is None:
            continue
        session.say(f"Loss surface: {network.name}, after {network.epoch} epochs")
        tables.append(_landscape(session, network, weights))
        every = pd.concat(tables, ignore_index=True)
        write(path, every.to_parquet)
    if not tables:
        raise StorageError("checkpoints/ holds no weights of what was trained any more.")
    return pd.concat(tables, ignore_index=True)


def networks(session: Session) -> Iterator[Network]:
    """Yield the networks whose surfaces are worth a look, as far as their weights are there.

    Those are the winner as it was retrained and, of what was trained to the end and kept, the one
    with the widest and the one with the narrowest normal cell, after their last epoch and after
    those whose weights were kept (`snapshots`).
    """
    search, folder = session.search, session.folder
    winner = search.winner
    assert winner is not None
    epochs = len(session.history.retraining[winner.index])
    path = folder.retraining(winner.index)
    yield Network("winner, retrained", winner.index, epochs, lambda: Checkpoint.load(path))
    run, last = Result(folder.path), session.plan.epochs
    for name, index in _extremes(session).items():
        for epoch in sorted({*folder.snapshots(index), last}):
            yield Network(name, index, epoch, lambda i=index, e=epoch: run.snapshot(i, e))  # type: ignore[misc]


def _extremes(session: Session) -> dict[str, int]:
    """Return {name: evaluation} of widest and narrowest; empty where all are as wide."""
    search, space = session.search, session.plan.space
    if not session.plan.evaluator.trains:
        return {}
    widths: dict[int, float] = {}
    gone = session.history.discarded
    for evaluation in search.evaluations:
        if evaluation.index in gone:
            continue
        arch = search.architectures[evaluation.index]
        if evaluation.status is Status.COMPLETED and "normal" in space.cell_graphs(arch):
            widths[evaluation.index] = space.width(arch)
    if len(set(widths.values())) < 2:
        return {}
    return {"widest": max(widths, key=widths.__getitem__),
            "narrowest": min(widths, key=widths.__getitem__)}  # fmt: skip


def _landscape(session: Session, network: Network, weights: Mapping[str, Tensor]) -> pd.DataFrame:
    """Compute the surfaces of one network."""
    plan, resources = session.plan, session.resources
    images = min(_IMAGES, len(plan.data.test))
    batches = min(_BATCHES, images)

    def computed(points: int, number: int) -> pd.DataFrame:
        return surface(
            plan.space, session.search.architectures[network.evaluation], weights, plan.data,
            images=images, points=points, batches=number, batch_size=images // batches,
            seed=derived_seed(session.search.seed), actors=resources.concurrent,
            cpus_per_actor=resources.cpus, gpus_per_actor=resources.gpus,
            progress=lambda done, every: session.say(
                f"Loss surface: {network.name}, {done} of {every} points", important=False
            ),
        )  # fmt: skip

    parts = [computed(_POINTS, 0)]
    if batches > 1:  # of one image there is no variance
        parts.append(computed(_VARIANCE_POINTS, batches).drop(columns=["loss", "accuracy"]))
    table = pd.concat(parts, ignore_index=True).reindex(columns=_MEASURED)
    return table.assign(network=network.name, evaluation=network.evaluation, epoch=network.epoch)
