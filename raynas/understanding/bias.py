"""Is this search biased? What it proposed, what survived and what won, against the space.

Shu, Wang, Cai: Understanding Architectures Learnt by Cell-based NAS (ICLR 2020) found that
searches favor wide, shallow cells because those converge fast. Here a run answers for itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raynas.errors import InvalidArgument
from raynas.record.events import Status
from raynas.record.folder import read_json
from raynas.record.history import Evaluation, History
from raynas.record.results import Result, load
from raynas.understanding.bias_sentences import sentences
from raynas.understanding.exact_tests import (
    holm,
    mean_ranks_p,
    share_p,
    shares_p,
    subset_p,
    two_groups_p,
)
from raynas.understanding.rank_measures import gt_tau, ranks, tau_interval
from raynas.understanding.strata import Counted, Strata, strata
from raynas.understanding.topology import space_of_run
from search_spaces import SearchSpace

FEWEST = 3  # architectures of a ranking
_EARLY = 4  # epochs whose ranking is compared with the last one

_STEPS = ("of", "stratum", "step", "epoch", "count", "out_of", "share", "expected", "p", "p_holm")
_OVERALL = ("of", "step", "epoch", "architectures", "p")
_AGREEMENT = (
    "of", "stratum", "epoch", "architectures", "tau", "low", "high", "rank_change", "p", "p_holm",
)  # fmt: skip


@dataclass(frozen=True)
class Bias:
    """What a search favors.

    All p-values are two-sided. `p_holm` is corrected for the number of strata of a property.

    Attributes:
        evaluations: number of architectures that the search proposed.
        steps: of each property (`of`) and `stratum` a row for each `step`: `population` (`share`
            of the space), `proposed` (`count` of `out_of` evaluations; `expected` is the share of
            the space; the exact binomial test, or Fisher's against the draws where the space was
            sampled), `survived` (`count` went on of the `out_of` of this stratum that reached
            `epoch`; `expected` is the rate of all; Fisher's exact test against the other strata),
            `won` (`count` is 1 for the stratum of the chosen architecture).
        overall: of each property one test over all strata at once, of what was proposed and of
            what survived each epoch at which some were stopped.
        agreement: of each property and stratum, and of `all`, Kendall's tau-b between the values
            after an early `epoch` and after the last one with a 95 % bootstrap interval, among the
            architectures that reached the last; and by how many places the stratum rose on
            average (`rank_change`), with the p-value of a permutation test.
        sentences: the answer in words.
        given: whether the architectures were a list (`run(architectures=...)`), so that what is
            `proposed` is no choice of a search.
    """

    evaluations: int
    steps: pd.DataFrame
    overall: pd.DataFrame
    agreement: pd.DataFrame
    sentences: tuple[str, ...]
    given: bool = False

    def to_frame(self) -> pd.DataFrame:
        """Return all numbers in one table: `steps`, then `overall` and `agreement` as steps."""
        overall = self.overall.rename(columns={"architectures": "out_of"}).assign(stratum="overall")
        agreement = self.agreement.rename(columns={"architectures": "out_of"})
        parts = [self.steps, overall, agreement.assign(step="agreement")]
        return pd.concat([part for part in parts if not part.empty], ignore_index=True)

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def bias(run: str | Path | Result, space: SearchSpace | None = None) -> Bias:
    """Compare what a run proposed, kept and chose with its search space.

    By width and depth of the cells; where there are none, by MACs and parameters.

    Args:
        run: its folder, or what `raynas.run` and `raynas.load` return.
        space: the search space; None: the one of the run, if it has a name.

    Raises:
        UnknownName: for a space of the user's own that was not given.
        InvalidArgument: when nothing has been evaluated, or nothing tells the architectures apart.
    """
    result = run if isinstance(run, Result) else load(run)
    history = result.history
    best = result.best.architecture if history.retrained else None
    space = space or space_of_run(result, "bias")
    groups = run_strata(history, space, images_of(result))
    return biases(history, groups, best, space, is_given(result.config))


def biases(
    history: History, groups: Sequence[Strata], best: str | None, space: SearchSpace,
    given: bool = False,
) -> Bias:  # fmt: skip
    """Return the biases of the search of a history.

    Args:
        history: of the run.
        groups: its evaluations, grouped by every property; see `run_strata`.
        best: the architecture that the run chose, if it has by now.
        space: of the architectures.
        given: see `Bias`.
    """
    evaluations = history.evaluations
    rungs = rungs_of(history)
    winner = next((i for i, e in enumerate(evaluations) if e.notation == best), None)
    steps = pd.DataFrame(
        [row for group in groups for row in _steps(group, evaluations, rungs, winner)],
        columns=_STEPS,
    )
    overall = pd.DataFrame(
        [row for group in groups for row in overall_rows(group, evaluations, rungs)],
        columns=_OVERALL,
    )
    whole: dict[int, tuple[float, float, float]] = {}
    agreement = pd.DataFrame(
        [row for group in groups for row in _agreement(group, evaluations, rungs, whole)],
        columns=_AGREEMENT,
    )
    text = sentences(
        groups[0].source, steps, overall, agreement, repetitions(space, len(evaluations)), given
    )
    return Bias(len(evaluations), steps, overall, agreement, tuple(text), given)


def repetitions(space: SearchSpace, number: int) -> int:
    """Return how many of so many uniform draws compute what one before them does.

    A search evaluates no function twice, so where these are many, random search differs too.
    """
    rng = np.random.default_rng(0)
    return number - len({space.canonical(space.sample(rng)) for _ in range(number)})


def is_given(config: Mapping[str, Any]) -> bool:
    """Return whether the architectures of a run were a list, by its arguments."""
    return config.get("architectures") is not None


def run_strata(
    history: History, space: SearchSpace, images: tuple[tuple[int, ...], int] | None
) -> list[Strata]:
    """Group the evaluations of a run.

    Args:
        history: of the run.
        space: of its architectures.
        images: (shape of one, number of classes); None where they are not known.

    Raises:
        InvalidArgument: when there are none, or nothing tells the architectures apart.
    """
    if not history.evaluations:
        raise InvalidArgument("run: nothing has been evaluated yet.")
    archs = [space.from_string(e.notation) for e in history.evaluations]
    metrics = [e.history[-1] if e.history else {} for e in history.evaluations]
    return strata(space, archs, None if images is None else Counted(*images, metrics))


def images_of(result: Result) -> tuple[tuple[int, ...], int] | None:
    """Return (shape of an image, number of classes) of a run; None where it is not finished."""
    file = result.folder.best / "architecture.json"
    if not file.exists():
        return None
    content = read_json(file)
    return tuple(content["input_shape"]), int(content["num_classes"])


def rungs_of(history: History) -> list[int]:
    """Return the epochs after which the scheduler has stopped evaluations, rising."""
    return sorted({e.epochs for e in history.evaluations if e.status is Status.STOPPED} - {0})


def at_rung(evaluations: list[Evaluation], epoch: int) -> tuple[list[int], list[int]]:
    """Return (who reached this epoch, who of them went on) of those whose fate is decided.

    What failed right after it, or still waits there, was neither stopped nor let go on.
    """
    reached = [
        i
        for i, e in enumerate(evaluations)
        if e.epochs > epoch or (e.epochs == epoch and e.status is Status.STOPPED)
    ]
    return reached, [i for i in reached if evaluations[i].epochs > epoch]


def full_epochs(evaluations: list[Evaluation]) -> int:
    """Return the epochs of the evaluations that ran longest; 0 without any."""
    return max((e.epochs for e in evaluations), default=0)


def trained_to_the_end(evaluations: list[Evaluation]) -> list[int]:
    """Return the indices of the evaluations that have a value after the last epoch."""
    last = full_epochs(evaluations)
    return [
        i for i, e in enumerate(evaluations) if last and e.epochs == last and np.isfinite(e.value)
    ]


def _steps(
    group: Strata, evaluations: list[Evaluation], rungs: list[int], winner: int | None
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of `Bias.steps` of one property."""
    none = float("nan")
    for label, share in zip(group.labels, group.shares, strict=True):
        drawn = none if group.drawn is None else round(share * group.drawn)
        yield group.of, label, "population", none, drawn, group.drawn, share, none, none, none
    counts, number = group.counts(), len(evaluations)
    p = [_proposed_p(group, int(k), number, s) for k, s in zip(counts, group.shares, strict=True)]
    for label, count, share, one, corrected in zip(
        group.labels, counts, group.shares, p, holm(p), strict=True
    ):
        yield (group.of, label, "proposed", none, count, number, count / number, share, one,
               corrected)  # fmt: skip
    for epoch in rungs:
        reached, went_on = at_rung(evaluations, epoch)
        totals, counts = group.counts(reached), group.counts(went_on)
        rest = [(len(went_on) - k, len(reached) - n) for k, n in zip(counts, totals, strict=True)]
        p = [two_groups_p(int(k), int(n), int(other), int(others))
             for k, n, (other, others) in zip(counts, totals, rest, strict=True)]  # fmt: skip
        for label, count, total, one, corrected in zip(
            group.labels, counts, totals, p, holm(p), strict=True
        ):
            rate = count / total if total else none
            expected = len(went_on) / len(reached)
            yield (group.of, label, "survived", epoch, count, total, rate, expected, one,
                   corrected)  # fmt: skip
    if winner is not None:
        for index, label in enumerate(group.labels):
            won = int(group.members[winner] == index)
            yield group.of, label, "won", none, won, 1, float(won), group.shares[index], none, none


def _proposed_p(group: Strata, count: int, number: int, share: float) -> float:
    """Return the p-value of what was proposed of one stratum."""
    if group.drawn is None:
        return share_p(count, number, share)
    return two_groups_p(count, number, round(share * group.drawn), group.drawn)


def overall_rows(
    group: Strata, evaluations: list[Evaluation], rungs: list[int]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of `Bias.overall` of one property."""
    counts = group.counts()
    if group.drawn is None:
        p = shares_p(counts, group.shares)
    else:
        p = subset_p(counts, counts + np.round(group.shares * group.drawn).astype(np.int64))
    yield group.of, "proposed", float("nan"), len(evaluations), p
    for epoch in rungs:
        reached, went_on = at_rung(evaluations, epoch)
        p = subset_p(group.counts(went_on), group.counts(reached))
        yield group.of, "survived", epoch, len(reached), p


def _agreement(
    group: Strata, evaluations: list[Evaluation], rungs: list[int],
    whole: dict[int, tuple[float, float, float]],
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    """Yield the rows of `Bias.agreement` of one property.

    Args:
        group: its strata.
        evaluations: of the run.
        rungs: see `rungs_of`.
        whole: {epoch: tau over all strata}, the same for every property; filled here.
    """
    last, full = full_epochs(evaluations), trained_to_the_end(evaluations)
    if len(full) < FEWEST:
        return
    members = group.members[np.array(full)]
    final = np.array([evaluations[i].value for i in full])
    for epoch in _early_epochs(last, rungs):
        metric = evaluations[full[0]].metric
        early = np.array([evaluations[i].history[epoch - 1][metric] for i in full])
        if epoch not in whole:
            whole[epoch] = _tau(early, final)
        yield group.of, "all", epoch, len(full), *whole[epoch], 0.0, np.nan, np.nan
        change = ranks(final) - ranks(early)
        present, places = np.unique(members, return_inverse=True)
        p = mean_ranks_p(change, places) if len(present) > 1 else np.array([np.nan])
        for index, one, corrected in zip(present, p, holm(p), strict=True):
            mine = members == index
            tau = _tau(early[mine], final[mine])
            label, rise = group.labels[index], change[mine].mean()
            yield group.of, label, epoch, int(mine.sum()), *tau, rise, one, corrected


def _early_epochs(last: int, rungs: list[int]) -> list[int]:
    """Return the epochs whose ranking is compared with the last: rungs, the first, the middle."""
    epochs = sorted({1, last // 2, *rungs} - {0, last})
    return epochs if len(epochs) <= _EARLY else [*epochs[: _EARLY - 1], epochs[-1]]


def _tau(early: Any, final: Any) -> tuple[float, float, float]:
    """Return tau with its interval; NaN for too few."""
    if len(early) < FEWEST:
        return np.nan, np.nan, np.nan
    return gt_tau(early, final), *tau_interval(early, final)
