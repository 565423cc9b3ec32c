"""`run()`: from a data set to the best architecture, trained and exported.

The stages, each of which reads and writes the run folder: scores for a warm start, search, final
training of the best, export, report, ensemble. What a stage has done is in the journal, so a run
that was killed anywhere continues there.
"""

import platform
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import ray

from raynas.cluster import connected, slots
from raynas.config.config import check_known, read_yaml
from raynas.config.resolve import (
    Plan,
    as_recorded,
    check_named,
    check_same,
    resolve,
    with_recorded_ensemble,
    write_yaml,
)
from raynas.drivers.batches import EstimatorPool, search_by_estimates
from raynas.drivers.scoring import warm_start
from raynas.drivers.trainable import Job
from raynas.ensemble.members import ValidationLogits
from raynas.ensemble.saep import SAEP
from raynas.errors import InvalidArgument, StorageError
from raynas.record.journal import Journal, read_events
from raynas.record.results import Result, load
from raynas.reports.monitor import Monitor
from raynas.reports.report import write_report
from raynas.reports.tensorboard import TensorBoard
from raynas.schedulers import Scheduler
from raynas.search.search import METRIC, Search
from raynas.searchers import Searcher
from raynas.stages import (
    Resources,
    check_outcome,
    export_best,
    has_ensemble,
    prune,
    search_by_supernet,
    search_by_trials,
    train_finally,
    write_table,
)
from search_spaces import SearchSpace
from trials.trial import Estimator, Evaluator
from trials.weight_sharing.recipe import WeightSharing


def run(
    space: str | SearchSpace = "nasbench201",
    data: Any = "digits",
    search: str | Searcher = "evolution",
    evaluate: str | Evaluator | Estimator = "train",
    scheduler: str | Scheduler | None = None,
    samples: int = 32,
    epochs: int = 4,
    retrain_epochs: int | None = None,
    seed: int = 0,
    cpus_per_trial: float = 1,
    gpus_per_trial: float | None = None,
    ensemble: str | SAEP | None = None,
    max_concurrent: int | None = None,
    storage_path: str | Path = "runs",
    name: str | None = None,
    resume: Literal["auto", "must", "never"] = "auto",
) -> Result:
    """Search for the best architecture, train it finally, export it, report.

    The same call continues a run that was interrupted, and with more `samples` extends one that
    is finished. Names may carry arguments: `nasbench201:channels=8,cells=1`.

    Args:
        space: a name (`search_spaces.names()`) or a `SearchSpace`.
        data: a name (`trials.data.names()`), a folder of class folders, a Parquet file, a pair
            (images, labels) of arrays, or a `torch.utils.data.Dataset`.
        search: `auto`, `evolution`, `area`, `local`, `naswot`, `random`, `na-rs`, `adanet` (which
            grows an ensemble), or a `Searcher`.
        evaluate: `train`, `table:FILE`, `proxy`, `supernet` (with the weights that all
            architectures share; `trials.WeightSharing`), or an `Evaluator` or `Estimator`. Without
            `train` only the outcome of the search is trained alone.
        scheduler: `asha`, `fifo`, or a `Scheduler`; None: `asha`, with `adanet` `fifo`.
        samples: number of architectures to evaluate.
        epochs: epochs of an evaluation that is not stopped early.
        retrain_epochs: epochs of the final training; `epochs` if None.
        seed: all randomness derives from it. With one trial at a time the same seed gives the
            same run, bit for bit, on the same machine.
        cpus_per_trial: CPU cores of one trial, and its threads.
        gpus_per_trial: GPUs of one trial, also a fraction; None: 1 when the cluster has any.
        ensemble: `saep`, or a `SAEP`: prune the trained architectures to a small, diverse ensemble
            too; also of a run that is finished. None: as the run folder has it; `none`: none.
        max_concurrent: trials at the same time; None: as many as the cluster holds.
        storage_path: where run folders lie; all nodes must see it.
        name: of the run folder; None: made from the other arguments, the same for the same ones.
        resume: `auto` continues the run folder if there is one, `must` wants one, `never` none.

    Returns:
        The result, read from the run folder.

    Raises:
        InvalidArgument: for a wrong argument, before anything starts; after the search, when fewer
            than two architectures can be members of an ensemble (all else is in the run folder).
        StorageError: when the run folder cannot be written or another process uses it.
        SearchFailed: when the first ten evaluations fail for the same reason, or all fail.
    """
    plan = with_recorded_ensemble(resolve(locals()))
    _check_folder(plan)
    with connected():
        resources = _resources(plan)
        with Journal(plan.folder) as journal:
            evaluations = sum(event["event"] == "suggested" for event in journal.events)
            former = as_recorded(plan)
            write_yaml(plan, _recorded(), evaluations)
            config, evaluator = plan.config, plan.evaluator
            epochs, metric = config.epochs, METRIC
            if isinstance(evaluator, Estimator):
                epochs, metric = 1, evaluator.metric_name
            state = Search(
                plan.space, plan.searcher, plan.scheduler,
                config.samples, epochs, config.seed, journal, metric,
                held_out=ValidationLogits(plan.folder, plan.space, plan.data),
            )  # fmt: skip
            done = _is_complete(journal) and state.exhausted
            if not (done and has_ensemble(plan, state)):
                try:
                    _stages(plan, state, journal, resources)
                except InvalidArgument:  # no such ensemble: it stays the one that there is
                    write_yaml(former, _recorded(), evaluations)
                    raise
    return Result(plan.folder)


