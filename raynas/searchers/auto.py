"""The recommended searcher: a prior, a surrogate, and neighborhood moves."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import PositiveInt

from raynas.searchers.fidelities import places
from raynas.searchers.prior import PRIORS, LinearPrior, check_prior
from raynas.searchers.searcher import Scoring, Searcher
from raynas.searchers.surrogate import Features, Floats, Surrogate, description_of
from search_spaces import Architecture, SearchSpace
from trials.proxies import Score, check_proxy

_FIT_EVERY = 3  # architectures between searches for the surrogate's parameters
_POOL = 400  # random candidates that are kept from one proposal to the next
_DRAWN = 30  # of them, drawn anew for each
_NEAR = 30  # neighbors of an architecture that are looked at, where it has more
_CENTERS = 3  # best architectures whose neighbors are candidates
_CLIMB = 6  # steps from neighbor to neighbor after higher expected improvement
_LEARNED = 150  # best architectures that the surrogate learns, and as many of the latest
_MEASURED = 60  # random architectures that say how the signals of a prior are spread

#: {canonical form: what it is compared by}, in order of arrival
Ranks = dict[Architecture, tuple[int, float]]


@dataclass
class Auto(Searcher):
    """Starts where a proxy points, then asks for the largest expected improvement.

    The first architectures are those of `candidates` random ones that score best. After them a
    Gaussian process (`Surrogate`) is fitted to everything known, and the architecture is asked
    for that promises the largest expected improvement among random ones and the neighbors of the
    best, climbing from neighbor to neighbor. What is still being evaluated counts as having the
    value predicted for it. What computes the same function is asked for once only.

    Results are ordered by the epochs behind them first and by their value second, so that trials
    which a scheduler has stopped teach the surrogate too; see `fidelities`.

    Args:
        initial: architectures that are evaluated before the surrogate takes over.
        candidates: random architectures that are scored for them.
        proxy: the score; any of `trials.proxies.PROXIES`, or a function of the user's own.
        first: architectures that are evaluated before all others, in the notation of the space
            and with ";" between them; they count among the initial ones. None: none.
        prior: `counts`: parameters and MACs incline what the surrogate expects, before results and
            where there are none, as strongly as the results so far support it (`LinearPrior`).
            `structure`: and of cells how many paths they have and how long these are. None: such
            things only tell what is similar.
        fidelities: true: the values after fewer epochs, of trials that were stopped or still run,
            are observations of lower fidelity: they place an architecture among all that got as
            far, and are the less certain the more epochs they lack (`places`, `Surrogate`).
    """

    initial: PositiveInt = 4
    candidates: PositiveInt = 60
    proxy: str | Score = "macs"
    first: str | None = None
    prior: Literal["counts", "structure"] | None = None
    fidelities: bool | None = None
    #: {canonical form: (budget, value)}, in order of arrival
    results: dict[Architecture, tuple[int, float]] = field(
        default_factory=dict, init=False, repr=False
    )
    #: {canonical form: {epochs: value}}, with `fidelities`
    curves: dict[Architecture, dict[int, float]] = field(
        default_factory=dict, init=False, repr=False
    )
    _first: list[Architecture] = field(default_factory=list, init=False, repr=False)
    _drawn: list[Architecture] = field(default_factory=list, init=False, repr=False)
    _pending: list[Architecture] = field(default_factory=list, init=False, repr=False)
    _asked: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        check_proxy("proxy", self.proxy)

    def check(self, space: SearchSpace) -> None:
        """Refuse `first` where the space cannot read it, and `prior` where it cannot count."""
        self._known(space)
        if self.prior is not None:
            check_prior(self.prior, space)

    def _known(self, space: SearchSpace) -> list[Architecture]:
        """Return what is to be first."""
        texts = [] if self.first is None else self.first.split(";")
        return [space.canonical(space.from_string(text)) for text in texts]

    def start(self, space: SearchSpace, seed: int) -> None:
        """Draw the candidates of the first architectures."""
        if self.prior is not None:
            check_prior(self.prior, space)
        super().start(space, seed)
        self.results, self.curves = {}, {}
        self._first, self._pending, self._asked = [], [], 0
        drawn = (space.canonical(space.sample(self.rng)) for _ in range(self.candidates))
        self._drawn = list(dict.fromkeys(drawn))
        self.scoring = Scoring(self.proxy, list(self._drawn))
        self._description = description_of(space)
        self._surrogate: Surrogate | None = None

    def tell_scores(self, scores: Mapping[Architecture, float]) -> None:
        """Let what is to be first begin, then the best-scoring architectures."""
        known = self._known(self.space)
        scored = sorted(scores, key=lambda arch: -scores[arch])
        begin = dict.fromkeys([*known, *scored])
        self._first = list(begin)[: max(self.initial, len(known))]

    def ask(self) -> Architecture:
        """Return one of the first, or what the surrogate expects most of."""
        if self._first:
            arch = self._first.pop(0)
        elif self._known_values < 2:
            arch = self.space.canonical(self.space.sample(self.rng))
        else:
            arch = self._most_promising()
        self._pending.append(arch)
        self._asked += 1
        return arch

    @property
    def _known_values(self) -> int:
        if self.fidelities:
            return len(self.curves)
        return sum(math.isfinite(value) for _, value in self.results.values())

    def hear(self, architecture: Architecture, value: float, epochs: int) -> None:
        """Remember what is known of an architecture before its evaluation is over."""
        if self.fidelities and math.isfinite(value):
            self.curves.setdefault(self.space.canonical(architecture), {})[epochs] = value

    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """Remember a result; a later one with more epochs replaces an earlier one."""
        form = self.space.canonical(architecture)
        if form in self._pending:
            self._pending.remove(form)
        self.results[form] = max(self.results.get(form, (0, -math.inf)), (budget, value))
        self.hear(form, value, budget)
        if not math.isfinite(self.results[form][1]):
            self.curves.pop(form, None)  # it failed

    def decline(self, architecture: Architecture) -> None:
        """Await no result."""
        self._pending.remove(architecture)
        self._asked -= 1

    def _most_promising(self) -> Architecture:
        ranks = self._ranks()
        seen = {*ranks, *self._pending}
        pool = self._pool(ranks, seen)
        if not pool:
            return self.space.canonical(self.space.sample(self.rng))
        surrogate = self._fitted(ranks)
        best, promise = self._best_of(surrogate, pool)
        for _ in range(_CLIMB):
            near = self._new_neighbors(best, seen)
            if not near:
                break
            higher, more = self._best_of(surrogate, near)
            if more <= promise:
                break
            best, promise = higher, more
        return best

    def _best_of(
        self, surrogate: Surrogate, pool: list[Architecture]
    ) -> tuple[Architecture, float]:
        promises = surrogate.expected_improvement(self._description.rows(pool))
        best = int(promises.argmax())
        return pool[best], float(promises[best])

    def _pool(self, ranks: Ranks, seen: set[Architecture]) -> list[Architecture]:
        """Return the candidates: random ones, and the neighbors of the best that are known."""
        drawn = [self.space.canonical(self.space.sample(self.rng)) for _ in range(_DRAWN)]
        kept = (arch for arch in dict.fromkeys([*drawn, *self._drawn]) if arch not in seen)
        self._drawn = list(itertools.islice(kept, _POOL))
        pool = self._admitted(self._drawn)
        for center in sorted(ranks, key=ranks.__getitem__, reverse=True)[:_CENTERS]:
            pool += self._new_neighbors(center, seen)
        return list(dict.fromkeys(pool))

    def _new_neighbors(self, arch: Architecture, seen: set[Architecture]) -> list[Architecture]:
        near = list(self.space.neighbors(arch))
        if len(near) > _NEAR:
            near = [near[i] for i in self.rng.choice(len(near), _NEAR, replace=False)]
        forms = (self.space.canonical(neighbor) for neighbor in near)
        return self._admitted([form for form in dict.fromkeys(forms) if form not in seen])

    def _admitted(self, forms: list[Architecture]) -> list[Architecture]:
        """Return those that would be evaluated now."""
        return list(forms if self.admits is None else filter(self.admits, forms))

    def _fitted(self, ranks: Ranks) -> Surrogate:
        """Fit the surrogate to what is known and, as predicted, to what is awaited."""
        archs = _learned(ranks)
        features = self._description.rows(archs)
        if self._surrogate is None:
            self._surrogate = self._new_surrogate(features)
        surrogate = self._surrogate
        order = {rank: i for i, rank in enumerate(sorted({ranks[arch] for arch in archs}))}
        values = np.array([float(order[ranks[arch]]) for arch in archs])
        search = self._asked % _FIT_EVERY == 0
        surrogate.fit(features, values, search, self._missing(archs))
        if self._pending:
            surrogate.believe(self._description.rows(self._pending))
        return surrogate

    def _ranks(self) -> Ranks:
        """Return what is known in order: more epochs first, or by `places`; failed ones last."""
        ranks = {
            arch: (budget, value) if math.isfinite(value) else (0, -math.inf)
            for arch, (budget, value) in self.results.items()
        }
        return ranks | {arch: (1, float(place)) for arch, place in places(self.curves).items()}

    def _missing(self, archs: list[Architecture]) -> Floats | None:
        """Return the logarithm of by how much the most epochs are more than those of each."""
        if not self.fidelities:
            return None
        epochs = np.array([max(self.curves.get(arch, {0: 0.0})) for arch in archs])
        return np.where(epochs > 0, np.log(epochs.max() / np.maximum(epochs, 1)), 0.0)

    def _new_surrogate(self, features: Features) -> Surrogate:
        components = [name for name in features if name != "structure"]
        drift = bool(self.fidelities)
        if self.prior is None:
            return Surrogate(components, self.rng, drift)
        drawn = [self.space.canonical(self.space.sample(self.rng)) for _ in range(_MEASURED)]
        signals = [name for name in PRIORS[self.prior] if name in features]
        rows = self._description.rows(drawn)
        return LinearPrior(components, self.rng, signals, rows, drift)


def _learned(ranks: Ranks) -> list[Architecture]:
    """Return what the surrogate learns: the best, and the latest."""
    archs = list(ranks)
    if len(archs) <= 2 * _LEARNED:
        return archs
    best = sorted(archs, key=ranks.__getitem__, reverse=True)[:_LEARNED]
    return list(dict.fromkeys([*best, *archs[-_LEARNED:]]))
