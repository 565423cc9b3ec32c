"""What the arguments of `run()` mean, checked before anything starts: the plan of a run."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from ray import cloudpickle

import search_spaces
from raynas.config.compatibility import (
    check_constraint,
    check_ensemble,
    check_kept,
    check_limits,
    check_retraining,
    check_searcher,
    check_select,
    check_snapshots,
    check_workers,
)
from raynas.config.config import (
    CHANGEABLE,
    KEEP_ALL,
    KEPT,
    NO_ENSEMBLE,
    PLANNED,
    PLANNED_OPTIONS,
    SPACE_IN_TIME,
    Config,
    check_known,
    validated,
)
from raynas.config.description import described, kind_of, options_of, table_name
from raynas.ensemble import ENSEMBLES
from raynas.ensemble.saep import SAEP
from raynas.errors import InvalidArgument
from raynas.record.folder import RunFolder
from raynas.schedulers import SCHEDULERS, Scheduler
from raynas.searchers import CONSTRAINTS, SEARCHERS, Constraint, Listed, Searcher
from raynas.trackers import TRACKERS, Tracker
from search_spaces import SearchSpace
from search_spaces.naming import construct, converted, parse, spell
from trials import EVALUATORS
from trials import data as trial_data
from trials.data import Data
from trials.places import place
from trials.trial import AnyEvaluator

T = TypeVar("T")

#: arguments that are younger than the default names of runs, which are without them where None
_YOUNGER = ("architectures", "constraint", "time_budget")


@dataclass(frozen=True)
class Plan:
    """A checked configuration and the objects that it stands for."""

    config: Config
    space: SearchSpace
    data: Data
    searcher: Searcher
    evaluator: AnyEvaluator
    scheduler: Scheduler
    ensemble: SAEP | None
    constraint: Constraint | None
    tracker: Tracker | None = None

    @property
    def folder(self) -> RunFolder:
        """Return the run folder."""
        return run_folder(self.config)

    @property
    def driver(self) -> str:
        """Return the name of the driver that carries out the search."""
        return self.searcher.driver or self.evaluator.driver

    @property
    def epochs(self) -> int:
        """Return the epochs of a full evaluation; what is not trained has one."""
        return self.config.epochs if self.evaluator.trains else 1

    @property
    def retrain_epochs(self) -> int:
        """Return the epochs of a full training."""
        return self.config.retrain_epochs or self.config.epochs

    @property
    def retrain_workers(self) -> int:
        """Return the processes of the retraining."""
        return self.config.retrain_workers or self.config.workers_per_trial

    def write(self, recorded: Mapping[str, Any], evaluations: int = 0) -> None:
        """Write the configuration to the run folder.

        Args:
            recorded: what else to write, under `recorded`.
            evaluations: how many the run has already; `samples` is written as no less, but where
                it counts only those of them that are trained alone.
        """
        chosen = self.searcher.driver is not None
        samples = self.config.samples if chosen else max(self.config.samples, evaluations)
        self.folder.write_configuration(
            {**self.config.model_dump(), "samples": samples},
            {
                "data_fingerprint": self.data.fingerprint,
                "data_notes": list(self.data.notes),
                **recorded,
            },
        )


def resolve(arguments: Mapping[str, Any], data: Data | None = None) -> Plan:
    """Check the arguments of `run()`, load the data, make the objects.

    Where a run folder has what a time budget was planned to be, that is taken from there.

    Args:
        arguments: of `run()`.
        data: what `arguments["data"]` stands for, where it is loaded already.

    Raises:
        InvalidArgument: naming the argument, its value and the remedy.
    """
    plan = _resolved(arguments, data)
    if plan.config.time_budget is None or not plan.folder.holds_run:
        return plan
    then = plan.folder.read_configuration()
    planned = {key: then.get(key) for key in PLANNED if arguments.get(key) is None}
    if _without_planned(str(then.get("evaluate")), plan.config.evaluate) == plan.config.evaluate:
        planned["evaluate"] = then["evaluate"]
    return _resolved({**arguments, **planned, "name": plan.config.name}, plan.data)


def _without_planned(evaluate: str, said: str) -> str:
    """Return a recipe as text, without the options that a time budget has added to what is said."""
    name, _, options = parse(evaluate)
    added = set(PLANNED_OPTIONS) - set(parse(said)[2])
    return spell(name, {key: value for key, value in options.items() if key not in added})


def _resolved(arguments: Mapping[str, Any], loaded: Data | None) -> Plan:
    check_known(arguments)
    values = {
        key: field.default if arguments.get(key) is None else arguments[key]
        for key, field in Config.model_fields.items()
    }
    if values["time_budget"] is not None and arguments.get("space") is None:
        values["space"] = SPACE_IN_TIME
    space = _object("space", values, SearchSpace, search_spaces.SPACES)
    searcher = _searcher(values)
    evaluator = _object("evaluate", values, AnyEvaluator, EVALUATORS)
    searcher.check(space)
    if values["scheduler"] is None:
        whole = searcher.needs_full_training or searcher.driver is not None
        values["scheduler"] = "fifo" if whole else "asha"
    scheduler = _object("scheduler", values, Scheduler, SCHEDULERS)
    ensemble = _ensemble(values)
    constraint = None
    if values["constraint"] is not None:
        constraint = _object("constraint", values, Constraint, CONSTRAINTS)
    tracker = None
    if values["tracker"] is not None:
        tracker = _object("tracker", values, Tracker, TRACKERS)
        tracker.check()
    source = values["data"]
    texts = {
        "space": described(space, search_spaces.SPACES),
        "search": described(searcher, SEARCHERS),
        "evaluate": described(evaluator, EVALUATORS),
        "scheduler": described(scheduler, SCHEDULERS),
        "constraint": None if constraint is None else described(constraint, CONSTRAINTS),
        "ensemble": values["ensemble"] if ensemble is None else described(ensemble, ENSEMBLES),
        "tracker": None if tracker is None else described(tracker, TRACKERS),
        "data": trial_data.absolute(source) if isinstance(source, str) else kind_of(source),
    }
    config = validated({**values, **texts})
    check_select(config)
    check_constraint(config, constraint, searcher, evaluator)
    check_ensemble(config, ensemble, evaluator)
    check_searcher(config, searcher, evaluator, scheduler)
    check_retraining(evaluator)
    check_snapshots(config, evaluator)
    check_limits(config, searcher, evaluator)
    if config.name is not None:
        run_folder(config)  # before the data are read, which may take a while
    data = loaded or trial_data.load(source, seed=config.seed)
    if not isinstance(source, str):
        config = config.model_copy(update={"data": _described_data(source, data)})
    if config.name is None:
        config = config.model_copy(update={"name": _default_name(config, space, data, arguments)})
    space = evaluator.restricted(space)
    scheduler.check(space)
    evaluator.check(space, data)
    check_workers(config, searcher, evaluator, data)
    if constraint is not None:
        constraint.measured(space, data.input_shape, data.num_classes)  # or says why it cannot
    config, ensemble = _as_recorded(config, ensemble)
    config = _keeping(config, ensemble)
    check_kept(config, ensemble)
    return Plan(config, space, data, searcher, evaluator, scheduler, ensemble, constraint, tracker)


def _searcher(values: dict[str, Any]) -> Searcher:
    """Return the searcher, or what stands in its place where the architectures are listed."""
    listed = validated({"architectures": values["architectures"]}).architectures
    if listed is None:
        return _object("search", values, Searcher, SEARCHERS)
    values["architectures"], values["samples"] = listed, max(1, len(listed))
    return Listed(listed)


def _ensemble(values: Mapping[str, Any]) -> SAEP | None:
    """Return the ensemble that the arguments ask for, if they do."""
    if values["ensemble"] in (None, NO_ENSEMBLE):
        return None
    return _object("ensemble", values, SAEP, ENSEMBLES)


def _as_recorded(config: Config, ensemble: SAEP | None) -> tuple[Config, SAEP | None]:
    """Fill in the ensemble that the run folder names, where the arguments say nothing of one."""
    if ensemble is not None:
        return config, ensemble
    folder, text = run_folder(config), None
    if config.ensemble is None and folder.holds_run:
        text = folder.read_configuration().get("ensemble")
        if text is not None and parse(text)[0] in ENSEMBLES:
            ensemble = construct("ensemble", text, ENSEMBLES)
    named = None if ensemble is None else text
    return config.model_copy(update={"ensemble": named}), ensemble


def _keeping(config: Config, ensemble: SAEP | None) -> Config:
    """Fill in how many checkpoints are kept, where the arguments say nothing of it.

    A run folder goes on as it began: one that is older than this argument has kept all.
    """
    if config.keep_checkpoints is not None:
        return config
    folder = run_folder(config)
    kept = str(max(KEPT, (ensemble and ensemble.size) or 0))
    if folder.holds_run:
        kept = folder.read_configuration().get("keep_checkpoints") or KEEP_ALL
    return validated({**config.model_dump(), "keep_checkpoints": kept})


def run_folder(config: Config) -> RunFolder:
    """Return where the run of this configuration lives.

    Raises:
        InvalidArgument: for a name that is no plain file name, or a path that is not a folder.
    """
    name = config.name or ""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{,199}", name):
        raise InvalidArgument(
            f"name={name!r}: use at most 200 letters, digits, '.', '_' and '-', a letter or digit"
            " first."
        )
    if "\0" in config.storage_path:
        raise InvalidArgument(f"storage_path={config.storage_path!r} is no path.")
    try:
        return RunFolder(place(config.storage_path) / name)
    except InvalidArgument as error:
        raise InvalidArgument(f"storage_path={config.storage_path!r}: {error}") from None


def _object(
    argument: str,
    arguments: Mapping[str, Any],
    kind: Callable[..., T],
    table: Mapping[str, Callable[..., T]],
) -> T:
    """Return the object that an argument stands for."""
    value = arguments[argument]
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
    """Describe a data source that is not a text."""
    if isinstance(source, Path):
        return str(source.expanduser().absolute())
    return spell(kind_of(source), {"name": data.name, "fingerprint": data.fingerprint})


def _default_name(
    config: Config, space: SearchSpace, data: Data, arguments: Mapping[str, Any]
) -> str:
    """Return a name that is the same for the same configuration, or the same said of it."""
    unsaid = {key for key in _YOUNGER if getattr(config, key) is None}
    fixed = config.model_dump(exclude={*CHANGEABLE, *unsaid})
    digest = hashlib.blake2b(repr(fixed).encode(), digest_size=3).hexdigest()
    if config.time_budget is not None:
        said = {key: value for key, value in fixed.items() if arguments.get(key) is not None}
        digest = hashlib.blake2b(repr(said).encode(), digest_size=3).hexdigest()
        time = config.time_budget.replace(" ", "")
        return f"{re.sub('[^A-Za-z0-9_-]', '', data.name)[:40]}-{time}-{digest}".lstrip("_-")
    search = config.search.partition(":")[0].rpartition(".")[2]
    words = [re.sub(r"[^A-Za-z0-9_-]", "", word)[:40] for word in (space.name, data.name, search)]
    return "-".join([*filter(None, words), digest]).lstrip("_-")