def resume(path: str | Path, **changes: Any) -> Result:
    """Continue the run in a folder, with its own arguments.

    Args:
        path: the run folder.
        changes: arguments that may differ from before: `samples`, `ensemble`, resources,
            `max_concurrent`.

    Raises:
        InvalidArgument: when the run was started with an object that has no name, such as a
            space of the user's own: call `run()` again with the same arguments.
    """
    check_known(changes)
    folder = load(path).path
    then = read_yaml(folder / "run.yaml")
    check_named({key: value for key, value in then.items() if key not in changes})
    arguments = {
        **then,
        "storage_path": str(folder.parent),
        "name": folder.name,
        "resume": "must",
    }
    return run(**{**arguments, **changes})


def _stages(plan: Plan, search: Search, journal: Journal, resources: Resources) -> None:
    """Search, final training, export, report, ensemble."""
    tensorboard = TensorBoard(plan.folder, plan.space)
    for event in journal.events:
        tensorboard(event)
    journal.listeners.append(tensorboard)
    journal.append("session", metric=search.metric, **_recorded())
    (plan.folder / "checkpoints").mkdir(exist_ok=True)
    threads = max(1, int(resources.cpus))
    job = Job(
        plan.space, plan.evaluator, ray.put(plan.data), plan.config.epochs, plan.folder, threads
    )
    with Monitor(search) as monitor:
        if journal.notice:
            monitor.say(journal.notice)
        make_pool = partial(
            EstimatorPool, space=plan.space, data=job.data, seed=plan.config.seed,
            actors=resources.concurrent, cpus=resources.cpus, gpus=resources.gpus,
        )  # fmt: skip
        warm_start(search, plan.data, make_pool)
        if isinstance(plan.evaluator, WeightSharing):
            search_by_supernet(plan.evaluator, search, job, resources, journal, monitor)
        elif isinstance(plan.evaluator, Estimator):
            search_by_estimates(search, plan.evaluator, plan.data, make_pool, monitor.update)
        else:
            search_by_trials(search, job, resources, monitor)
        write_table(plan, search)
        check_outcome(search, plan.folder)
    best, metrics = train_finally(plan, search, job, resources, journal, monitor)
    export_best(plan, best, metrics)
    failed = [e for e in read_events(plan.folder) if e["event"] == "retraining_failed"]
    untrained = {e["evaluation"]: e["reason"] for e in failed if e["evaluation"] != best.index}
    report = partial(
        write_report,
        plan.folder, plan.config, search, best, metrics, len(plan.data.test), untrained,
    )  # fmt: skip
    report()
    journal.append("complete", evaluations=len(search.evaluations))
    if not has_ensemble(plan, search):
        prune(plan, search, job, resources, journal, monitor)
        report()
        journal.append("complete", evaluations=len(search.evaluations))


def _check_folder(plan: Plan) -> None:
    """Whether the run folder can be used, as far as that is known before it is opened."""
    folder, resume = plan.folder, plan.config.resume
    try:
        held = (folder / "run.yaml").exists()
        other = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise StorageError(
            f"The run folder {folder} cannot be read ({error}). Choose another storage_path."
        ) from error
    if held:
        if resume == "never":
            raise InvalidArgument(
                f"resume='never': {folder} holds a run already. Choose another name."
            )
        check_same(plan)
    elif resume == "must":
        raise InvalidArgument(f"resume='must': {folder} holds no run.")
    elif other and not (folder / "journal").exists():
        raise StorageError(f"{folder} is there and is not a run folder. Choose another name.")


def _resources(plan: Plan) -> Resources:
    cpus = plan.config.cpus_per_trial
    gpus, held = slots(cpus, plan.config.gpus_per_trial)
    if isinstance(plan.evaluator, WeightSharing) and plan.evaluator.replicas >= held:
        raise InvalidArgument(
            f"evaluate: replicas={plan.evaluator.replicas} and the supernet itself are more than"
            f" the {held} processes that the cluster holds (cpus_per_trial={cpus:g},"
            f" gpus_per_trial={gpus:g} each)."
        )
    return Resources(cpus, gpus, plan.config.max_concurrent or held)


def _is_complete(journal: Journal) -> bool:
    return bool(journal.events) and journal.events[-1]["event"] == "complete"


def _recorded() -> dict[str, Any]:
    """What was there: versions and hardware."""
    packages = ("raynas", "ray", "torch", "torchvision", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "nodes": [
            {key: node["Resources"].get(key, 0) for key in ("CPU", "GPU")}
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"]
        ],
        "machine": platform.platform(),
    }
