"""How far each cheap signal of a run could be trusted: its agreement with the final accuracies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from raynas.errors import InvalidArgument
from raynas.record.events import Status
from raynas.record.history import Evaluation, History
from raynas.record.results import Result, load
from raynas.understanding.bias import (
    FEWEST,
    full_epochs,
    images_of,
    rungs_of,
    trained_to_the_end,
)
from raynas.understanding.flatness import collected
from raynas.understanding.rank_measures import gt_tau, ranks, tau_interval
from raynas.understanding.topology import space_of_run
from search_spaces import SearchSpace

Scores = Mapping[str, Mapping[str, float]]

#: evaluators that train nothing alone; what is retrained tells how good their values were
_UNTRAINED = ("supernet", "proxy")
_EPOCHS = 8  # early epochs, at most
#: lower bounds of tau from which on a signal is good for more, as of `RankStability`; below as
#: many architectures a perfect order may be luck, so the advice is not stronger than the one before
_DISCARD, _SHORTLIST, _TRUST = 0.0, 0.4, 0.7
_ENOUGH_TO_SHORTLIST, _ENOUGH_TO_TRUST = 10, 20
_LEVEL = 0.05
_NEIGHBORS = "mean of the neighbors"

_COLUMNS = ("signal", "epoch", "architectures", "tau", "low", "high", "p", "advice")


@dataclass(frozen=True)
class ProxyTrust:
    """How well cheap signals rank the architectures of a run.

    Attributes:
        architectures: number of those that were trained to the end.
        signals: one row for each `signal` and each `epoch` after which the accuracies are taken
            that it is compared with: the last one; and, where evaluations were stopped early, the
            first at which that happened, since all that were not yet selected reached it.
            `architectures` that have both, Kendall's tau-b (`tau`) with its 95 % bootstrap
            interval (`low`, `high`), the `p` of no agreement, `advice`.
        values: one row for each architecture trained to the end: `evaluation`, `architecture`,
            `final` and a column for every signal.
        caveat: what the numbers suffer from; empty where nothing.
    """

    architectures: int
    signals: pd.DataFrame
    values: pd.DataFrame
    caveat: str = ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """Say of every signal how far to use it next time."""
        if self.architectures < FEWEST:
            return (
                f"Fewer than {FEWEST} architectures were trained to the end"
                f" ({self.architectures}): nothing can be said of any signal.",
            )
        rows = self.signals.to_dict("records")
        return (*(str(row["advice"]) for row in rows), *filter(None, [self.caveat]))

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def proxy_trust(
    run: str | Path | Result, scores: Scores | None = None, space: SearchSpace | None = None
) -> ProxyTrust:
    """Compare the cheap signals of a run with the accuracies of what it trained to the end.

    The signals are: the accuracy after each early epoch (of many epochs some), parameters, MACs,
    the scores of a warm start, the mean of the neighbors that were trained to the end too, the
    accuracy with shared weights (in the supernet of a differentiable search, or of
    `evaluate="supernet"`), and those of `scores`. Where a run evaluates without training, they are
    compared with the test accuracies of its retrainings.

    Args:
        run: its folder, or what `raynas.run` and `raynas.load` return.
        scores: {name: {architecture: score}} of further signals, as `raynas.score` computes them;
            higher is better.
        space: the search space; None: the one of the run, if it has a name.

    Raises:
        UnknownName: for a space of the user's own that was not given.
        InvalidArgument: for scores of another form.
    """
    _check_scores(scores)
    result = run if isinstance(run, Result) else load(run)
    return trust(
        result.history, space or space_of_run(result, "proxy_trust"),
        str(result.config["evaluate"]), images_of(result), scores,
    )  # fmt: skip


def trust(
    history: History, space: SearchSpace, evaluate: str,
    images: tuple[tuple[int, ...], int] | None = None, scores: Scores | None = None,
) -> ProxyTrust:  # fmt: skip
    """Return the trust in the signals of a history; see `proxy_trust`.

    Args:
        history: of the run.
        space: of its architectures.
        evaluate: how it evaluated.
        images: (shape of one, number of classes); None: parameters and MACs are those measured.
        scores: of further signals.
    """
    alone = trains_alone(evaluate)
    final = final_accuracies(history, alone)
    signals = _signals(history, space, alone, images, scores or {})
    values = _table(history, final, signals)
    if len(final) < FEWEST:
        return ProxyTrust(len(final), pd.DataFrame(columns=_COLUMNS), values)
    last = full_epochs(history.evaluations)
    rows = [_row(name, last if alone else np.nan, final, mine) for name, mine in signals.items()]
    first = next(iter(rungs_of(history)), None)
    if alone and first is not None:
        reached = _after(history.evaluations, first)
        rows += [
            _row(name, first, reached, mine)
            for name, mine in signals.items()
            if not name.startswith("accuracy after") and name != _NEIGHBORS
        ]
    rows = [row for row in rows if row is not None]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return ProxyTrust(len(final), table, values, _caveat(history, final, alone))


def trains_alone(evaluate: str) -> bool:
    """Return whether the evaluations of a run are trainings, by its argument `evaluate`."""
    return evaluate.partition(":")[0] not in _UNTRAINED


def final_accuracies(history: History, alone: bool) -> dict[int, float]:
    """Return {evaluation: accuracy} of what was trained to the end.

    Where a search trained nothing alone, that is what the last decision was among, if it was among
    several (`select`), and else what was retrained.
    """
    if alone:
        return {i: history.evaluations[i].value for i in trained_to_the_end(history.evaluations)}
    selected = history.selected.chosen if history.selected else ()
    if selected:
        return {i: float(history.selecting[i][-1]["val_accuracy"]) for i in selected}
    return {i: float(metrics["test_accuracy"]) for i, metrics in history.retrained.items()}


def _signals(
    history: History, space: SearchSpace, alone: bool,
    images: tuple[tuple[int, ...], int] | None, scores: Scores,
) -> dict[str, dict[int, float]]:  # fmt: skip
    """Return {signal: {evaluation: value}}."""
    evaluations = history.evaluations
    signals: dict[str, dict[int, float]] = {}
    if alone:
        for epoch in _early(full_epochs(evaluations)):
            signals[f"accuracy after epoch {epoch}"] = _after(evaluations, epoch)
        signals[_NEIGHBORS] = _neighbors(history, space)
    else:
        name = "supernet accuracy" if history.supernet else history.metric
        signals[name] = {e.index: e.value for e in evaluations if np.isfinite(e.value)}
    signals["search accuracy"] = {
        e.index: e.origin.metrics["architecture_accuracy"] for e in evaluations if e.origin
    }
    for of in ("params", "macs"):
        signals[of] = _counts(of, evaluations, space, images)
    scored = {"warm start's score": history.scores, **scores}
    forms = [space.canonical(space.from_string(e.notation)) for e in evaluations] if scored else []
    for name, known in scored.items():
        of_form = {space.canonical(space.from_string(text)): s for text, s in known.items()}
        signals[name] = {
            i: float(of_form[form])
            for i, form in enumerate(forms)
            if form in of_form and not np.isnan(of_form[form])
        }
    return {name: mine for name, mine in signals.items() if mine}


def _early(last: int) -> list[int]:
    """Return the epochs before the last; where they are many, some, the early ones denser."""
    if last <= _EPOCHS + 1:
        return list(range(1, last))
    return sorted(set(np.round(np.geomspace(1, last - 1, _EPOCHS)).astype(int).tolist()))


def _after(evaluations: Sequence[Evaluation], epoch: int) -> dict[int, float]:
    """Return the values after an epoch of all that reached it."""
    return {
        e.index: float(e.history[epoch - 1][e.metric])
        for e in evaluations
        if e.epochs >= epoch and np.isfinite(e.history[epoch - 1][e.metric])
    }


def _neighbors(history: History, space: SearchSpace) -> dict[int, float]:
    """Return the means of the neighbors that were trained to the end, without the center itself.

    With it, the signal would hold a part of what it is compared with.
    """
    full = trained_to_the_end(history.evaluations)
    near = collected(
        space,
        (
            (e.index, space.from_string(e.notation), e.value)
            for e in (history.evaluations[i] for i in full)
        ),
    )
    flat = {i: f for i in full if (f := near[i]) is not None}
    return {i: f.own - f.drop for i, f in flat.items()}


def _counts(
    of: str, evaluations: Sequence[Evaluation], space: SearchSpace,
    images: tuple[tuple[int, ...], int] | None,
) -> dict[int, float]:  # fmt: skip
    """Return parameters or MACs: as measured, else as counted where that takes no network."""
    measured = {
        e.index: float(e.history[-1][of]) for e in evaluations if e.history and of in e.history[-1]
    }
    if measured or images is None or not space.counts_fast:
        return measured
    count = getattr(space, of)
    return {e.index: float(count(space.from_string(e.notation), *images)) for e in evaluations}


def _table(
    history: History, final: Mapping[int, float], signals: Mapping[str, Mapping[int, float]]
) -> pd.DataFrame:
    """Return `ProxyTrust.values`."""
    return pd.DataFrame(
        {
            "evaluation": list(final),
            "architecture": [history.evaluations[i].notation for i in final],
            "final": list(final.values()),
            **{name: [mine.get(i, np.nan) for i in final] for name, mine in signals.items()},
        }
    )


def _row(
    name: str, epoch: float, final: Mapping[int, float], signal: Mapping[int, float]
) -> tuple[Any, ...] | None:
    """Return a row of `ProxyTrust.signals`; None where the two have too few in common."""
    both = [i for i in final if i in signal]
    if len(both) < FEWEST:
        return None
    x, y = np.array([signal[i] for i in both]), np.array([final[i] for i in both])
    tau, (low, high) = gt_tau(x, y), tau_interval(x, y)
    p = float(kendalltau(ranks(x), ranks(y)).pvalue)
    p = 1.0 if np.isnan(p) else p  # one of the two is constant
    against = "final accuracy" if np.isnan(epoch) else f"accuracy after epoch {epoch:.0f}"
    said = f"{name}: tau {tau:.2f} [{low:.2f}, {high:.2f}] with the {against} of {len(both)}"
    said += " architectures:"
    return name, epoch, len(both), tau, low, high, p, f"{said} {_advice(low, high, p, len(both))}"


def _advice(low: float, high: float, p: float, number: int) -> str:
    """Say how far to use a signal next time, from the lower bound of its tau.

    By the thresholds of `RankStability.verdict`, and not on the interval alone: for a handful of
    architectures the bootstrap's is too narrow.
    """
    if high < 0 and p < _LEVEL:
        return "it ranked the wrong way round; do not use it to choose."
    if low <= _DISCARD or p >= _LEVEL:
        return "not distinguishable from chance, do not use it to choose."
    if low <= _SHORTLIST or number < _ENOUGH_TO_SHORTLIST:
        return "use it to discard the worst half, not to pick the winner."
    if low <= _TRUST or number < _ENOUGH_TO_TRUST:
        return "use it for a shortlist, and train the shortlist to pick the winner."
    return "about as good as one training of each; still train the best few."


def _caveat(history: History, final: Mapping[int, float], alone: bool) -> str:
    """Say what the numbers suffer from."""
    if not alone:
        return (
            f"Only the {len(final)} that were retrained are compared, which this signal had chosen:"
            " among the best, any signal agrees less than among all."
        )
    stopped = sum(e.status is Status.STOPPED and e.epochs > 0 for e in history.evaluations)
    if not stopped:
        return ""
    return (
        f"{stopped} evaluations were stopped early by their accuracies, so the {len(final)} trained"
        " to the end are a selection: taus with the final accuracy tend to be smaller than among"
        f" all. Those with the accuracy after epoch {rungs_of(history)[0]} are over all that have"
        " the signal."
    )


def _check_scores(scores: object) -> None:
    """Refuse scores that are not {name: {architecture: score}}.

    Raises:
        InvalidArgument: saying what was given.
    """
    good = isinstance(scores, Mapping) and all(isinstance(s, Mapping) for s in scores.values())
    if scores is not None and not good:
        raise InvalidArgument(
            f"scores={scores!r}: give {{name: {{architecture: score}}}}, architectures in the"
            " notation of the run's space."
        )
