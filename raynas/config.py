"""The configuration of a run: what the arguments of `run()` mean, checked before anything starts.

`Config` holds every argument in the form that is written to `run.yaml` and read from it, a name
with arguments where an object was given. `resolve` turns arguments into a `Config` and the
objects it stands for.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

import search_spaces
from raynas.errors import ConfigurationMismatch, InvalidArgument, StorageError
from raynas.schedulers import SCHEDULERS, Scheduler
from raynas.searchers import SEARCHERS, Searcher
from search_spaces import SearchSpace
from search_spaces.naming import construct, parse, spell, suggestion
from trials import EVALUATORS
from trials import data as trial_data
from trials.data import Data
from trials.trial import Evaluator

T = TypeVar("T")

#: what may differ when a run is continued
CHANGEABLE = (
    "samples", "cpus_per_trial", "gpus_per_trial", "max_concurrent", "storage_path", "name",
    "resume",
)  # fmt: skip


class Config(BaseModel):
    """The arguments of a run; every field is a flag and a YAML key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: str = Field("nasbench201", description="search space: a name, with arguments")
    data: str = Field("digits", description="data set: a name, a folder, or a Parquet file")
    search: str = Field("evolution", description="search algorithm")
    evaluate: str = Field("train", description="how an architecture is evaluated")
    scheduler: str = Field("asha", description="which trials are stopped early: asha, fifo")
    samples: Annotated[int, Field(ge=1)] = Field(32, description="architectures to evaluate")
    epochs: Annotated[int, Field(ge=1)] = Field(4, description="epochs of a full evaluation")
    retrain_epochs: Annotated[int, Field(ge=1)] | None = Field(
        None, description="epochs of the best architecture's final training; default: epochs"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="all randomness derives from it")
    cpus_per_trial: Annotated[float, Field(gt=0)] = Field(1, description="CPU cores of one trial")
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = Field(
        None, description="GPUs of one trial, fractions too; default: 1 if there are any"
    )
    max_concurrent: Annotated[int, Field(ge=1)] | None = Field(
        None, description="trials at the same time; default: as many as the cluster holds"
    )
    storage_path: str = Field("runs", description="folder of run folders, shared by all nodes")
    name: str | None = Field(None, description="name of the run folder; default: from the rest")
    resume: Literal["auto", "must", "never"] = Field(
        "auto", description="continue the run of that name: if there is one, or it must, or never"
    )


@dataclass(frozen=True)
class Plan:
    """A checked configuration and the objects that it stands for."""

    config: Config
    space: SearchSpace
    data: Data
    searcher: Searcher
    evaluator: Evaluator
    scheduler: Scheduler

    @property
    def folder(self) -> Path:
        """The run folder."""
        return run_folder(self.config)


def resolve(arguments: Mapping[str, Any]) -> Plan:
    """Check the arguments of `run()`, load the data, make the objects.

    Raises:
        InvalidArgument: naming the argument, its value and the remedy.
    """
    for key in arguments:
        if key not in Config.model_fields:
            raise InvalidArgument(
                f"There is no argument {key!r}. {suggestion(key, Config.model_fields)}"
            )
    given = {
        key: field.default if arguments.get(key) is None else arguments[key]
        for key, field in Config.model_fields.items()
    }
    space = _object("space", given, SearchSpace, search_spaces.SPACES)
    searcher = _object("search", given, Searcher, SEARCHERS)
    evaluator = _object("evaluate", given, Evaluator, EVALUATORS)
    scheduler = _object("scheduler", given, Scheduler, SCHEDULERS)
    source = given["data"]
    texts = {
        "space": _described(space, search_spaces.SPACES),
        "search": _described(searcher, SEARCHERS),
        "evaluate": _described(evaluator, EVALUATORS),
        "scheduler": _described(scheduler, SCHEDULERS),
        "data": _absolute(source),
    }
    config = _validated({**given, **texts})
    if config.name is None:
        config = config.model_copy(update={"name": _default_name(config)})
    run_folder(config)
    data = trial_data.load(source, seed=config.seed)
    return Plan(config, space, data, searcher, evaluator, scheduler)


def run_folder(config: Config) -> Path:
    """Where the run of this configuration lives.

    Raises:
        InvalidArgument: for a name that is no plain file name, or a path that is not a folder.
    """
    name = config.name or ""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InvalidArgument(
            f"name={name!r}: use letters, digits, '.', '_' and '-', a letter or digit first."
        )
    path = config.storage_path.removeprefix("file://")
    if "://" in path:
        raise InvalidArgument(
            f"storage_path={config.storage_path!r}: give a folder that all nodes see under the same"
            " path (local, NFS, a mounted bucket)."
        )
    return Path(path).expanduser().absolute() / name


