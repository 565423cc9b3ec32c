"""The arguments of a run, in the form that is written to `run.yaml` and read from it.

Every field is a flag and a YAML key; where an object was given it holds a name with arguments.
What the arguments stand for is made by `resolve`. Imports nothing heavy: the command line reads
its flags here, and tells of wrong names and values.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from raynas.ensemble import ENSEMBLES
from raynas.errors import InvalidArgument
from raynas.schedulers import SCHEDULERS
from raynas.searchers import CONSTRAINTS, SEARCHERS
from raynas.trackers import TRACKERS
from search_spaces import SPACES
from search_spaces.naming import lookup, parse, suggestion
from trials import EVALUATORS

#: what may differ when a run is continued
CHANGEABLE = (
    "samples", "cpus_per_trial", "gpus_per_trial", "max_concurrent", "storage_path", "name",
    "resume", "ensemble", "snapshots", "select", "understand", "tracker", "keep_checkpoints",
    "gpu_hours", "target", "workers_per_trial", "retrain_workers",
)  # fmt: skip

#: what follows from data, hardware and time, in a run with a time budget
PLANNED = (
    "space", "search", "evaluate", "scheduler", "constraint", "samples", "epochs", "select",
)  # fmt: skip

#: the search space of such a run where none is said
SPACE_IN_TIME = "convnet"

#: options of `train` that follow, too
PLANNED_OPTIONS = ("epoch_seconds", "pace", "precision", "mixup")

#: `ensemble`: none, also where the run folder names one
NO_ENSEMBLE = "none"

#: `keep_checkpoints`: those of every evaluation
KEEP_ALL = "all"

#: `keep_checkpoints` where nothing is said of it
KEPT = 50

#: what the names in arguments stand for; those of data sets may be paths too
TABLES: dict[str, Mapping[str, Any]] = {
    "space": SPACES,
    "search": SEARCHERS,
    "evaluate": EVALUATORS,
    "scheduler": SCHEDULERS,
    "constraint": CONSTRAINTS,
    "ensemble": ENSEMBLES,
    "tracker": TRACKERS,
}


def _listed(value: Any) -> Any:
    """Return the numbers of a flag, `1,3`, or a single one, as a list."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if isinstance(value, int):
        value = [value]
    return value


_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]+(?:[.][0-9]+)?) ?(s|min|h|d)?")
_SHORTEST = 30.0  # seconds: Ray alone takes ten to start


def _duration(value: Any) -> Any:
    """Check a duration such as `20min`, `1.5h`, `90s` or a number of seconds; return it as text."""
    if value is None:
        return None
    text = f"{value:.15g}s" if isinstance(value, int | float) else str(value).strip()
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("give a duration such as 20min, 1.5h or 90s")
    if not _SHORTEST <= _seconds(match) < math.inf:
        raise ValueError(f"give at least {_SHORTEST:g} s")
    return text


def _seconds(match: "re.Match[str]") -> float:
    return float(match[1]) * _UNITS[match[2] or "s"]


def _kept(value: Any) -> Any:
    """Check `all` or a number of checkpoints; return it as text."""
    text = str(value).strip()
    if value is None or text == KEEP_ALL:
        return value
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError(f"give a whole number, 0 or more, or {KEEP_ALL!r}")
    return str(int(text))


def _assignments(value: Any) -> Any:
    """Return the numbers of a flag, `val_accuracy=0.95`, by their names."""
    if value is None or isinstance(value, Mapping):
        return value
    parts = [part.partition("=") for part in str(value).split(",") if part.strip()]
    if not all(name.strip() and number.strip() for name, _, number in parts):
        raise ValueError("give a metric and a number, such as val_accuracy=0.95")
    return {name.strip(): number for name, _, number in parts}


def _rising(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(numbers)))


