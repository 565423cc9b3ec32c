"""How far a run is, what runs and where, what has failed, and what it has cost. Pure: from events.

`raynas status` shows it, from any machine that sees the run folder, whether the run is on or not.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raynas.record.events import (
    Complete,
    EnsembleMade,
    Event,
    Exhausted,
    Finished,
    Placed,
    Reported,
    Retrained,
    Retraining,
    RetrainingFailed,
    Scored,
    Searched,
    SearchEnded,
    Selected,
    Selecting,
    SelectingFailed,
    Session,
    Status,
    Suggested,
    SupernetTrained,
    Understood,
)
from raynas.record.history import Evaluation, History

_SEARCH, _SELECT, _RETRAIN = "search", "select", "retrain"
#: the stage that a run was in when the last of these events was written
_STAGES: Mapping[type[Event], str] = {
    Scored: "score",
    **dict.fromkeys((Suggested, Reported, Finished, Searched, SearchEnded), _SEARCH),
    **dict.fromkeys((SupernetTrained, Exhausted), _SEARCH),
    **dict.fromkeys((Selecting, SelectingFailed), _SELECT),
    **dict.fromkeys((Selected, Retraining, RetrainingFailed), _RETRAIN),
    Retrained: "export",
    EnsembleMade: "understand",
    Understood: "report",
    Complete: "done",
}
_NAMED = 5  # evaluations of a common failure


@dataclass(frozen=True)
class Progress:
    """A look at a run.

    Args:
        events: of its journal.
        config: its arguments.
        running: whether a driver is at work on it.
        now: in seconds since 1970.
    """

    events: Sequence[Event]
    config: Mapping[str, Any]
    running: bool
    now: float

    @cached_property
    def history(self) -> History:
        """Return what the events come to."""
        return History(self.events)

    @property
    def state(self) -> str:
        """Return `running`, `finished`, or `stopped`: killed, interrupted, or ended by an error."""
        if self.running:
            return "running"
        return "finished" if self.history.complete else "stopped"

    @cached_property
    def stage(self) -> str:
        """Return the stage that the run is in, or was in when it stopped; `done` at its end."""
        for event in reversed(self.events):
            if isinstance(event, Placed) and event.work in (_SELECT, _RETRAIN):
                return event.work
            if type(event) in _STAGES:
                return _STAGES[type(event)]
        return _SEARCH

    @property
    def counts(self) -> dict[str, int]:
        """Return {status: number of evaluations}, of those that occur."""
        statuses = [evaluation.status.value for evaluation in self.history.evaluations]
        return {s.value: statuses.count(s.value) for s in Status if s.value in statuses}

    @property
    def best(self) -> Evaluation | None:
        """Return the evaluation that was chosen, or else the best by now."""
        return self.history.chosen or self.history.best

    @property
    def seconds(self) -> float:
        """Return how long drivers have been at work."""
        return self.history.seconds(self.now if self.running else None)

    @property
    def _until(self) -> float:
        """Return until when what holds a place is counted."""
        return self.now if self.running or not self.events else self.events[-1].time

    @property
    def cpu_hours(self) -> float:
        """Return the core-hours of what was placed in the cluster; see `Costs`."""
        return self.history.costs.cpu_seconds(self._until) / 3600

    @property
    def gpu_hours(self) -> float:
        """Return the GPU-hours of what was placed in the cluster; see `Costs`."""
        return self.history.costs.gpu_seconds(self._until) / 3600

    @property
    def at_work(self) -> list[dict[str, Any]]:
        """Return what runs: `work`, `number`, `node`, `seconds`, `epochs`, `of`, `architecture`.

        `seconds` is since its place, or the last epoch of it, was recorded. Nothing runs without a
        driver.
        """
        if not self.running:
            return []
        places = self.history.costs.places.items()
        rows = [self._row(work, number, p.node, p.since) for (work, number), p in places]
        placed = {(row["work"], row["number"]) for row in rows}
        cheap = [e for e in self.history.running if ("evaluation", e.index) not in placed]
        return rows + [self._row("evaluation", e.index, "", None) for e in cheap]

    def _row(self, work: str, number: int, node: str, since: float | None) -> dict[str, Any]:
        history = self.history
        if work == _SEARCH:
            epochs = len(history.searches.get(number, []))
            architecture = history.searches[number][-1].architecture if epochs else ""
        else:
            curves = {_SELECT: history.selecting, _RETRAIN: history.retraining}.get(work)
            evaluation = history.evaluations[number]
            epochs = evaluation.epochs if curves is None else len(curves.get(number, []))
            architecture = evaluation.notation
        return {
            "work": work, "number": number, "node": node,
            "seconds": None if since is None else round(self.now - since, 1),
            "epochs": epochs, "of": self._epochs_of(work), "architecture": architecture,
        }  # fmt: skip

    def _epochs_of(self, work: str) -> int | None:
        """Return how many epochs work has at its end; None: not known here."""
        if work == _SEARCH:
            return None
        if work == "evaluation":
            return int(self.config["epochs"])
        if self.history.planned is not None:
            return self.history.planned.epochs[work]
        return int(self.config["retrain_epochs"] or self.config["epochs"])

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Return `reason`, `count` and the first `evaluations` of what failed, the most first.

        Reasons that differ in numbers only (of bytes, of places in memory) are one.
        """
        failed = (Status.FAILED, Status.DIVERGED)
        reasons = [(e.reason, e.index) for e in self.history.evaluations if e.status in failed]
        full = self.history.selecting_failures.items(), self.history.retraining_failed.items()
        reasons += [(reason, index) for curve in full for index, reason in curve]
        groups: dict[str, dict[str, Any]] = {}
        for reason, index in reasons:
            new = {"reason": reason or "no reason known", "count": 0, "evaluations": []}
            group = groups.setdefault(re.sub(r"\d+", "0", reason or ""), new)
            group["count"] += 1
            group["evaluations"] = [*group["evaluations"], index][:_NAMED]
        return sorted(groups.values(), key=lambda group: -group["count"])

    @property
    def seconds_left(self) -> float | None:
        """Return the seconds until the end of the stage, at the pace of this driver, if known."""
        if not self.running:
            return None
        if self.stage == _SEARCH:
            return self._search_left()
        if self.stage in (_SELECT, _RETRAIN):
            return self._trainings_left(self.stage)
        return None

    def _search_left(self) -> float | None:
        """Return the seconds until all samples have ended, or the time of the search is over."""
        left = []
        begun, ended = None, 0
        for event in reversed(self.events):
            if isinstance(event, Session):
                break
            ended += isinstance(event, Finished)
            begun = event.time
        if begun is not None and ended:
            rest = max(0, self.config["samples"] - len(self.history.finished))
            left.append(rest * (self.now - begun) / ended)
        if _SEARCH in self.history.allotted:
            left.append(max(0.0, self.history.allotted[_SEARCH] - self.seconds))
        gpus = sum(place.gpus for place in self.history.costs.places.values())
        if self.config.get("gpu_hours") is not None and gpus:
            used = self.history.costs.gpu_seconds(self._until, "evaluation")
            left.append(max(0.0, 3600 * self.config["gpu_hours"] - used) / gpus)
        return min(left, default=None)

    def _trainings_left(self, work: str) -> float | None:
        """Return the seconds until the last of the full trainings that run ends."""
        rows = [row for row in self.at_work if row["work"] == work and row["epochs"]]
        return max((self._training_left(row) for row in rows), default=None)

    def _training_left(self, row: Mapping[str, Any]) -> float:
        """Return the seconds until a full training ends, by the time that its epochs took."""
        kind = Selecting if row["work"] == _SELECT else Retraining
        times: list[float] = []
        for event in self.events:
            if isinstance(event, Placed) and (event.work, event.number) == (
                row["work"], row["number"],
            ):  # fmt: skip
                times = [event.time]
            elif isinstance(event, kind) and event.evaluation == row["number"]:
                times.append(event.time)
        pace = (times[-1] - times[0]) / max(1, len(times) - 1)
        rest = (row["of"] - row["epochs"]) * pace
        return float(max(0.0, rest - (self.now - times[-1])))
