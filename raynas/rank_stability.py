"""How far the ranking of a supernet can be trusted: agreement with the truth, and with itself.

Zhang, Lin, Jiang, Zhang, Wang, Xue, Zhang, Yang: Deeper Insights into Weight Sharing in Neural
Architecture Search (arXiv 2001.01431), whose measures these are; their intervals, and which
choices are over-rated, are ours. Computed from `supernet/rankings.parquet` of a run folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

import search_spaces
from raynas.errors import InvalidArchitecture, InvalidArgument, StorageError, UnknownName
from raynas.results import Result, load
from raynas.search import METRIC, Status
from raynas.supernet_actor import RANKINGS
from search_spaces import SearchSpace
from search_spaces.naming import construct
from trials.table import Table

Floats = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]
Run: TypeAlias = str | Path | Result
Truth: TypeAlias = "Mapping[str, float] | pd.Series[Any] | Table | Run"

_LEAST = 5  # architectures, below which intervals mean nothing
_TOP = (1, 3, 5, 10)
_DRAWS = 1000
_SHOWN = 5  # choices at either end of the list
#: lower ends of GT-Tau's interval from which on a ranking is good for more; see `Use`
_SHORTLIST, _RETRAINING = 0.4, 0.7
_STABLE = 0.7  # S-Tau between single trainings of the study's children: .71
_BETWEEN = {"batches": "mini-batches", "epochs": "epochs", "runs": "runs"}


class Use(Enum):
    """What a ranking is good for, by the lower end of GT-Tau's interval.

    The limits are those of normal values of which one predicts the other with that tau.

    - `NONE`: the interval includes 0, or is below: a random order would do as well.
    - `DISCARD`, above 0: at tau .3 the upper half has 4 of 5 of the best tenth, but the first is
      on average where a fifth of all are better. Full sharing in the study is here: tau .5, and
      the first of 64 is truly the 16th to 18th.
    - `SHORTLIST`, from .4: the best of 64 is in the upper quarter in 4 of 5 cases, but first in
      few.
    - `RETRAINING`, from .7: single trainings of the study's 64 children agree by .71 with each
      other, and by .80 with the mean of ten; more than that no supernet can be asked for.
    """

    NONE = "do not use it"
    DISCARD = "use it to discard the worst half, not to pick the winner"
    SHORTLIST = "shortlist the first quarter, and train that to pick the winner"
    RETRAINING = "it is about as good as training each once more with another seed"

    @classmethod
    def of(cls, low: float) -> "Use":
        """By the lower end of an interval."""
        if low >= _RETRAINING:
            return cls.RETRAINING
        if low >= _SHORTLIST:
            return cls.SHORTLIST
        return cls.DISCARD if low > 0 else cls.NONE


class GTTau(NamedTuple):
    """Agreement of finished supernets with the truth.

    Attributes:
        mean: over runs.
        interval: 95 %, of the mean, if other architectures had been ranked (`tau_interval`).
        std: over runs; None of a single one.
        runs: their number.
    """

    mean: float
    interval: Interval
    std: float | None
    runs: int


class BatchTau(NamedTuple):
    """GT-Tau over the last mini-batches of a run; means over runs.

    Attributes:
        mean: GT-Tau-Mean-k.
        std: GT-Tau-Std-k; of these k, not of a sample.
        batches: k.
    """

    mean: float
    std: float
    batches: int


class STau(NamedTuple):
    """Agreement of instances with each other: tau over all pairs of them.

    Attributes:
        mean: over pairs.
        most: of the pair that agrees most.
        least: of the pair that agrees least.
        interval: 95 %, of the mean; None where there are fewer than 3 instances.
        instances: their number.
    """

    mean: float
    most: float
    least: float
    interval: Interval | None
    instances: int


class TopRank(NamedTuple):
    """The best true rank among the first n, 1 being the best.

    Attributes:
        mean: over runs.
        error: standard error of the mean; None of a single run.
    """

    mean: float
    error: float | None


@dataclass(frozen=True, eq=False)
class RankStability:
    """How far the ranking of one or several runs of a supernet can be trusted.

    Tau is Kendall's tau-b. A network that failed ranks lowest.

    Attributes:
        architectures: how many were ranked; with a truth, only those that it has.
        gt_tau: of the finished supernets; None without a truth.
        batch_tau: how it varies over the last mini-batches; None where they were not ranked.
        s_tau: {"runs", "epochs", "batches": between the finished supernets, and within a run
            between its last epochs or mini-batches; None where there are no two}.
        top_rank: {n: TnR}; by chance it would be (architectures + 1) / (n + 1). Empty without
            a truth.
        random_std: standard deviation of tau between random rankings of as many.
        operations: one row for each choice that some architecture has, the most over-rated first:
            `decision`, `choice`, `architectures` (that have it), `over_rated` (their mean true
            rank minus their rank in the supernet; positive: the supernet puts them too far to the
            front), `low`, `high` (95 % bootstrap; NaN of fewer than 5). Of many intervals,
            one in 20 excludes 0 by chance; and as noise draws all ranks to the middle,
            it over-rates what is bad. None without a truth, or for a user's own space.
    """

    architectures: int
    gt_tau: GTTau | None
    batch_tau: BatchTau | None
    s_tau: Mapping[str, STau | None]
    top_rank: Mapping[int, TopRank]
    random_std: float
    operations: pd.DataFrame | None

    @property
    def use(self) -> Use | None:
        """What the ranking is good for; None without a truth."""
        return None if self.gt_tau is None else Use.of(self.gt_tau.interval[0])

    @property
    def verdict(self) -> str:
        """What to make of it, in a sentence; see `Use`.

        A ranking is called changing where S-Tau is below .7: single trainings, each of other
        weights, agree as much.
        """
        known = {_BETWEEN[key]: s for key in _BETWEEN if (s := self.s_tau.get(key)) is not None}
        loose = {name: s for name, s in known.items() if s.mean < _STABLE}
        between = " and ".join(
            f"{name} (S-Tau {s.mean:.2f})" for name, s in (loose or known).items()
        )
        if loose:
            itself = f"the ranking changes between {between}, so average over several"
        else:
            itself = f"the ranking repeats itself between {between}" if known else ""
        if self.gt_tau is None or self.use is None:
            first = "without a truth nothing says whether the ranking is right"
        else:
            first = (
                f"tau {self.gt_tau.mean:.2f} {_brackets(self.gt_tau.interval)} with the truth over"
                f" {self.architectures} architectures: {self.use.value}"
            )
        return "; ".join(filter(None, (first, itself))) + "."

    def to_frame(self) -> pd.DataFrame:
        """One row per measure: `measure`, `value`, `low`, `high` (95 %, NaN if unknown), `n`.

        `n` is the number of what the value is over: architectures, runs, mini-batches, epochs.
        """
        rows: list[tuple[str, float, Interval | None, int]] = []
        if self.gt_tau is not None:
            mean, interval, std, runs = self.gt_tau
            rows.append(("GT-Tau", mean, interval, self.architectures))
            if std is not None:
                rows.append(("GT-Tau, std over runs", std, None, runs))
        if self.batch_tau is not None:
            mean, std, k = self.batch_tau
            rows.append((f"GT-Tau-Mean-{k}", mean, None, k))
            rows.append((f"GT-Tau-Std-{k}", std, None, k))
        for name, s in self.s_tau.items():
            if s is not None:
                rows.append((f"S-Tau between {_BETWEEN[name]}", s.mean, s.interval, s.instances))
        for n, (mean, error) in self.top_rank.items():
            runs = self.gt_tau.runs if self.gt_tau else 1
            rows.append((f"T{n}R", mean, _student(mean, error, runs), runs))
        rows.append(("tau of random rankings, std", self.random_std, None, self.architectures))
        nothing = (np.nan, np.nan)
        return pd.DataFrame(
            [(name, value, *(interval or nothing), n) for name, value, interval, n in rows],
            columns=["measure", "value", "low", "high", "n"],
        )

    def __str__(self) -> str:
        table = self.to_frame().to_string(index=False, na_rep="", float_format="{:.3f}".format)
        lines = [self.verdict, table]
        for label, rows in zip(("over-rated", "under-rated"), _ends(self.operations), strict=True):
            shown = [
                f"{row.decision}={row.choice} {row.over_rated:+.1f}"
                f" {_brackets((row.low, row.high), 1)}"
                for row in rows.itertuples()
            ]
            lines += [f"{label}, in ranks: {', '.join(shown)}"] if shown else []
        return "\n".join(lines)


def gt_tau(values: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b between a ranking and the true one; 0 where either is constant.

    Args:
        values: of each architecture, higher is better; NaN and minus infinity rank lowest.
        truth: likewise.

    Raises:
        InvalidArgument: when these are not as many, or fewer than 2.
    """
    ours, true = _paired(values, truth, 2)
    return _tau(ours, true)


