"""By what the outcome of a search is chosen, where it is more than the values."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from raynas.record.history import Evaluation
from search_spaces import Architecture


class Judgment(NamedTuple):
    """How an evaluation is judged, by more than its value."""

    epochs: int
    merit: float


def judgments(
    merits: Mapping[Architecture, float],
    of: Callable[[Architecture], int | None],
    finished: Mapping[int, Evaluation],
    worths: Mapping[int, float],
) -> dict[int, Judgment]:
    """Return {evaluation: judgment}; empty where each is judged by its own value.

    Args:
        merits: how the searcher judges, if it does.
        of: returns the evaluation that stands for an architecture, if any.
        finished: the evaluations that have ended.
        worths: {evaluation: value less penalty} of those, if there are penalties. What the
            searcher judges by has them already.
    """
    if not merits:
        valued = {i: worth for i, worth in worths.items() if math.isfinite(worth)}
        return {i: Judgment(finished[i].epochs, worth) for i, worth in valued.items()}
    judged: dict[int, Judgment] = {}
    for arch, merit in merits.items():
        index = of(arch)
        if index is not None and index in finished:
            judgment = Judgment(finished[index].epochs, merit)
            judged[index] = max(judgment, judged.get(index, judgment))
    return judged
