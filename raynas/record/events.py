"""What happens in a run, as the journal has it: one frozen type for each kind of event.

An event is one JSON object a line: `event`, its kind; its fields; `time`, in seconds since 1970.
`FORMAT` counts what readers must know: it rises when a field changes its meaning, and stands in
the `session` event; a journal without it has format 1. New kinds and fields do not change it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

FORMAT = 1

#: what a search maximizes where its evaluator does not say otherwise
METRIC = "val_accuracy"

Metrics = Mapping[str, float]


class Status(str, Enum):
    """How an evaluation stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    #: ended early by the scheduler
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Event:
    """Something that has happened; the journal stamps it with its time."""

    kind: ClassVar[str]
    time: float = field(default=0.0, kw_only=True, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the event as JSON data."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        moment = values.pop("time")
        plain = {k: v.value if isinstance(v, Status) else v for k, v in values.items()}
        return {"event": self.kind, **plain, "time": moment}


@dataclass(frozen=True)
class Session(Event):
    """A driver started, or went on: what it maximizes, and with what software and hardware."""

    kind: ClassVar[str] = "session"
    metric: str = METRIC
    versions: Mapping[str, str] = field(default_factory=dict)
    nodes: Sequence[Mapping[str, float]] = ()
    machine: str = ""
    format: int = 1


@dataclass(frozen=True)
class Planned(Event):
    """What a run with a time budget does in its time, and why.

    Attributes:
        seconds: the budget.
        inner: seconds of it that the shares are of.
        shares: of search, last decision and retraining.
        closing: seconds that are kept for what follows the retraining.
        cpus: cores of a training that runs alone.
        alone: how many times faster it is than one with a trial's cores.
        epochs: {stage: epochs of a training}, of `select` and `retrain`.
        longest: {stage: seconds of a training beyond which nothing is gained}.
        choices: `argument`, `value` and `why` of everything, for people.
    """

    kind: ClassVar[str] = "planned"
    seconds: float
    inner: float
    shares: Sequence[float]
    closing: float
    cpus: int
    alone: float
    epochs: Mapping[str, int]
    longest: Mapping[str, float]
    choices: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Allotted(Event):
    """A stage has got its share of the time that is left.

    Attributes:
        stage: `search`, `select` or `retrain`.
        seconds: of each training, as the pace has them; of the search, when it ends, in seconds
            of the run.
    """

    kind: ClassVar[str] = "allotted"
    stage: str
    seconds: float


@dataclass(frozen=True)
class Scored(Event):
    """An architecture has its proxy score, before the first evaluation."""

    kind: ClassVar[str] = "scored"
    architecture: str
    score: float
    reason: str | None = None


@dataclass(frozen=True)
class Suggested(Event):
    """An evaluation begins."""

    kind: ClassVar[str] = "suggested"
    evaluation: int
    architecture: str


@dataclass(frozen=True)
class Waited(Event):
    """The searcher asked only for what is known, and had nothing new."""

    kind: ClassVar[str] = "waited"


@dataclass(frozen=True)
class Exhausted(Event):
    """There is nothing new to be had: the search is at its end."""

    kind: ClassVar[str] = "exhausted"


@dataclass(frozen=True)
class Promoted(Event):
    """The scheduler lets an evaluation go on that it had stopped."""

    kind: ClassVar[str] = "promoted"
    evaluation: int


@dataclass(frozen=True)
class Audited(Event):
    """An evaluation that was stopped goes on, to see what stopping it has cost."""

    kind: ClassVar[str] = "audited"
    evaluation: int


@dataclass(frozen=True)
class Reported(Event):
    """An evaluation has done one more epoch."""

    kind: ClassVar[str] = "reported"
    evaluation: int
    metrics: Metrics


@dataclass(frozen=True)
class Placed(Event):
    """Work has got its place in the cluster, where it runs from now on.

    Attributes:
        work: `evaluation`, `search`, `select` or `retrain`.
        number: of the search, or else of the evaluation.
        node: the name of the machine; empty: not known.
        cpus: cores that it holds.
        gpus: GPUs that it holds.
    """

    kind: ClassVar[str] = "placed"
    work: str
    number: int
    node: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Finished(Event):
    """An evaluation has ended."""

    kind: ClassVar[str] = "finished"
    evaluation: int
    status: Status
    reason: str | None = None


@dataclass(frozen=True)
class Retried(Event):
    """An evaluation that failed by a fault of the machine begins again."""

    kind: ClassVar[str] = "retried"
    evaluation: int


@dataclass(frozen=True)
class Discarded(Event):
    """The checkpoints of evaluations that have ended are needed no more, and are removed."""

    kind: ClassVar[str] = "discarded"
    evaluations: Sequence[int]


@dataclass(frozen=True)
class Leading(Event):
    """The best evaluation by now, where the searcher judges by more than the value."""

    kind: ClassVar[str] = "leading"
    evaluation: int


@dataclass(frozen=True)
class Grown(Event):
    """A growing ensemble has taken a step; see `GrowingSearcher.decide`."""

    kind: ClassVar[str] = "grown"
    iteration: int
    pruned: Sequence[int]
    lost: Sequence[int]
    joined: int | None
    members: Sequence[int]
    objectives: Mapping[str, float]
    objective: float | None


@dataclass(frozen=True)
class SupernetTrained(Event):
    """The shared weights of a group have been trained for one more epoch."""

    kind: ClassVar[str] = "supernet"
    group: int
    epoch: int
    metrics: Metrics


@dataclass(frozen=True)
class Searched(Event):
    """A differentiable search has done one more epoch.

    Attributes:
        search: its number.
        epoch: epochs done.
        architecture: what its mixtures come down to.
        metrics: see `trials.differentiable.GradientSearch.step`.
        mixture: for each slot of the supernet the weights of its choices.
    """

    kind: ClassVar[str] = "searched"
    search: int
    epoch: int
    architecture: str
    metrics: Metrics
    mixture: Sequence[Sequence[float]]


@dataclass(frozen=True)
class SearchEnded(Event):
    """A differentiable search has ended."""

    kind: ClassVar[str] = "search_ended"
    search: int
    status: Status
    reason: str | None = None


@dataclass(frozen=True)
class Selecting(Event):
    """The full training of a candidate of the last decision has done one more epoch."""

    kind: ClassVar[str] = "selecting"
    evaluation: int
    epoch: int
    metrics: Metrics


@dataclass(frozen=True)
class SelectingFailed(Event):
    """The full training of a candidate of the last decision failed: it is out."""

    kind: ClassVar[str] = "selecting_failed"
    evaluation: int
    reason: str


@dataclass(frozen=True)
class Selected(Event):
    """The last decision has been made.

    Attributes:
        evaluations: the candidates, the best of the search first; empty: it is the search's own,
            after one that was not.
        chosen: those of them that were fully trained, the best by that first.
    """

    kind: ClassVar[str] = "selected"
    evaluations: Sequence[int]
    chosen: Sequence[int]


@dataclass(frozen=True)
class Retraining(Event):
    """The retraining of an evaluation's architecture has done one more epoch."""

    kind: ClassVar[str] = "retraining"
    evaluation: int
    epoch: int
    metrics: Metrics


@dataclass(frozen=True)
class RetrainingFailed(Event):
    """The retraining of an evaluation's architecture failed."""

    kind: ClassVar[str] = "retraining_failed"
    evaluation: int
    reason: str


@dataclass(frozen=True)
class Retrained(Event):
    """An evaluation's architecture has been retrained."""

    kind: ClassVar[str] = "retrained"
    evaluation: int
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class EnsembleMade(Event):
    """The ensemble that was asked for is in the run folder."""

    kind: ClassVar[str] = "ensemble"
    asked: str
    evaluations: Sequence[int]
    metrics: Metrics
    curves: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Understood(Event):
    """What the run tells is in the run folder.

    Attributes:
        evaluations: number of those that had ended.
        winner: the evaluation that was chosen.
        figures: names of the figures, `understanding/<name>.png`.
        problems: {part: why it could not be told}.
    """

    kind: ClassVar[str] = "understood"
    evaluations: int
    winner: int
    figures: Sequence[str] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Complete(Event):
    """Everything that was asked for is done."""

    kind: ClassVar[str] = "complete"
    evaluations: int