def tau_interval(
    values: ArrayLike, truth: ArrayLike, seed: int = 0, draws: int = _DRAWS
) -> Interval:
    """95 % interval of GT-Tau, by bootstrap over architectures (percentiles).

    It tells what other architectures of the kind would give, not what another training would. An
    architecture that is drawn several times is tied with itself in both rankings, and tau-b
    leaves such pairs out of numerator and denominator, so that they bias nothing.

    Args:
        values: `architectures`, or `instances x architectures`: then of the mean of their GT-Tau.
        truth: `architectures`.
        seed: of the draws.
        draws: of the bootstrap.

    Raises:
        InvalidArgument: when these are not as many, or fewer than 5.
    """
    ours, true = _paired(values, truth, _LEAST)
    return _bootstrapped(ours, true, _weights(len(true), seed, draws))


def s_tau(rankings: ArrayLike) -> STau:
    """Agreement of rankings with each other, over all pairs.

    Its interval is by jackknife over instances, which it takes to be independent: of consecutive
    epochs or mini-batches it would say too much.

    Args:
        rankings: values, `instances x architectures`; NaN and minus infinity rank lowest.

    Raises:
        InvalidArgument: for fewer than 2 instances or architectures.
    """
    values = _lowest(rankings)
    if values.ndim != 2 or min(values.shape) < 2:
        raise InvalidArgument(
            f"rankings: of shape {values.shape}; wanted are instances x architectures, at least 2"
            " of both."
        )
    m = len(values)
    taus = np.zeros((m, m))
    for i, j in zip(*np.triu_indices(m, 1), strict=True):
        taus[i, j] = taus[j, i] = _tau(values[i], values[j])
    pairs = taus[np.triu_indices(m, 1)]
    mean, interval = float(pairs.mean()), None
    if m > 2:
        without = (taus.sum() - 2 * taus.sum(axis=1)) / ((m - 1) * (m - 2))
        error = np.sqrt((m - 1) / m * ((without - without.mean()) ** 2).sum())
        interval = _within(_student(mean, float(error), m))
    return STau(mean, float(pairs.max()), float(pairs.min()), interval, m)


