"""`run()`: from a data set to the best architecture, trained and exported.

The stages, each of which reads and writes the run folder: scores for a warm start, search, final
training of the best, export, report, ensemble. What a stage has done is in the journal, so a run
that was killed anywhere continues there.
"""

import itertools
import logging
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import ray
import torch
from ray import tune

from raynas.cluster import connected, slots
from raynas.config import (
    Plan,
    check_known,
    check_named,
    check_same,
    read_yaml,
    resolve,
    write_yaml,
)
from raynas.ensemble import is_current, make_ensemble
from raynas.errors import InvalidArgument, SearchFailed, StorageError
from raynas.estimates import EstimatorPool, search_by_estimates
from raynas.export import FORMATS, export, has_onnx, read_json, write_json
from raynas.flatness import with_flatness
from raynas.journal import Journal, read_events
from raynas.members import StoredLogits
from raynas.monitor import Monitor, describe
from raynas.report import write_report
from raynas.results import Result, load, trials_table
from raynas.retrain import TrainingFailed, retrain
from raynas.saep import SAEP
from raynas.schedulers import Scheduler
from raynas.scoring import warm_start
from raynas.search import METRIC, Evaluation, Search, Status
from raynas.searchers import Searcher
from raynas.supernet_actor import shared_supernet
from raynas.tensorboard import TensorBoard
from raynas.trainable import Job, TrialActor, final_path
from raynas.tune_adapter import TuneCallback, TuneScheduler, TuneSearcher
from search_spaces import SearchSpace
from trials.deployed import ImageClassifier
from trials.training import Train
from trials.trial import Diverged, Estimator, Evaluator, derived_seed
from trials.weight_sharing import WeightSharing

