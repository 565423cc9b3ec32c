"""Asynchronous successive halving.

Li et al.: A System for Massively Parallel Hyperparameter Tuning (MLSys 2020). Ray Tune's own ASHA
forgets its rungs when the driver dies; these are replayed from the journal.
"""

import math
from collections import Counter, defaultdict
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
    until then promotion lets nothing pass, and stopping everything. With `chance` no rung decides
    while more than half of its values are at chance: all that reach it pass. What the stopping
    variant has let pass undecided is judged as soon as that rung decides, among all that are there
    by then, at the end of its next epoch.

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
        #: {evaluation: (epochs, value) when it was stopped}
        self._stopped: dict[int, tuple[int, float]] = {}
        self._audited = False
        self._curves: dict[int, list[float]] = defaultdict(list)
        self._laws = PowerLaws(epochs)
        rung, needed = self.grace, float(self.peers or 1)
        while rung < epochs:
            self._rungs[rung] = self._rung(rung)
            self._needed[rung] = needed
            rung, needed = rung * self.reduction, needed / self.reduction

    def report(self, evaluation: int, epochs: int, value: float) -> bool:
        """Return whether the trial goes on: between rungs always, unless it has been overtaken."""
        if self.extrapolate:
            self._curves[evaluation].append(value)
        if epochs in self._rungs:
            self._arrive(evaluation, epochs, value)
        if self.promotes:
            goes_on = epochs not in self._rungs or self._mostly_at_chance(epochs)
            if goes_on and epochs in self._rungs:
                self._rungs[epochs].let_through(evaluation)
        else:
            goes_on = self._passes(evaluation)
        if not goes_on:
            self._undecided.pop(evaluation, None)
            self._stopped[evaluation] = epochs, value
        return goes_on

    def promotable(self) -> int | None:
        """Return the best candidate of the highest rung that has one."""
        rung = self._with_candidate()
        return None if rung is None else rung.candidate

    def promote(self) -> int | None:
        """Let what is `promotable` go on; its rung will not offer it again."""
        rung = self._with_candidate()
        evaluation = None if rung is None else rung.promote()
        if evaluation is not None:
            self._stopped.pop(evaluation, None)
        return evaluation

    def auditable(self) -> int | None:
        """Return the best of those that were stopped earliest, unless one went on already."""
        stopped = {i: at for i, at in self._stopped.items() if math.isfinite(at[1])}
        if self._audited or not self.audit or not stopped:
            return None
        return max(stopped, key=lambda i: (-stopped[i][0], stopped[i][1], -i))

    def start_audit(self) -> int | None:
        """Let what is `auditable` go on, once."""
        evaluation = self.auditable()
        if evaluation is not None:
            self._audited = True
            epochs, _ = self._stopped.pop(evaluation)
            if epochs in self._rungs:
                self._rungs[epochs].let_through(evaluation)
        return evaluation

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
        deciding = [e for e in undecided if self._has_peers(e) and not self._mostly_at_chance(e)]
        return all(self._rungs[e].passes(undecided.pop(e), evaluation) for e in deciding)

    def _has_peers(self, epochs: int) -> bool:
        return self._arrived[epochs] >= self._needed[epochs]

    def _mostly_at_chance(self, epochs: int) -> bool:
        return 2 * self._at_chance[epochs] > self._arrived[epochs]

    def _with_candidate(self) -> Rung | None:
        """Return the highest rung that has its peers and a candidate, if any."""
        rungs = (self._rungs[e] for e in reversed(self._rungs) if self._has_peers(e))
        return next((rung for rung in rungs if rung.candidate is not None), None)