def top_n_rank(values: ArrayLike, truth: ArrayLike, n: int) -> int:
    """TnR: the best true rank among the n that come first; 1 is the best.

    Of those that tie for a place, the truly worst comes first, so that ties flatter nobody.

    Args:
        values: of each architecture, higher is better; NaN and minus infinity rank lowest.
        truth: likewise.
        n: how many.

    Raises:
        InvalidArgument: when these are not as many, or n is not in 1..architectures.
    """
    ours, true = _paired(values, truth, 1)
    if not 1 <= n <= len(true):
        raise InvalidArgument(f"n={n} is not in 1..{len(true)}, the number of architectures.")
    first = np.lexsort((true, -ours))[:n]
    return int(stats.rankdata(-true, method="min")[first].min())


def random_std(n: int) -> float:
    """Standard deviation of tau between two random rankings of n; its mean is 0."""
    return float(np.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))))


def rank_stability(
    runs: Run | Sequence[Run], truth: Truth | None = None, seed: int = 0
) -> RankStability:
    """How far the ranking of a supernet can be trusted.

    Args:
        runs: with `evaluate="supernet"`: a folder, or what `raynas.run` and `raynas.load` return;
            or several, of other seeds or orders.
        truth: what the architectures really reach: {notation: value}, higher is better, NaN of
            one that failed; a run that trained them from scratch, of which the completed trials
            with most epochs count; or a table, as `trials.Table` or `table:FILE`. Architectures
            that compute the same function count as the same one, with the mean of its values; in
            a user's own space, those of the same notation.
        seed: of the bootstrap.

    Raises:
        InvalidArgument: for a run without rankings, runs of different spaces or architectures,
            and a truth of fewer than 5 of them.
    """
    several = [runs] if isinstance(runs, str | Path | Result) else list(runs)
    results = [_loaded("runs", run) for run in several]
    if not results or len({result.path.resolve() for result in results}) < len(results):
        raise InvalidArgument(f"runs={runs!r}: give at least one run, and each only once.")
    ranked = [_rankings(result) for result in results]
    _check_alike(results, ranked)
    texts = list(ranked[0].columns)
    space = _space(results[0])
    true = None
    if truth is not None:
        known = _true_values(truth, space, texts)
        covered = ~np.isnan(known)
        if covered.sum() < _LEAST:
            raise InvalidArgument(
                f"truth: has only {covered.sum()} of the {len(texts)} ranked architectures, such as"
                f" {texts[0]!r}; give at least {_LEAST}."
            )
        texts = [text for text, one in zip(texts, covered, strict=True) if one]
        true = known[covered]
    return _measured([frame[texts] for frame in ranked], true, space, seed)


