"""Scores of architectures without training, on actors all over the cluster."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from rich.console import Console
from rich.progress import Progress

import search_spaces
from raynas.cluster import connected, slots
from raynas.config.description import described, function_text
from raynas.drivers.pools import EstimatorPool
from raynas.errors import ConfigurationMismatch, InvalidArgument
from raynas.record.folder import write
from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.data import load as load_data
from trials.estimate import Estimate
from trials.proxies import Score, proxy_name
from trials.proxies.scoring import Proxy, Scorer
from trials.trial import Estimator, derived_seed

_SAVE_SECONDS = 5.0


def _only_counts(proxy: Proxy, space: SearchSpace) -> bool:
    """Return whether a proxy needs neither a network nor a worker."""
    return proxy.proxy in ("params", "macs") and space.counts_fast


def scores(
    space: SearchSpace,
    proxy: Proxy,
    archs: list[Architecture],
    data: Data,
    seed: int,
    make_pool: Callable[[Estimator], EstimatorPool],
) -> Iterator[Estimate]:
    """Yield the scores of architectures, as they come."""
    if _only_counts(proxy, space):
        estimate = proxy.open(space, data, seed, torch.device("cpu"))
        yield from (Estimate(arch, estimate(arch)) for arch in archs)
    elif archs:
        with make_pool(proxy) as pool:
            yield from pool.map(archs)


def score(
    space: SearchSpace | str = "nasbench201",
    data: object = "digits",
    architectures: int | Sequence[Architecture | str] = 100,
    proxy: str | Score = "naswot",
    batch_size: int = 128,
    seed: int = 0,
    cpus_per_actor: float = 1,
    gpus_per_actor: float | None = None,
    path: str | Path | None = None,
) -> pd.DataFrame:
    """Score architectures without training, on the whole cluster.

    Architectures that compute the same function are scored once.

    Args:
        space: the search space, or its name.
        data: the data set, or its name; one mini-batch of the training part is used.
        architectures: which; a number: as many different ones, drawn uniformly.
        proxy: `naswot` or any other of `trials.proxies.PROXIES`, or a function of the user's own
            (network, images, labels), which is called what it is called.
        batch_size: images of the mini-batch.
        seed: of weights, mini-batch and draws.
        cpus_per_actor: CPU cores of one actor.
        gpus_per_actor: its GPUs; None: 1 when the cluster has any.
        path: a Parquet file. What is in it already is not scored again, and what has been
            scored is in it also when the call is interrupted.

    Returns:
        `architecture`, the score in a column named after the proxy (minus infinity where a
        network cannot be ranked, NaN where it failed) and `reason` (of a failure), in the order
        asked for.

    Raises:
        InvalidArgument: for a wrong argument, before anything starts.
        ConfigurationMismatch: when `path` holds scores of another kind.
    """
    space = search_spaces.get(space) if isinstance(space, str) else space
    if not isinstance(space, SearchSpace):
        raise InvalidArgument(f"space={space!r} is neither a name nor a SearchSpace.")
    if path is not None and not Path(path).parent.is_dir():
        raise InvalidArgument(f"path={str(path)!r}: the folder does not exist.")
    loaded = load_data(data, seed=seed)
    Scorer(space, loaded, proxy, batch_size)  # complains before anything starts
    estimator, name = Proxy(proxy, batch_size), proxy_name(proxy)
    archs = _chosen(space, architectures, seed)
    kind = {
        "proxy": proxy if isinstance(proxy, str) else function_text(proxy),
        "batch_size": batch_size,
        "space": described(space, search_spaces.SPACES),
        "data": loaded.fingerprint,
        "seed": seed,
    }
    rows = _read(None if path is None else Path(path), kind)
    forms = dict.fromkeys(space.canonical(arch) for arch in archs)
    missing = [
        form for form in forms if rows.get(space.to_string(form), {"reason": "none yet"})["reason"]
    ]

    def make_pool(estimator: Estimator) -> EstimatorPool:
        gpus, held = slots(cpus_per_actor, gpus_per_actor)
        actors = min(held, len(missing))
        return EstimatorPool(estimator, space, ray.put(loaded), seed, actors, cpus_per_actor, gpus)

    book = _Book(None if path is None else Path(path), kind, rows)
    with contextlib.ExitStack() as stack:
        if not _only_counts(estimator, space):
            stack.enter_context(connected())
        stack.enter_context(book)
        estimates = scores(space, estimator, missing, loaded, seed, make_pool)
        for estimate in _shown(estimates, len(missing), f"scoring by {name}"):
            book.add(space.to_string(estimate.architecture), estimate, name)
    asked = [rows[space.to_string(space.canonical(arch))] for arch in archs]
    frame = pd.DataFrame(asked, columns=["architecture", name, "reason"])
    frame["architecture"] = [space.to_string(arch) for arch in archs]
    return frame


class _Book:
    """The scores so far, in a file that is written every few seconds and at the end."""

    def __init__(self, path: Path | None, kind: dict[str, Any], rows: dict[str, dict[str, Any]]):
        self.path, self.kind, self.rows = path, kind, rows
        self._saved = time.monotonic()

    def add(self, text: str, estimate: Estimate, proxy: str) -> None:
        """Record what came of an architecture."""
        value = math.nan if estimate.metrics is None else estimate.metrics[proxy]
        self.rows[text] = {"architecture": text, proxy: value, "reason": estimate.reason}
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self._save()

    def __enter__(self) -> "_Book":
        return self

    def __exit__(self, *error: object) -> None:
        self._save()

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self.path is None or not self.rows:
            return
        table = pa.Table.from_pylist(list(self.rows.values()))
        table = table.replace_schema_metadata({"raynas": json.dumps(self.kind)})
        write(self.path, lambda partial: pq.write_table(table, partial))


def _read(path: Path | None, kind: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return {architecture: row} of the scores that a file holds."""
    if path is None or not path.exists():
        return {}
    try:
        table = pq.read_table(path)
        then = json.loads((table.schema.metadata or {}).get(b"raynas", b"{}"))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"path={str(path)!r} is no file of scores: {error}") from None
    if then != kind:
        differ = [f"{k} was {then.get(k)!r}, is {v!r}" for k, v in kind.items() if then.get(k) != v]
        raise ConfigurationMismatch(
            f"path={str(path)!r} holds other scores: {'; '.join(differ)}. Choose another file."
        )
    return {row["architecture"]: row for row in table.to_pylist()}


def _chosen(
    space: SearchSpace, architectures: int | Sequence[Architecture | str], seed: int
) -> list[Architecture]:
    if not isinstance(architectures, int | np.integer):
        chosen = [space.from_string(a) if isinstance(a, str) else a for a in architectures]
        if not chosen:
            raise InvalidArgument("architectures: none are given.")
        return [space.check(arch) for arch in chosen]
    if architectures < 1:
        raise InvalidArgument(f"architectures={architectures} must be at least 1.")
    rng = np.random.default_rng(derived_seed(seed))
    drawn: dict[Architecture, Architecture] = {}
    for _ in range(20 * architectures):
        arch = space.sample(rng)
        drawn.setdefault(space.canonical(arch), arch)
        if len(drawn) == architectures:
            break
    return list(drawn.values())


def _shown(estimates: Iterator[Estimate], number: int, label: str) -> Iterator[Estimate]:
    """Yield the same, with a bar on a terminal."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=number)
        for estimate in estimates:
            yield estimate
            progress.advance(task)