_FINALISTS = 3  # tried in turn when a final training diverges
_WORKER_DEATHS = 3  # before an evaluation whose worker keeps dying counts as failed


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
            too; also of a run that is finished.
        max_concurrent: trials at the same time; None: as many as the cluster holds.
        storage_path: where run folders lie; all nodes must see it.
        name: of the run folder; None: made from the other arguments, the same for the same ones.
        resume: `auto` continues the run folder if there is one, `must` wants one, `never` none.

    Returns:
        The result, read from the run folder.

    Raises:
        InvalidArgument: for a wrong argument, before anything starts.
        StorageError: when the run folder cannot be written or another process uses it.
        SearchFailed: when the first ten evaluations fail for the same reason, or all fail.
    """
    plan = resolve(locals())
    _check_folder(plan)
    with connected():
        resources = _resources(plan)
        with Journal(plan.folder) as journal:
            evaluations = sum(event["event"] == "suggested" for event in journal.events)
            write_yaml(plan, _recorded(), evaluations)
            config, evaluator = plan.config, plan.evaluator
            epochs, metric = config.epochs, METRIC
            if isinstance(evaluator, Estimator):
                epochs, metric = 1, evaluator.metric_name
            state = Search(
                plan.space, plan.searcher, plan.scheduler,
                config.samples, epochs, config.seed, journal, metric,
                held_out=StoredLogits(plan.folder, plan.data),
            )  # fmt: skip
            done = _is_complete(journal) and state.exhausted
            if not (done and _has_ensemble(plan, state)):
                _stages(plan, state, journal, resources)
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


@dataclass(frozen=True)
class _Resources:
    cpus: float
    gpus: float
    concurrent: int


def _stages(plan: Plan, search: Search, journal: Journal, resources: _Resources) -> None:
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
            _search_supernet(plan.evaluator, search, job, resources, journal, monitor)
        elif isinstance(plan.evaluator, Estimator):
            search_by_estimates(search, plan.evaluator, plan.data, make_pool, monitor.update)
        else:
            _search(search, job, resources, monitor)
        _write_table(plan, search)
        _check_outcome(search, plan.folder)
    best, metrics = _retrain(plan, search, job, resources, journal, monitor)
    _export(plan, best, metrics)
    failed = [e for e in read_events(plan.folder) if e["event"] == "retraining_failed"]
    untrained = {e["evaluation"]: e["reason"] for e in failed if e["evaluation"] != best.index}
    report = partial(
        write_report,
        plan.folder, plan.config, search, best, metrics, len(plan.data.test), untrained,
    )  # fmt: skip
    report()
    if not _has_ensemble(plan, search):
        _prune(plan, search, job, resources, journal, monitor)
        report()
    journal.append("complete", evaluations=len(search.evaluations))


def _search(search: Search, job: Job, resources: _Resources, monitor: Monitor) -> None:
    """Evaluate architectures as Tune trials until the search has enough."""
    if search.exhausted:
        return
    session = f"{len(list(job.folder.glob('tune/*'))):03d}"
    trainable = tune.with_resources(
        tune.with_parameters(TrialActor, job=job), {"cpu": resources.cpus, "gpu": resources.gpus}
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures come as results
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.concurrent)
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=TuneSearcher(search),
            scheduler=TuneScheduler(search),
            num_samples=-1,
            max_concurrent_trials=resources.concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config['evaluation']:05d}",
        ),
        run_config=tune.RunConfig(
            name=session,
            storage_path=str(job.folder / "tune"),
            callbacks=[TuneCallback(search, monitor.update)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=_WORKER_DEATHS),
            verbose=0,
        ),
    ).fit()
    if not search.exhausted or search.finished < len(search.evaluations):
        raise KeyboardInterrupt  # Tune ends quietly on the first Ctrl-C


def _search_supernet(
    recipe: WeightSharing, search: Search, job: Job, resources: _Resources, journal: Journal,
    monitor: Monitor,
) -> None:  # fmt: skip
    """Train a supernet, then evaluate architectures with its weights."""
    if search.exhausted:
        return
    told = {(e["group"], e["epoch"]) for e in journal.events if e["event"] == "supernet"}
    with shared_supernet(
        recipe, search.space, job.data, search.seed, job.folder / "supernet",
        resources.cpus, resources.gpus,
    ) as supernet:  # fmt: skip
        for group, epoch in itertools.product(range(supernet.groups), range(recipe.epochs)):
            try:
                metrics = supernet.train_epoch(group, epoch)
            except Diverged as error:
                raise SearchFailed(
                    f"evaluate: {error}. Choose a smaller learning_rate for the supernet, and start"
                    " again under another name."
                ) from error
            if (group, epoch + 1) not in told:
                journal.append("supernet", group=group, epoch=epoch + 1, metrics=metrics)
                monitor.supernet(group, supernet.groups, epoch + 1, recipe.epochs, metrics)
        search_by_estimates(
            search, recipe, ray.get(job.data), lambda _, most: supernet.pool(most), monitor.update
        )


def _check_outcome(search: Search, folder: Path) -> None:
    """Raise when the search came to nothing."""
    traces = f"The tracebacks are in {folder / 'checkpoints'}."
    if search.failure is not None:
        raise SearchFailed(
            f"The first evaluations all failed for the same reason: {search.failure}."
            f" Mend it and start again under another name. {traces}"
        )
    if search.best is None:
        reasons = sorted({e.reason or "" for e in search.evaluations})
        raise SearchFailed(f"Every evaluation failed: {'; '.join(reasons)}. {traces}")


def _retrain(
    plan: Plan, search: Search, job: Job, resources: _Resources, journal: Journal, monitor: Monitor
) -> tuple[Evaluation, dict[str, Any]]:
    """Train the best architecture on training and validation part; (evaluation, metrics)."""
    recipe = plan.evaluator if isinstance(plan.evaluator, Train) else Train()
    job = replace(job, epochs=plan.config.retrain_epochs or plan.config.epochs)
    known = {e["evaluation"]: e["metrics"] for e in journal.events if e["event"] == "retrained"}
    failures = []
    for best in search.ranked[:_FINALISTS]:  # one that failed before is tried again
        if best.index in known:
            return best, known[best.index]
        monitor.say(f"Final training of #{best.index}: {describe(best)}")
        path = final_path(plan.folder, best.index)
        seed = derived_seed(plan.config.seed, best.index, 1)
        try:
            trained = retrain(
                job, best.architecture, recipe, seed, path, resources.cpus, resources.gpus,
                _record_epochs(journal, best.index),
            )  # fmt: skip
        except TrainingFailed as error:
            failures.append(f"#{best.index}: {error}")
            journal.append("retraining_failed", evaluation=best.index, reason=str(error))
            monitor.say(f"The final training failed. {failures[-1]}")
            continue
        metrics = {search.metric: best.value, "epochs": best.epochs, **trained}
        journal.append("retrained", evaluation=best.index, metrics=metrics)
        return best, metrics
    raise SearchFailed(f"The final training failed: {'; '.join(failures)}.")


def _record_epochs(journal: Journal, index: int) -> Callable[[int, dict[str, float]], None]:
    """A function that journals the epochs of a final training, except those it has already."""
    told = [e for e in journal.events if e["event"] == "retraining" and e["evaluation"] == index]

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        if epoch > len(told):
            journal.append("retraining", evaluation=index, epoch=epoch, metrics=metrics)

    return on_epoch


def _export(plan: Plan, best: Evaluation, metrics: dict[str, Any]) -> None:
    """Write `best/`, unless it is there already."""
    folder = plan.folder / "best"
    if (folder / "metrics.json").exists():
        made = read_json(folder / "architecture.json")
        if made["architecture"] == best.notation:
            return
        (folder / "metrics.json").unlink()  # its presence says that the folder is whole
        (folder / "architecture.json").unlink(missing_ok=True)
    data = plan.data
    path = final_path(plan.folder, best.index)
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = plan.space.build(best.architecture, data.input_shape, data.num_classes)
    network.load_state_dict(state["trial"]["network"])
    model = ImageClassifier(network, data.mean, data.std)
    formats = [f for f in FORMATS if f != "onnx" or has_onnx()]
    export(model, data.input_shape, folder, formats)
    write_json(
        folder / "architecture.json",
        {
            "space": plan.config.space,
            "architecture": best.notation,
            "choices": list(best.architecture.choices),
            "input_shape": list(data.input_shape),
            "num_classes": data.num_classes,
            "class_names": list(data.class_names),
            "mean": list(data.mean),
            "std": list(data.std),
            "input": f"float32, batch x channels x height x width, {data.unit}, not normalized",
        },
    )
    write_json(folder / "metrics.json", metrics)


def _prune(
    plan: Plan, search: Search, job: Job, resources: _Resources, journal: Journal, monitor: Monitor
) -> None:
    """Make the ensemble that is asked for."""
    candidates = _candidates(plan, search)
    monitor.say(
        f"Ensemble of {len(candidates)} candidates: {plan.config.ensemble or 'all of them'}"
    )
    found = make_ensemble(
        plan.ensemble or SAEP(combine=search.searcher.combine), plan.ensemble is not None,
        candidates, job, plan.data, plan.config.seed, str(plan.config.ensemble),
        resources.cpus, resources.gpus,
    )  # fmt: skip
    curves = pd.read_parquet(plan.folder / "ensemble" / "curves.parquet").to_dict("records")
    journal.append("ensemble", rule=found["rule"], metrics=found["metrics"], curves=curves)


def _candidates(plan: Plan, search: Search) -> list[Evaluation]:
    """The evaluations that may be members of the ensemble."""
    if search.searcher.grows:
        return [search.evaluations[i] for i in search.searcher.ensemble]
    trained = [Status.COMPLETED]
    if plan.ensemble is not None and plan.ensemble.stopped:
        trained.append(Status.STOPPED)
    return [e for e in search.evaluations if e.status in trained]


def _has_ensemble(plan: Plan, search: Search) -> bool:
    """Whether the folder holds the ensemble that is asked for, or none is."""
    if plan.ensemble is None and len(search.searcher.ensemble) < 2:
        return True
    return is_current(plan.folder, str(plan.config.ensemble), _candidates(plan, search))


def _write_table(plan: Plan, search: Search) -> None:
    """Write the evaluations, and how flat their surroundings are, as `trials.parquet`."""
    folder = plan.folder
    path = folder / "trials.parquet"
    partial = path.with_suffix(".partial")
    trials = trials_table(read_events(folder))
    with_flatness(trials, plan.space, search.merits, search.metric).to_parquet(partial)
    partial.replace(path)


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


def _resources(plan: Plan) -> _Resources:
    cpus = plan.config.cpus_per_trial
    gpus, held = slots(cpus, plan.config.gpus_per_trial)
    if isinstance(plan.evaluator, WeightSharing) and plan.evaluator.replicas >= held:
        raise InvalidArgument(
            f"evaluate: replicas={plan.evaluator.replicas} and the supernet itself are more than"
            f" the {held} processes that the cluster holds (cpus_per_trial={cpus:g},"
            f" gpus_per_trial={gpus:g} each)."
        )
    return _Resources(cpus, gpus, plan.config.max_concurrent or held)


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