def html(stability: RankStability) -> str:
    """A fragment of HTML: verdict, measures, the choices that are most over- and under-rated."""
    measures = [
        (row.measure, f"{row.value:.3f}", _brackets((row.low, row.high), 3), row.n)
        for row in stability.to_frame().itertuples()
    ]
    return (
        jinja2.Environment(autoescape=True)
        .from_string(_TEMPLATE)
        .render(
            verdict=stability.verdict[0].upper() + stability.verdict[1:],
            measures=measures,
            operations=pd.concat(_ends(stability.operations)).itertuples(),
            truth=stability.gt_tau is not None,
            brackets=_brackets,
        )
    )


def section(folder: str | Path, truth: Truth | None = None) -> str:
    """`html` of a run folder; empty where it has no rankings."""
    if not _file(Path(folder)).is_file():
        return ""
    return html(rank_stability(folder, truth))


_TEMPLATE = """<h2>How far to trust the supernet</h2>
<p>{{ verdict }}</p>
<table><tr><th>measure</th><th>value</th><th>95 % interval</th><th>n</th></tr>
{% for measure, value, interval, n in measures %}<tr><td>{{ measure }}</td><td>{{ value }}</td>
<td>{{ interval }}</td><td>{{ n }}</td></tr>
{% endfor %}</table>
<p>S-Tau: how well rankings agree with each other{% if truth %}; GT-Tau: with the truth; TnR: the
best true rank among the first n{% endif %}. 1 is agreement, 0 chance.</p>
{% for row in operations %}{% if loop.first %}<table><tr><th>decision</th><th>choice</th>
<th>architectures</th><th>over-rated, in ranks</th><th>95 % interval</th></tr>
{% endif %}<tr><td>{{ row.decision }}</td><td>{{ row.choice }}</td><td>{{ row.architectures }}</td>
<td>{{ "{:+.1f}".format(row.over_rated) }}</td><td>{{ brackets((row.low, row.high), 1) }}</td></tr>
{% if loop.last %}</table>{% endif %}{% endfor %}
"""


def _measured(
    ranked: list[pd.DataFrame], true: Floats | None, space: SearchSpace | None, seed: int
) -> RankStability:
    """All measures of runs, each as `_rankings` has it; `true` of each architecture."""
    texts = list(ranked[0].columns)
    finals = np.stack([frame.loc[("final", 0)].to_numpy() for frame in ranked])
    epochs, batches = ([_last(frame, kind) for frame in ranked] for kind in ("epoch", "batch"))
    agreement = {
        "runs": s_tau(finals) if len(finals) > 1 else None,
        "epochs": _within_runs(epochs),
        "batches": _within_runs(batches),
    }
    chance = random_std(len(texts))
    if true is None:
        return RankStability(len(texts), None, None, agreement, {}, chance, None)
    weights = _weights(len(true), seed, _DRAWS)
    taus = np.array([_tau(final, true) for final in finals])
    std = float(taus.std(ddof=1)) if len(taus) > 1 else None
    tau = GTTau(float(taus.mean()), _bootstrapped(finals, true, weights), std, len(taus))
    top = {}
    for n in (n for n in _TOP if n < len(true)):
        found = np.array([top_n_rank(final, true, n) for final in finals])
        error = float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else None
        top[n] = TopRank(float(found.mean()), error)
    operations = None if space is None else _operations(space, texts, finals, true, weights)
    batch_tau = _batch_tau(batches, true)
    return RankStability(len(texts), tau, batch_tau, agreement, top, chance, operations)


def _batch_tau(batches: list[Floats], true: Floats) -> BatchTau | None:
    k = min(map(len, batches))
    if k == 0:
        return None
    taus = np.array([[_tau(ranking, true) for ranking in values[:k]] for values in batches])
    return BatchTau(float(taus.mean()), float(taus.std(axis=1).mean()), k)


def _within_runs(values: list[Floats]) -> STau | None:
    """S-Tau of the instances of each run, over runs; the interval is over runs, too."""
    found = [s_tau(run) for run in values if len(run) > 1]
    if not found:
        return None
    means = np.array([s.mean for s in found])
    mean, interval = float(means.mean()), None
    if len(means) > 2:
        error = float(means.std(ddof=1) / np.sqrt(len(means)))
        interval = _within(_student(mean, error, len(means)))
    most, least = max(s.most for s in found), min(s.least for s in found)
    return STau(mean, most, least, interval, min(s.instances for s in found))


