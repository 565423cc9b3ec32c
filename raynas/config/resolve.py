"""What the arguments of `run()` mean, checked before anything starts: the plan of a run."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from ray import cloudpickle

import search_spaces
from raynas.config.config import CHANGEABLE, Config, check_known, read_yaml, validated
from raynas.config.description import described, kind_of, options_of, table_name
from raynas.ensemble.saep import SAEP
from raynas.errors import ConfigurationMismatch, InvalidArgument, StorageError
from raynas.schedulers import SCHEDULERS, Fifo, Scheduler
from raynas.searchers import SEARCHERS, GrowingSearcher, Searcher
from search_spaces import SearchSpace
from search_spaces.naming import construct, converted, parse, spell
from trials import EVALUATORS
from trials import data as trial_data
from trials.data import Data
from trials.trial import Estimator, Evaluator

T = TypeVar("T")

_FEWEST_GROWING = 4  # evaluations of a search that grows an ensemble
_NO_ENSEMBLE = "none"  # also where the run folder names one
ENSEMBLES: dict[str, Callable[..., SAEP]] = {"saep": SAEP}


@dataclass(frozen=True)
class Plan:
    """A checked configuration and the objects that it stands for."""

    config: Config
    space: SearchSpace
    data: Data
    searcher: Searcher
    evaluator: Evaluator | Estimator
    scheduler: Scheduler
    ensemble: SAEP | None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return run_folder(self.config)


def resolve(arguments: Mapping[str, Any]) -> Plan:
    """Check the arguments of `run()`, load the data, make the objects.

    Raises:
        InvalidArgument: naming the argument, its value and the remedy.
    """
    check_known(arguments)
    given = {
        key: field.default if arguments.get(key) is None else arguments[key]
        for key, field in Config.model_fields.items()
    }
    space = _object("space", given, SearchSpace, search_spaces.SPACES)
    searcher = _object("search", given, Searcher, SEARCHERS)
    evaluator: Evaluator | Estimator = _object(
        "evaluate", given,
        Estimator if isinstance(given["evaluate"], Estimator) else Evaluator, EVALUATORS,
    )  # fmt: skip
    searcher.check(space)
    if given["scheduler"] is None:
        given["scheduler"] = "fifo" if isinstance(searcher, GrowingSearcher) else "asha"
    scheduler = _object("scheduler", given, Scheduler, SCHEDULERS)
    wanted = given["ensemble"]
    ensemble = None
    if wanted not in (None, _NO_ENSEMBLE):
        ensemble = _object("ensemble", given, SAEP, ENSEMBLES)
    source = given["data"]
    texts = {
        "space": described(space, search_spaces.SPACES),
        "search": described(searcher, SEARCHERS),
        "evaluate": described(evaluator, EVALUATORS),
        "scheduler": described(scheduler, SCHEDULERS),
        "ensemble": wanted if ensemble is None else described(ensemble, ENSEMBLES),
        "data": trial_data.absolute(source) if isinstance(source, str) else kind_of(source),
    }
    config = validated({**given, **texts})
    _check_ensemble(config, ensemble, evaluator)
    _check_growing(config, searcher, evaluator, scheduler)
    if config.name is not None:
        run_folder(config)  # before the data are read, which may take a while
    data = trial_data.load(source, seed=config.seed)
    if not isinstance(source, str):
        config = config.model_copy(update={"data": _described_data(source, data)})
    if config.name is None:
        config = config.model_copy(update={"name": _default_name(config, space, data)})
    run_folder(config)
    if isinstance(evaluator, Estimator):
        space = evaluator.restricted(space)
        evaluator.check(space, data)
    return Plan(config, space, data, searcher, evaluator, scheduler, ensemble)


def _check_growing(
    config: Config, searcher: Searcher, evaluator: Evaluator | Estimator, scheduler: Scheduler
) -> None:
    """Refuse what does not go with a searcher that grows an ensemble."""
    if not isinstance(searcher, GrowingSearcher):
        return
    if isinstance(evaluator, Estimator):
        raise InvalidArgument(
            f"evaluate={config.evaluate!r}: search={config.search!r} grows an ensemble of trained"
            " networks: use evaluate='train'."
        )
    if config.samples < _FEWEST_GROWING:
        raise InvalidArgument(
            f"samples={config.samples}: search={config.search!r} trains two candidates for each"
            f" member of an ensemble, and it needs two members: give {_FEWEST_GROWING} or more."
        )
    if not isinstance(scheduler, Fifo):
        raise InvalidArgument(
            f"scheduler={config.scheduler!r}: search={config.search!r} compares candidates that are"
            " trained to the end: use scheduler='fifo'."
        )


def _check_ensemble(
    config: Config, ensemble: SAEP | None, evaluator: Evaluator | Estimator
) -> None:
    """Refuse an ensemble that cannot come about."""
    if ensemble is None:
        return
    if isinstance(evaluator, Estimator):
        raise InvalidArgument(
            f"ensemble={config.ensemble!r} needs trained architectures, and"
            f" evaluate={config.evaluate!r} trains none: use evaluate='train'."
        )
    least = max(2, ensemble.size or 0)
    if config.samples < least:
        raise InvalidArgument(
            f"samples={config.samples}: an ensemble of {least} members needs as many architectures:"
            " evaluate more, or choose a smaller size."
        )


def with_recorded_ensemble(plan: Plan) -> Plan:
    """A plan that says nothing of an ensemble, with the one that its run folder names, if any."""
    if plan.config.ensemble is None:
        return as_recorded(plan)
    return plan if plan.ensemble else _with_ensemble(plan, None)


def as_recorded(plan: Plan) -> Plan:
    """A plan with the ensemble that its run folder names; where there is no run yet, as it is."""
    path = plan.folder / "run.yaml"
    return _with_ensemble(plan, read_yaml(path).get("ensemble")) if path.exists() else plan


def _with_ensemble(plan: Plan, text: str | None) -> Plan:
    if text is not None and parse(text)[0] not in ENSEMBLES:
        text = None
    ensemble = None if text is None else construct("ensemble", text, ENSEMBLES)
    config = plan.config.model_copy(update={"ensemble": text})
    return dataclasses.replace(plan, config=config, ensemble=ensemble)


def check_named(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments read from a `run.yaml` that stand for objects of the user's.

    Raises:
        InvalidArgument: naming the argument, and how to continue such a run.
    """
    tables: dict[str, Iterable[str]] = {
        "space": search_spaces.SPACES,
        "search": SEARCHERS,
        "evaluate": EVALUATORS,
        "scheduler": SCHEDULERS,
        "ensemble": ENSEMBLES,
        "data": trial_data.names(),
    }
    for key, known in tables.items():
        text = str(arguments.get(key) or next(iter(known)))
        other = parse(text)[0] not in known and not (key == "data" and Path(text).is_absolute())
        if other or "=function-" in text:
            raise InvalidArgument(
                f"{key} was an object when this run was started ({text}), which its folder does"
                " not hold. To continue the run, call run() again with the same arguments, or give"
                f" it again: resume(path, {key}=...)."
            )


