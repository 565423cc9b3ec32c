"""Groups of architectures by a property, and how often a space has each: the strata of a bias."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raynas.errors import InvalidArgument
from raynas.understanding.topology import Population, population, shapes
from search_spaces import Architecture, SearchSpace

JOINT = "width and depth"
_MOST = 12  # strata, of single values; more are joined to classes
_CLASSES = 4
_ENUMERATED = 2_000  # architectures that are counted, at most; else they are drawn
_SLOW = 50  # draws where counting takes a network

_Key = tuple[float, ...]


@dataclass(frozen=True)
class Strata:
    """Architectures, grouped by one property.

    Attributes:
        of: the property: `width`, `depth`, `width and depth` (of the normal cell),
            `reduction_width`, `reduction_depth`, `macs`, `params`.
        labels: of the strata.
        shares: of the strata in the space, under its own uniform draws.
        drawn: number of draws behind the shares; None where they are exact.
        source: where the shares come from, in words.
        members: of each architecture the index of its stratum.
    """

    of: str
    labels: tuple[str, ...]
    shares: NDArray[np.float64]
    drawn: int | None
    source: str
    members: NDArray[np.int64]

    def counts(self, where: Sequence[int] | NDArray[Any] | None = None) -> NDArray[np.int64]:
        """Count the architectures of each stratum.

        Args:
            where: indices of some of the architectures; None: all.
        """
        members = self.members if where is None else self.members[np.asarray(where, np.int64)]
        return np.bincount(members, minlength=len(self.labels))


@dataclass(frozen=True)
class Counted:
    """What `strata` needs to count parameters and MACs.

    Attributes:
        input_shape: (channels, height, width) of the images.
        num_classes: likewise.
        metrics: of each architecture what was measured, used where counting takes a network.
    """

    input_shape: tuple[int, ...]
    num_classes: int
    metrics: Sequence[Mapping[str, float]] = ()


def strata(
    space: SearchSpace, archs: Sequence[Architecture], counted: Counted | None = None
) -> list[Strata]:
    """Group architectures by all properties that tell them apart in a space.

    Those are width, depth and both of the normal cell and, where there is one, of the reduction
    cell. Where the architectures have no cells as graphs, or all cells are alike, they are
    `macs` and `params`, in four classes from the quartiles of the space.

    Args:
        space: of the architectures.
        archs: what to group.
        counted: how to count; None: there is no grouping by `macs` and `params`.

    Raises:
        InvalidArgument: when there is no such property.
    """
    if space.cell_graphs(space.sample(np.random.default_rng(0))):
        groups = list(_of_cells(space, archs))
        if groups:
            return groups
    if counted is None:
        raise InvalidArgument(
            f"space: the architectures of {space.name} have no cells that differ in width or depth,"
            " and the run is not finished, so that the shape of its images, by which macs and"
            " params are counted, is not known. Finish it: raynas resume"
        )
    groups = [
        group for of in ("macs", "params") if (group := _of_counts(of, space, archs, counted))
    ]
    if not groups:
        raise InvalidArgument(f"space: all architectures of {space.name} are of one size.")
    return groups


def _of_cells(space: SearchSpace, archs: Sequence[Architecture]) -> Iterable[Strata]:
    """Yield the groups by width, depth and both, of every cell, where they differ."""
    known = population(space)
    own = [shapes(space, arch) for arch in archs]
    for cell in known.shapes["cell"].unique():
        rows = known.shapes[known.shapes["cell"] == cell]
        prefix = "" if cell == "normal" else f"{cell}_"
        mine = [shape[cell] for shape in own]
        both = dict(zip(zip(rows["width"], rows["depth"], strict=True), rows["share"], strict=True))
        for of, part in ((f"{prefix}width", (0,)), (f"{prefix}depth", (1,)), (JOINT, (0, 1))):
            if of == JOINT and cell != "normal":
                continue
            shares: Counter[_Key] = Counter()
            for shape, share in both.items():
                shares[tuple(float(shape[i]) for i in part)] += share
            keys = [tuple(float(shape[i]) for i in part) for shape in mine]
            group = _grouped(of, shares, keys, known)
            if group is not None:
                yield group


def _grouped(
    of: str, shares: Mapping[_Key, float], keys: Sequence[_Key], known: Population
) -> Strata | None:
    """Group by single values, or, where those are too many, by classes; None: all are alike."""
    values = sorted({*shares, *keys})
    if len(values) < 2 or (of == JOINT and len(values) > 2 * _MOST):
        return None
    share = np.array([shares.get(value, 0.0) for value in values])
    members = np.array([values.index(key) for key in keys], np.int64)
    labels = tuple(_label(of, value) for value in values)
    if len(values) > _MOST and of != JOINT:
        # Of few values, some classes are larger than others.
        classes = np.minimum((np.cumsum(share) - share / 2) * _CLASSES, _CLASSES - 1).astype(int)
        present = np.unique(classes)
        labels = tuple(
            " to ".join(dict.fromkeys([labels[places[0]], labels[places[-1]]]))
            for places in (np.flatnonzero(classes == number) for number in present)
        )
        share = np.array([share[classes == number].sum() for number in present])
        members = np.searchsorted(present, classes[members])
    return Strata(of, labels, share, known.drawn, known.source, members)


def _label(of: str, value: _Key) -> str:
    """Return a value as people write it: `3.5c`, `3`, `3.5c, 3`."""
    if of == JOINT:
        return f"{value[0]:.3g}c, {value[1]:.0f}"
    return f"{value[0]:.3g}c" if of.endswith("width") else f"{value[0]:.0f}"


def _of_counts(
    of: str, space: SearchSpace, archs: Sequence[Architecture], counted: Counted
) -> Strata | None:
    """Group by quartiles of the space; None: there is one class only."""
    shape = (counted.input_shape, counted.num_classes)
    key: tuple[Any, ...] = (of, space, *shape)
    edges, shares, drawn = _quartiles(*key) if isinstance(space, Hashable) else _quartiles_of(*key)
    if len(edges) == 0:
        return None
    measured = counted.metrics if len(counted.metrics) == len(archs) else [{}] * len(archs)
    own = [
        known[of] if of in known and not space.counts_fast else getattr(space, of)(arch, *shape)
        for arch, known in zip(archs, measured, strict=True)
    ]
    labels = [f"below {_short(edges[0])}"]
    labels += [f"{_short(a)} to {_short(b)}" for a, b in pairwise(edges)]
    labels.append(f"from {_short(edges[-1])}")
    source = "exact shares of the space" if drawn is None else (
        f"shares of the space estimated from {drawn:,} uniform draws"
    )  # fmt: skip
    members = np.searchsorted(edges, own, side="right")
    return Strata(of, tuple(labels), np.array(shares), drawn, source, members)


def _quartiles_of(
    of: str, space: SearchSpace, input_shape: tuple[int, ...], num_classes: int
) -> tuple[tuple[float, ...], tuple[float, ...], int | None]:
    """Return (edges between the classes, shares of the classes, draws behind the shares).

    Half of the draws set the edges, the other half gives the shares, so that they are independent.
    """
    measure: Callable[..., int] = getattr(space, of)
    if space.size <= (_ENUMERATED if space.counts_fast else _SLOW):
        first = second = [measure(arch, input_shape, num_classes) for arch in space]
    else:
        rng = np.random.default_rng(0)
        drawn = (space.sample(rng) for _ in range(_ENUMERATED if space.counts_fast else _SLOW))
        values = (measure(arch, input_shape, num_classes) for arch in drawn)
        first = list(islice(values, (_ENUMERATED if space.counts_fast else _SLOW) // 2))
        second = list(values)
    cuts = np.quantile(first, np.arange(1, _CLASSES) / _CLASSES, method="higher")
    edges = tuple(float(edge) for edge in np.unique(cuts) if edge > min(first))
    classes = np.searchsorted(edges, second, side="right")
    shares = np.bincount(classes, minlength=len(edges) + 1) / len(second)
    return edges, tuple(shares.tolist()), None if first is second else len(second)


_quartiles = lru_cache(maxsize=32)(_quartiles_of)


def _short(number: float) -> str:
    """Return a count in short: 12.3k, 4.56M."""
    power = min(3, int(math.log10(max(number, 1)) // 3))
    return f"{number / 1000**power:.3g}{('', 'k', 'M', 'G')[power]}"