def _operations(
    space: SearchSpace, texts: list[str], finals: Floats, true: Floats, weights: Floats
) -> pd.DataFrame:
    """See `RankStability.operations`."""
    choices = np.array([space.from_string(text).choices for text in texts])
    ours = stats.rankdata(-finals, axis=1).mean(axis=0)
    over = stats.rankdata(-true) - ours
    rows: list[tuple[str, str, int, float, float, float]] = []
    for i, decision in enumerate(space.decisions):
        for j, choice in enumerate(decision.choices):
            having = choices[:, i] == j
            count, low, high = int(having.sum()), np.nan, np.nan
            if count >= _LEAST:
                drawn = weights[:, having]
                drawn = drawn[drawn.any(axis=1)]
                low, high = np.percentile(drawn @ over[having] / drawn.sum(axis=1), (2.5, 97.5))
            if count:
                mean = float(over[having].mean())
                rows.append((decision.name, str(choice), count, mean, float(low), float(high)))
    columns = ["decision", "choice", "architectures", "over_rated", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values("over_rated", ascending=False, kind="stable", ignore_index=True)


# Reading runs and truths


def _file(folder: Path) -> Path:
    return folder.expanduser() / "supernet" / RANKINGS


def _loaded(argument: str, run: object) -> Result:
    if isinstance(run, Result):
        return run
    try:
        return load(run)  # type: ignore[arg-type]
    except (StorageError, TypeError):
        what = "a run folder" if argument == "runs" else "a mapping, a run folder, or table:FILE"
        raise InvalidArgument(f"{argument}={run!r} is not {what}.") from None


def _rankings(result: Result) -> pd.DataFrame:
    """Values of a run: a row for each (kind, offset), a column for each architecture."""
    path = _file(result.path)
    if not path.is_file():
        raise InvalidArgument(
            f"runs={str(result.path)!r} has no rankings of a supernet: give a run with"
            " evaluate='supernet' (and probes > 0) whose supernet has been trained."
        )
    try:
        frame = pd.read_parquet(path)
        frame = frame.drop_duplicates(["kind", "offset", "architecture"], keep="last")
        table = frame.pivot(index=["kind", "offset"], columns="architecture", values="accuracy")
        if ("final", 0) not in table.index or table.shape[1] < 2:
            raise ValueError("no final ranking of two architectures or more")
        return table.astype(float)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidArgument(f"runs: {path} holds no rankings: {error}.") from None


def _last(frame: pd.DataFrame, kind: str) -> Floats:
    """Rankings of a kind, the last one first: `instances x architectures`."""
    rows = frame[frame.index.get_level_values("kind") == kind]
    return rows.sort_index().to_numpy()


def _check_alike(results: list[Result], ranked: list[pd.DataFrame]) -> None:
    first = results[0]
    for result, frame in zip(results[1:], ranked[1:], strict=True):
        spaces = [str(one.config["space"]) for one in (first, result)]
        if spaces[0] != spaces[1]:
            raise InvalidArgument(
                f"runs: {first.path.name} is of the space {spaces[0]!r}, {result.path.name} of"
                f" {spaces[1]!r}; give runs of one supernet."
            )
        differ = set(frame.columns) ^ set(ranked[0].columns)
        if differ:
            raise InvalidArgument(
                f"runs: only one of {first.path.name} and {result.path.name} ranked"
                f" {min(differ)!r} ({len(differ)} such); give runs with the same probes, groups and"
                " grouping."
            )


def _space(result: Result) -> SearchSpace | None:
    """The space of a run; None where only the user could make it."""
    try:
        return search_spaces.get(str(result.config["space"]))
    except UnknownName:
        return None


def _true_values(truth: Truth, space: SearchSpace | None, texts: list[str]) -> Floats:
    """Of each architecture; NaN where it is not known, minus infinity where it failed."""
    if isinstance(truth, str) and truth.startswith("table:"):
        truth = construct("truth", truth, {"table": Table})
    if isinstance(truth, Table):
        return _looked_up(truth, space, texts)
    if not isinstance(truth, Mapping | pd.Series):
        truth = _trained(_loaded("truth", truth), space)
    known: dict[object, list[float]] = {}
    for text, value in truth.items():
        try:
            known.setdefault(_form(space, str(text)), []).append(float(_lowest(value)))
        except InvalidArchitecture as error:
            raise InvalidArgument(f"truth: {error}") from None
        except (TypeError, ValueError):
            raise InvalidArgument(f"truth: {text!r} has {value!r}; give a number.") from None
    return np.array([np.mean(known.get(_form(space, text), [np.nan])) for text in texts])


def _form(space: SearchSpace | None, text: str) -> object:
    """What is equal for architectures that compute the same function."""
    return text if space is None else space.canonical(space.from_string(text))


def _trained(result: Result, space: SearchSpace | None) -> "pd.Series[Any]":
    """{architecture: accuracy} of the completed trials of a run with most epochs."""
    config = result.config
    if str(config["evaluate"]).partition(":")[0] in ("supernet", "proxy"):
        raise InvalidArgument(
            f"truth={str(result.path)!r} trained nothing from scratch (its evaluate is"
            f" {config['evaluate']!r}); give a run with evaluate='train'."
        )
    name = str(config["space"]).partition(":")[0]
    if space is not None and name != space.name:
        raise InvalidArgument(
            f"truth={str(result.path)!r} is of the space {name!r}, the supernet of {space.name!r}."
        )
    trials = result.trials
    ended = trials[trials["status"] == Status.COMPLETED.value]
    full = ended[ended["epochs"] == ended["epochs"].max()]
    return full.set_index("architecture")[METRIC]


def _looked_up(table: Table, space: SearchSpace | None, texts: list[str]) -> Floats:
    benchmark = table.benchmark(space)
    values = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        try:
            arch = (space or benchmark.space).from_string(text)
            values[i] = benchmark.finals[benchmark.row(arch)]
        except InvalidArchitecture:
            continue
    return values


# Statistics


def _lowest(values: object) -> Floats:
    """As numbers, those that are none below all others."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(numbers), -np.inf, numbers)


def _paired(values: ArrayLike, truth: ArrayLike, least: int) -> tuple[Floats, Floats]:
    ours, true = _lowest(values), _lowest(truth)
    if true.ndim != 1 or ours.shape[-1:] != true.shape or len(true) < least:
        raise InvalidArgument(
            f"values and truth: of shapes {ours.shape} and {true.shape}; wanted is one value of"
            f" each architecture, of at least {least}."
        )
    return ours, true


def _tau(a: Floats, b: Floats) -> float:
    tau = float(stats.kendalltau(a, b).statistic)
    return 0.0 if np.isnan(tau) else tau


def _weights(n: int, seed: int, draws: int) -> Floats:
    """How often each of n is in each bootstrap sample: `draws x n`."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return drawn.astype(np.float64)


def _bootstrapped(rankings: Floats, true: Floats, weights: Floats) -> Interval:
    """Of the mean over `rankings`, `instances x architectures`; see `tau_interval`."""

    def over_pairs(agree: Floats) -> Floats:
        """Weighted sums over pairs of architectures, one for each draw."""
        total: Floats = ((weights @ agree) * weights).sum(axis=1)
        return total

    def signs(values: Floats) -> Floats:
        ranks = stats.rankdata(values)
        return np.sign(ranks[:, None] - ranks)

    b = signs(true)
    untied = over_pairs(b * b)
    taus = np.zeros(len(weights))
    for a in map(signs, np.atleast_2d(rankings)):
        both = np.sqrt(over_pairs(a * a) * untied)
        taus += np.divide(over_pairs(a * b), both, out=np.zeros_like(both), where=both > 0)
    low, high = np.percentile(taus / len(np.atleast_2d(rankings)), (2.5, 97.5))
    return float(low), float(high)


def _student(mean: float, error: float | None, instances: int) -> Interval | None:
    """95 % interval of a mean with this standard error; None of a single instance."""
    if error is None or instances < 2:
        return None
    half = float(stats.t.ppf(0.975, instances - 1)) * error
    return mean - half, mean + half


def _within(interval: Interval | None) -> Interval | None:
    """What of it can be a tau."""
    return interval and (max(-1.0, interval[0]), min(1.0, interval[1]))


def _ends(operations: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The most over-rated choices, and the most under-rated."""
    if operations is None:
        return pd.DataFrame(), pd.DataFrame()
    over = operations[operations["over_rated"] > 0].head(_SHOWN)
    return over, operations[operations["over_rated"] < 0].tail(_SHOWN)


def _brackets(interval: Interval, digits: int = 2) -> str:
    if np.isnan(interval[0]):
        return ""
    return "[" + ", ".join(f"{end:.{digits}f}" for end in interval) + "]"