def read_yaml(path: Path) -> dict[str, Any]:
    """The arguments in a YAML file, a `run.yaml` or one written by hand.

    Raises:
        InvalidArgument: when the file cannot be read or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InvalidArgument(f"config={str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InvalidArgument(f"config={str(path)!r} must be a mapping of arguments to values.")
    content.pop("recorded", None)
    return content


def write_yaml(plan: Plan, recorded: dict[str, Any]) -> None:
    """Write the resolved configuration and what was recorded beside it to `run.yaml`."""
    recorded = {"data_fingerprint": plan.data.fingerprint, **recorded}
    content = {**plan.config.model_dump(), "recorded": recorded}
    path = plan.folder / "run.yaml"
    partial = path.with_suffix(".partial")
    partial.write_text(yaml.safe_dump(content, sort_keys=False))
    partial.replace(path)


def check_same(plan: Plan) -> None:
    """Compare a plan with the run that its folder holds.

    Raises:
        ConfigurationMismatch: naming every argument that differs, with both values.
    """
    path = plan.folder / "run.yaml"
    try:
        then = yaml.safe_load(path.read_text())
        fingerprint = then.pop("recorded")["data_fingerprint"]
    except (OSError, yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
        raise StorageError(f"{path} cannot be read: {error!r}. Choose another name.") from error
    now = plan.config.model_dump()
    differences = [
        f"{key} was {then.get(key)!r} and is now {value!r}"
        for key, value in now.items()
        if key not in (*CHANGEABLE, "data") and then.get(key) != value
    ]
    if fingerprint != plan.data.fingerprint:
        differences.append(
            f"data was {then['data']!r} ({fingerprint}) and is now {now['data']!r}"
            f" ({plan.data.fingerprint})"
        )
    if differences:
        raise ConfigurationMismatch(
            f"The run folder {plan.folder} belongs to another configuration:"
            f" {'; '.join(differences)}. Choose another name, or give the same arguments."
        )


def _validated(arguments: Mapping[str, Any]) -> Config:
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in arguments.items()}
    try:
        return Config.model_validate(plain)
    except pydantic.ValidationError as error:
        problems = [f"{e['loc'][0]}={e['input']!r}: {e['msg']}" for e in error.errors()]
        raise InvalidArgument("; ".join(problems)) from None


def _object(
    argument: str,
    given: Mapping[str, Any],
    kind: Callable[..., T],
    table: Mapping[str, Callable[..., T]],
) -> T:
    """The object that an argument stands for."""
    value = given[argument]
    if isinstance(value, str):
        return construct(argument, value, table)
    if not isinstance(value, cast(type[T], kind)):
        raise InvalidArgument(
            f"{argument}={value!r} is neither a name nor a {kind.__name__}."
            f" Known names: {', '.join(table)}."
        )
    return value


def _described(value: object, table: Mapping[str, Callable[..., Any]]) -> str:
    """An object as a name with arguments, all defaults spelled out."""
    name = next((name for name, factory in table.items() if factory is type(value)), None)
    if name is None:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
    options = {}
    if dataclasses.is_dataclass(value):
        options = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    return spell(name, options)


def _absolute(source: object) -> str:
    """The description of a data source; paths in it are made absolute."""
    if isinstance(source, Data):
        return source.name
    if not isinstance(source, str | Path):
        return f"{type(source).__module__}.{type(source).__qualname__}"
    if Path(source).expanduser().exists():
        return str(Path(source).expanduser().absolute())
    name, positional, options = parse(str(source))
    paths = [str(Path(p).absolute()) if Path(p).exists() else p for p in positional]
    options = {k: str(Path(v).absolute()) if Path(v).exists() else v for k, v in options.items()}
    arguments = ",".join([*paths, *(f"{key}={value}" for key, value in options.items())])
    return f"{name}:{arguments}" if arguments else name


def _default_name(config: Config) -> str:
    """A name that is the same for the same configuration."""
    fixed = config.model_dump(exclude=set(CHANGEABLE))
    digest = hashlib.blake2b(repr(fixed).encode(), digest_size=3).hexdigest()
    parts = [config.space, Path(config.data).name, config.search]
    words = [re.sub(r"[^A-Za-z0-9_-]", "", part.partition(":")[0]) for part in parts]
    return "-".join([*filter(None, words), digest])
