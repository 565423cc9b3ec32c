"""The answer to "is this search biased?" in words, from the tables of `raynas.bias`.

A sentence claims a difference only below p = .05 (of single strata: after Holm's correction), and
says so where there are too few architectures to see one.
"""

from collections.abc import Iterator
from typing import Any, cast

import pandas as pd

from raynas.understanding.strata import JOINT

LEVEL = 0.05
FEW = 10  # architectures below which nothing but a very strong preference can be seen
_NAMED = 3  # strata that a sentence names, at most
_MUCH = 0.05  # of draws: the share of repetitions from which on a search without them differs

_Row = dict[str, Any]


def sentences(
    source: str,
    steps: pd.DataFrame,
    overall: pd.DataFrame,
    agreement: pd.DataFrame,
    repeated: int,
    given: bool = False,
) -> Iterator[str]:
    """Yield the sentences on what was proposed, survived and won, and on the rankings.

    Args:
        source: where the shares of the space come from.
        steps: see `Bias`.
        overall: see `Bias`.
        agreement: see `Bias`.
        repeated: number of repetitions of functions among as many uniform draws.
        given: see `Bias`; then nothing is said of what was proposed.
    """
    proposed = overall[overall["step"] == "proposed"]
    number = int(proposed["architectures"].iloc[0])
    if given:
        yield f"Architectures given: {number}, as a list; no search has proposed any."
        overall = overall[overall["step"] != "proposed"]
    else:
        yield f"Architectures proposed: {number}; they are compared with {source}."
    if number < FEW:
        yield f"With {number}, nothing but a very strong preference could be seen."
    if repeated > 1 + _MUCH * number and not given:
        yield (
            f"Of as many uniform draws {repeated} compute what one before them does, and a search"
            " proposes nothing twice, so that its shares drift away from the space's without any"
            " preference."
        )
    for row in _each_property(overall):
        stated = _proposed if row["step"] == "proposed" else _survived
        yield stated(row, _strata_of(row, steps))
    won = steps[(steps["step"] == "won") & (steps["count"] == 1)]
    if not won.empty:
        yield _won(won)
    yield from _rankings(agreement)


def percent(share: float) -> str:
    """Return a share as people write it: 18 %, 0.6 %."""
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.0995 else f"{100 * share:.1f} %"


def p_value(p: float) -> str:
    """Return a p-value as people write it: p = .043, p < .001."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")


def _each_property(overall: pd.DataFrame) -> list[_Row]:
    """Return the rows of single properties: what was proposed, then what survived each epoch."""
    rows = overall[overall["of"] != JOINT]
    order = rows.assign(later=rows["step"] != "proposed").sort_values(
        ["later", "epoch"], kind="stable"
    )
    return _rows(order)


def _strata_of(row: _Row, steps: pd.DataFrame) -> list[_Row]:
    """Return the strata in which a step differs, the most different first."""
    mine = steps[(steps["of"] == row["of"]) & (steps["step"] == row["step"])]
    if row["step"] == "survived":
        mine = mine[mine["epoch"] == row["epoch"]]
    mine = mine[mine["p_holm"] < LEVEL]
    mine = mine.assign(apart=(mine["share"] - mine["expected"]).abs())
    return _rows(mine.sort_values("apart", ascending=False).head(_NAMED))


def _proposed(row: _Row, strata: list[_Row]) -> str:
    of, p = _words(row["of"]), p_value(row["p"])
    if strata:
        parts = [
            f"{_named(s)} made up {percent(s['share'])} of the evaluations,"
            f" {percent(s['expected'])} of the space ({p_value(s['p_holm'])})"
            for s in strata
        ]
        return f"Proposed, by {of} (overall {p}): {'; '.join(parts)}."
    if row["p"] < LEVEL:
        return f"Proposed, by {of}: unlike uniform draws ({p}), though no single one stands out."
    return f"Proposed, by {of}: no evidence against uniform draws ({p})."


def _survived(row: _Row, strata: list[_Row]) -> str:
    of, p, number = _words(row["of"]), p_value(row["p"]), int(row["architectures"])
    stem = f"Survived epoch {row['epoch']:.0f}, by {of}"
    if strata:
        parts = [
            f"of {_named(s)} {s['count']:.0f} of {s['out_of']:.0f} went on, where the rate of all"
            f" is {percent(s['expected'])} ({p_value(s['p_holm'])})"
            for s in strata
        ]
        return f"{stem} (overall {p}): {'; '.join(parts)}."
    if row["p"] < LEVEL:
        return f"{stem}: not regardless of it ({p}), though no single one stands out."
    few = f"; only {number} got there" if number < FEW else ""
    return f"{stem}: no evidence of a preference ({p}{few})."


def _won(won: pd.DataFrame) -> str:
    rows = _rows(won[won["of"] != JOINT])
    parts = [f"{_named(row)} ({percent(row['expected'])} of the space)" for row in rows]
    return f"Won: {', '.join(parts)}. One winner alone is no evidence of a bias."


def _rankings(agreement: pd.DataFrame) -> Iterator[str]:
    """Yield how early rankings agree with the last one, and which strata rise or fall."""
    if agreement.empty:
        yield (
            "No early ranking can be compared with the final one: that needs three architectures"
            " trained to the end, for more than one epoch."
        )
        return
    first, number = agreement["of"].iloc[0], int(agreement["architectures"].iloc[0])
    for row in _rows(agreement[(agreement["of"] == first) & (agreement["stratum"] == "all")]):
        epoch = row["epoch"]
        yield (
            f"Among the {number} trained to the end, the ranking after epoch {epoch}"
            f" agrees with the final one at tau {row['tau']:.2f} [{row['low']:.2f},"
            f" {row['high']:.2f}]."
        )
        mine = agreement[(agreement["epoch"] == epoch) & (agreement["of"] != JOINT)]
        moved = _rows(mine[mine["p_holm"] < LEVEL])
        if number < FEW:
            continue
        if not moved:
            yield (
                f"From epoch {epoch} to the last, no group of architectures rose or fell by more"
                " than chance explains: no evidence that some converge more slowly."
            )
        for one in moved:
            rose = one["rank_change"] > 0
            yield (
                f"From epoch {epoch} to the last, {_named(one)} {'rose' if rose else 'fell'} by"
                f" {abs(one['rank_change']):.1f} places on average ({p_value(one['p_holm'])}):"
                f" an early ranking {'under' if rose else 'over'}rates it."
            )
    if number < FEW:
        yield f"{number} are too few to tell whether some converge more slowly."


def _rows(table: pd.DataFrame) -> list[_Row]:
    return cast(list[_Row], table.to_dict("records"))


def _named(row: _Row) -> str:
    return f"{_words(row['of'])} {row['stratum']}"


def _words(of: str) -> str:
    """Return the name of a property in words."""
    words = {"macs": "MACs", "params": "parameters"}
    return words.get(of) or of.replace("reduction_", "reduction cell ").replace("_", " ")