def run_folder(config: Config) -> Path:
    """Where the run of this configuration lives.

    Raises:
        InvalidArgument: for a name that is no plain file name, or a path that is not a folder.
    """
    name = config.name or ""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{,199}", name):
        raise InvalidArgument(
            f"name={name!r}: use at most 200 letters, digits, '.', '_' and '-', a letter or digit"
            " first."
        )
    path = config.storage_path.removeprefix("file://")
    if "://" in path or "\0" in path:
        raise InvalidArgument(
            f"storage_path={config.storage_path!r}: give a folder that all nodes see under the same"
            " path (local, NFS, a mounted bucket)."
        )
    return Path(path).expanduser().absolute() / name


def write_yaml(plan: Plan, recorded: dict[str, Any], evaluations: int = 0) -> None:
    """Write the resolved configuration and what was recorded beside it to `run.yaml`.

    Args:
        plan: what to write.
        recorded: what else to write, under `recorded`.
        evaluations: how many the run has already; `samples` is written as no less.
    """
    recorded = {"data_fingerprint": plan.data.fingerprint, **recorded}
    content = {
        **plan.config.model_dump(),
        "samples": max(plan.config.samples, evaluations),
        "recorded": recorded,
    }
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
    except (OSError, ValueError, yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
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
    name = table_name(value, table)
    if name is not None:
        converted(argument, name, type(value), options_of(value))
    elif argument in ("space", "evaluate"):
        try:
            cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
        except Exception as error:  # pickling runs the user's code
            raise InvalidArgument(
                f"{argument}: this {type(value).__name__} cannot be sent to the workers: {error}."
            ) from error
    return value


def _described_data(source: object, data: Data) -> str:
    """A data source that is not a text."""
    if isinstance(source, Path):
        return str(source.expanduser().absolute())
    return spell(kind_of(source), {"name": data.name, "fingerprint": data.fingerprint})


def _default_name(config: Config, space: SearchSpace, data: Data) -> str:
    """A name that is the same for the same configuration."""
    fixed = config.model_dump(exclude=set(CHANGEABLE))
    digest = hashlib.blake2b(repr(fixed).encode(), digest_size=3).hexdigest()
    search = config.search.partition(":")[0].rpartition(".")[2]
    words = [re.sub(r"[^A-Za-z0-9_-]", "", word)[:40] for word in (space.name, data.name, search)]
    return "-".join([*filter(None, words), digest]).lstrip("_-")
