"""Proxy scores for searchers that want some: from tables, and what stands in for them."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from raynas.errors import InvalidArchitecture, InvalidArgument
from raynas.searchers import Searcher
from raynas.searchers.searcher import Scoring
from search_spaces import Architecture, SearchSpace
from trials.proxies import PROXIES, proxy_name
from trials.tables.benchmark import Benchmark


def proxy_scores(
    benchmark: Benchmark, scores: str | Path | pd.DataFrame | None, searchers: Iterable[Searcher]
) -> dict[str, dict[Architecture, float]]:
    """Return {proxy: {canonical form: score}}, of the table's own columns and of `scores`.

    A proxy is one of `PROXIES`, or a function of the user's own that a searcher asks for, by its
    name.

    Raises:
        InvalidArgument: when `scores` is no table of scores.
    """
    space = benchmark.space
    wanted = [_scoring(searcher, space) for searcher in searchers]
    names = {*PROXIES, *(proxy_name(scoring.proxy) for scoring in wanted if scoring)}
    archs = list(benchmark.rows)
    forms = [space.canonical(arch) for arch in archs]
    own = {
        str(name): _numbers(str(name), forms, benchmark.frame[name])
        for name in benchmark.frame
        if name in names
    }
    if scores is None:
        return own
    try:
        frame = scores if isinstance(scores, pd.DataFrame) else pd.read_parquet(scores)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"scores={str(scores)!r} is no Parquet file: {error}") from None
    proxies = [str(name) for name in frame if name in names]
    if "architecture" not in frame or not proxies:
        raise InvalidArgument(
            "scores: wanted are a column 'architecture' and one named after a proxy; there are"
            f" {', '.join(map(str, frame))}."
        )
    try:
        forms = [space.canonical(space.from_string(text)) for text in frame["architecture"]]
    except InvalidArchitecture as error:
        raise InvalidArgument(f"scores: {error}") from None
    return own | {name: _numbers(name, forms, frame[name]) for name in proxies}


def _numbers(
    proxy: str, forms: list[Architecture], scores: "pd.Series[Any]"
) -> dict[Architecture, float]:
    try:
        numbers = pd.to_numeric(scores).astype(float)
    except (ValueError, TypeError):
        raise InvalidArgument(f"scores: {proxy} must be numbers.") from None
    return dict(zip(forms, numbers, strict=True))


def stand_ins(
    searchers: Mapping[str, Searcher], benchmark: Benchmark, scores: Mapping[str, Any]
) -> list[str]:
    """Return notes for the user: which proxies lack scores, and what stands in for them."""
    notes = []
    space = benchmark.space
    forms = {space.canonical(arch) for arch in benchmark.rows}
    for label, searcher in searchers.items():
        scoring = _scoring(searcher, space)
        if scoring is None:
            continue
        name = proxy_name(scoring.proxy)
        if name in scores:
            lacking = sum(form not in scores[name] for form in forms)
            if lacking:
                notes.append(
                    f"{label}: {lacking} of {len(forms)} architectures have no score by"
                    f" {name}; they rank last."
                )
            continue
        if not space.counts_fast:
            stand_in = "all architectures count as equal"
        elif scoring.proxy in ("params", "macs"):
            continue
        else:
            stand_in = "MACs stand in for them"
        notes.append(f"{label}: no scores by {name} were given (`scores`); {stand_in}.")
    return notes


def _scoring(searcher: Searcher, space: SearchSpace) -> Scoring | None:
    """Return what a searcher would have scored."""
    probe = copy.deepcopy(searcher)
    probe.start(space, 0)
    return probe.scoring