class Config(BaseModel):
    """The arguments of a run; every field is a flag and a YAML key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: str = Field("nasbench201", description="search space: a name, with arguments")
    data: str = Field("digits", description="data set: a name, a folder, or a Parquet file")
    search: str = Field("evolution", description="search algorithm")
    evaluate: str = Field(
        "train", description="how an architecture is evaluated: train, table, proxy, supernet"
    )
    scheduler: str | None = Field(
        None,
        description="which trials are stopped early: asha, asha-stratified, fifo; default: as the"
        " search needs",
    )
    architectures: list[str] | None = Field(
        None, description="evaluate these and search no others: a file with one a line, or A;B;C"
    )
    time_budget: Annotated[str | None, BeforeValidator(_duration)] = Field(
        None,
        description="20min, 12h: what is not said of the search follows from it, the data and the"
        " hardware",
    )
    gpu_hours: Annotated[float, Field(gt=0)] | None = Field(
        None, description="GPUs times hours of trials, after which the search ends"
    )
    target: Annotated[dict[str, float] | None, BeforeValidator(_assignments)] = Field(
        None, description="what ends the search when its best has reached it: val_accuracy=0.95"
    )
    samples: Annotated[int, Field(ge=1)] = Field(32, description="architectures to evaluate")
    epochs: Annotated[int, Field(ge=1)] = Field(4, description="epochs of a full evaluation")
    retrain_epochs: Annotated[int, Field(ge=1)] | None = Field(
        None, description="epochs of the best architecture's retraining; default: epochs"
    )
    snapshots: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_listed), AfterValidator(_rising)
    ] = Field((), description="epochs after which the weights of every evaluation are kept: 1,3")
    keep_checkpoints: Annotated[str | None, BeforeValidator(_kept)] = Field(
        None,
        description="weights of so many of the best evaluations are kept, beside those that the"
        " search still needs; or all; default: as the run folder has it, else 50",
    )
    select: Annotated[int, Field(ge=1)] = Field(
        1, description="full training decides among so many of the best; 1: the search decides"
    )
    constraint: str | None = Field(
        None, description="limit, quota or penalty: limit:of=macs,most=3e6"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="all randomness derives from it")
    cpus_per_trial: Annotated[float, Field(ge=1e-4)] = Field(
        1, description="CPU cores of one trial"
    )
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = Field(
        None, description="GPUs of one trial, fractions too; default: 1 if there are any"
    )
    workers_per_trial: Annotated[int, Field(ge=1)] = Field(
        1, description="processes that train one architecture together, with cores and GPUs each"
    )
    retrain_workers: Annotated[int, Field(ge=1)] | None = Field(
        None, description="processes of the retraining; default: those of a trial"
    )
    ensemble: str | None = Field(
        None, description="prune the trained architectures to an ensemble: saep:rule=greedy,size=8"
    )
    understand: bool = Field(
        False, description="what the run tells, with what costs something: proxies, surfaces"
    )
    max_concurrent: Annotated[int, Field(ge=1)] | None = Field(
        None, description="trials at the same time; default: as many as the cluster holds"
    )
    tracker: str | None = Field(
        None, description="show the run elsewhere too: mlflow:experiment=NAME, wandb:project=NAME"
    )
    storage_path: str = Field(
        "runs", description="folder of run folders, seen by all nodes; or s3://, gs://"
    )
    name: str | None = Field(None, description="name of the run folder; default: from the rest")
    resume: Literal["auto", "must", "never"] = Field(
        "auto", description="continue the run of that name: if there is one, or it must, or never"
    )

    @property
    def kept(self) -> int | None:
        """Return of how many of the best the checkpoints are kept; None: of all."""
        if self.keep_checkpoints == KEEP_ALL:
            return None
        return KEPT if self.keep_checkpoints is None else int(self.keep_checkpoints)

    @property
    def seconds(self) -> float | None:
        """Return the time budget in seconds."""
        match = _DURATION.fullmatch(self.time_budget or "")
        return None if match is None else _seconds(match)

    @pydantic.field_validator("architectures", mode="before")
    @classmethod
    def _lines(cls, value: Any) -> Any:
        """Read a file, or split a text; anything else is checked as it is."""
        if not isinstance(value, str):
            return value
        file = os.path.expanduser(value)
        # Unlike `Path.is_file`, it takes a text that is longer than a file name may be.
        is_file = os.path.isfile(file)
        lines = Path(file).read_text().splitlines() if is_file else value.split(";")
        return [line.strip() for line in lines if line.strip()]


def check_known(arguments: Iterable[Any]) -> None:
    """Refuse what is no argument of `run()`.

    Raises:
        InvalidArgument: with the closest argument that exists.
    """
    for key in arguments:
        if key not in Config.model_fields:
            hint = suggestion(str(key), Config.model_fields)
            raise InvalidArgument(f"There is no argument {key!r}. {hint}")


def check_names(
    arguments: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]] = TABLES
) -> None:
    """Refuse names that stand for nothing, before what they stand for is imported.

    Raises:
        UnknownName: naming the argument, the value and the closest match.
    """
    for key, table in tables.items():
        text = arguments.get(key)
        if isinstance(text, str) and (key, text) != ("ensemble", NO_ENSEMBLE):
            lookup(key, parse(text)[0], table)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the arguments in a YAML file, a `run.yaml` or one written by hand.

    Raises:
        InvalidArgument: when the file cannot be read, is not a mapping, or has unknown keys.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidArgument(f"config={str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InvalidArgument(f"config={str(path)!r} must be a mapping of arguments to values.")
    content.pop("recorded", None)
    check_known(content)
    return content


def validated(arguments: Mapping[str, Any]) -> Config:
    """Return the configuration of these arguments.

    Raises:
        InvalidArgument: naming every argument that is not of its kind or out of its range.
    """
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in arguments.items()}
    try:
        return Config.model_validate(plain)
    except pydantic.ValidationError as error:
        problems = [
            f"{e['loc'][0]}={e['input']!r}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise InvalidArgument("; ".join(problems)) from None
