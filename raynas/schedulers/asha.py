"""Asynchronous successive halving.

Li et al.: A System for Massively Parallel Hyperparameter Tuning (MLSys 2020). Ray Tune's own ASHA
forgets its rungs when the driver dies; these are replayed from the journal.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import PositiveInt

from raynas.schedulers.extrapolation import PowerLaws
from raynas.schedulers.rungs import Rung
from raynas.schedulers.scheduler import Scheduler


@dataclass
class Asha(Scheduler):
    """Asynchronous successive halving.

    Li et al.: A System for Massively Parallel Hyperparameter Tuning (MLSys 2020). Rung k stands
    at r * eta^k epochs; no rung waits to be complete.

    The stopping variant decides at once: a trial that reaches a rung goes on if it is among the
    best 1/eta of all that have reached it so far, at least the best one. The promotion variant,
    the paper's algorithm 2, stops every trial at its rung; when a worker is free, the best one
    in the highest rung that is among the best 1/eta of its rung and was not promoted goes on to
    the next, and only where there is none a new architecture starts. Promotion makes fewer
    mistakes early on, stopping needs no second start of a trial.

    Two options, which are not in the paper, keep a rung from deciding too early. With `peers` the
    first rung decides once so many have reached it, the next one with 1/eta as many, and so on:
    until then promotion lets nothing pass, and stopping everything. With `chance` a rung that eta
    or more have reached does not decide while more than half of its values are at chance: all that
    reach it pass. What stopping has let pass undecided is judged once that rung decides, among all
    that are there by then, at the end of its next epoch.

    Args:
        grace: epochs that every trial gets, r.
        reduction: eta; 1 trial of `reduction` passes a rung.
        variant: `stopping` or `promotion`.
        peers: results that the first rung must have before it decides; None: 1, which lets the
            very first trial pass whatever it is. Where `stopping` has fewer free workers than
            this, its first trials run on for long: rather use `promotion`.
        chance: the highest value that is no evidence of learning: the share of the largest class,
            say, and two standard errors; None: every value is evidence.
        extrapolate: whether trials are compared by what their learning curves promise for the last
            epoch (`PowerLaws`), instead of by their values at the rung.
        audit: whether, when there is nothing else left to do, the best of those that were stopped
            earliest goes on once, to the next rung at least, to see what stopping them has cost.
    """

    grace: PositiveInt = 1
    reduction: Annotated[int, Ge(2)] = 4
    variant: Literal["stopping", "promotion"] = "stopping"
    # None, not False: what is None is not spelled out, so older runs have the same configuration
    peers: PositiveInt | None = field(default=None, kw_only=True)
    chance: float | None = field(default=None, kw_only=True)
    extrapolate: bool | None = field(default=None, kw_only=True)
    audit: bool | None = field(default=None, kw_only=True)
    _rungs: dict[int, "Rung"] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Say what it does, which is asked before it is started."""
        self.extrapolate, self.audit = self.extrapolate or None, self.audit or None
        self.promotes, self.audits = self.variant == "promotion", bool(self.audit)
        self.fewest_samples = (self.peers or 1) if self.promotes else 1

    @property
    def rungs(self) -> dict[int, list[float]]:
        """Return {epochs: all values recorded at this rung, rising}."""
        return {epochs: rung.values for epochs, rung in self._rungs.items()}

    def start(self, epochs: int) -> None:
        """Set up the rungs below the largest number of epochs."""
        super().start(epochs)
        self._rungs = {}
        #: {rung: how many must arrive before it decides}
        self._needed: dict[int, float] = {}
        #: {rung: how many have arrived}, and with a value at chance
        self._arrived, self._at_chance = Counter[int](), Counter[int]()
        #: {evaluation: {rung: its value there}}, where the rung has not decided on it
        self._undecided: dict[int, dict[int, float]] = {}
        #: {epochs: {evaluation: value}} of those that were stopped then, and have not gone on
        self._stopped: dict[int, dict[int, float]] = defaultdict(dict)
        #: {epochs: how many of those were forgotten}
        self._forgotten = Counter[int]()
        #: what waits to go on because its rung is at chance
        self._released: deque[int] = deque()
        self._audited = False
        self._curves: dict[int, list[float]] = defaultdict(list)
        self._laws = PowerLaws(epochs)
        rung, needed = self.grace, float(self.peers or 1)
        while rung < epochs:
            self._rungs[rung] = self._rung(rung)
            self._needed[rung] = needed
            rung, needed = rung * self.reduction, needed / self.reduction

    def report(self, evaluation: int, epochs: int, value: float) -> bool:
        """Return whether the trial goes on."""
        if self.extrapolate:
            self._curves[evaluation].append(value)
        at_rung = epochs in self._rungs
        if at_rung:
            self._arrive(evaluation, epochs, value)
        goes_on = not at_rung if self.promotes else self._passes(evaluation)
        if not goes_on:
            self._undecided.pop(evaluation, None)
            self._stopped[epochs][evaluation] = value
        if at_rung and self.promotes and self._has_peers(epochs) and self._is_at_chance(epochs):
            self._release(epochs)  # this one too
        return goes_on

    def promotable(self) -> int | None:
        """Return the best candidate of the highest rung that has one, else one that is let pass."""
        epochs = self._with_candidate()
        if epochs is not None:
            return self._rungs[epochs].candidate
        return self._released[0] if self._released else None

    def promote(self) -> int | None:
        """Let what is `promotable` go on; its rung will not offer it again."""
        epochs = self._with_candidate()
        if epochs is None:
            return self._released.popleft() if self._released else None
        evaluation = self._rungs[epochs].promote()
        if evaluation is not None:
            self._stopped[epochs].pop(evaluation, None)
        return evaluation

    def auditable(self) -> int | None:
        """Return the best of those that were stopped earliest, unless one went on already."""
        found = self._to_audit()
        return None if found is None else found[1]

    def start_audit(self) -> int | None:
        """Let what is `auditable` go on, once."""
        found = self._to_audit()
        if found is None:
            return None
        self._audited = True
        epochs, evaluation = found
        del self._stopped[epochs][evaluation]
        if epochs in self._rungs:
            self._rungs[epochs].let_through(evaluation)
        return evaluation

    def may_go_on(self, samples: int) -> Collection[int] | None:
        """Return what is, or may come to be, among the best 1/eta of its rung, or be audited."""
        going = set(self._released)
        arrivals = samples  # at the next rung, at most
        for epochs, rung in self._rungs.items() if self.promotes else ():
            passing = rung.may_pass(arrivals)
            if self._may_be_at_chance(epochs, arrivals):
                passing = list(self._stopped[epochs])
            arrivals -= len(self._stopped[epochs]) + self._forgotten[epochs] - len(passing)
            going.update(passing)
        for stopped in self._stopped.values() if self.audit and not self._audited else ():
            rest = stopped.keys() - going
            going.update([max(rest, key=lambda i: (stopped[i], -i))] if rest else [])
        return going

    def forget(self, evaluations: Collection[int]) -> None:
        """Count evaluations as promoted, so that they are never offered."""
        for epochs, stopped in self._stopped.items():
            for evaluation in stopped.keys() & set(evaluations):
                del stopped[evaluation]
                self._forgotten[epochs] += 1
                if epochs in self._rungs:
                    self._rungs[epochs].let_through(evaluation)

    def _rung(self, epochs: int) -> Rung:
        """Make an empty rung at so many epochs."""
        return Rung(self.reduction, least=0 if self.promotes else 1)

    def _arrive(self, evaluation: int, epochs: int, value: float) -> None:
        """Record a trial at a rung."""
        self._arrived[epochs] += 1
        self._at_chance[epochs] += self.chance is not None and value <= self.chance
        if self.extrapolate:
            value = self._laws.predict(evaluation, self._curves[evaluation])
        self._rungs[epochs].add(value, evaluation)
        if not self.promotes:
            self._undecided.setdefault(evaluation, {})[epochs] = value

    def _passes(self, evaluation: int) -> bool:
        """Return whether a trial passes all its rungs that decide and have not decided on it."""
        undecided = self._undecided.get(evaluation, {})
        deciding = [e for e in undecided if self._has_peers(e) and not self._is_at_chance(e)]
        return all(self._rungs[e].passes(undecided.pop(e), evaluation) for e in deciding)

    def _has_peers(self, epochs: int) -> bool:
        return self._arrived[epochs] >= self._needed[epochs]

    def _is_at_chance(self, epochs: int) -> bool:
        arrived = self._arrived[epochs]
        return arrived >= self.reduction and 2 * self._at_chance[epochs] > arrived

    def _may_be_at_chance(self, epochs: int, arrivals: int) -> bool:
        """Return whether a rung could come to be at chance, when in the end so many arrive."""
        coming = arrivals - self._arrived[epochs]
        return self.chance is not None and 2 * (self._at_chance[epochs] + coming) > arrivals

    def _release(self, epochs: int) -> None:
        """Let everything that waits at a rung pass."""
        for evaluation in self._stopped.pop(epochs):
            self._rungs[epochs].let_through(evaluation)
            self._released.append(evaluation)

    def _with_candidate(self) -> int | None:
        """Return the highest rung that has its peers and a candidate, if any."""
        rungs = (e for e in reversed(self._rungs) if self._has_peers(e))
        return next((e for e in rungs if self._rungs[e].candidate is not None), None)

    def _to_audit(self) -> tuple[int, int] | None:
        """Return the fewest epochs after which a trial with a value was stopped, and the best."""
        if not self.audit or self._audited:
            return None
        for epochs in sorted(self._stopped):
            stopped = {i: v for i, v in self._stopped[epochs].items() if math.isfinite(v)}
            if stopped:
                return epochs, max(stopped, key=lambda i: (stopped[i], -i))
        return None
