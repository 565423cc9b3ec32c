"""The stages of a run, each of which reads and writes the run folder; `raynas.run` calls them."""

import itertools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import ray
import torch
from ray import tune

from raynas.config.resolve import Plan
from raynas.drivers.batches import search_by_estimates
from raynas.drivers.trainable import Job, TrialActor, final_path
from raynas.drivers.tune_adapter import TuneCallback, TuneScheduler, TuneSearcher
from raynas.ensemble.saep import SAEP
from raynas.errors import InvalidArgument, SearchFailed
from raynas.record.journal import Journal, read_events
from raynas.record.models import FORMATS, export, has_onnx, read_json, write_json
from raynas.record.results import trials_table
from raynas.reports.monitor import Monitor, describe
from raynas.search.search import Evaluation, Search, Status
from raynas.stages.ensemble import is_current, make_ensemble
from raynas.stages.retrain import TrainingFailed, retrain
from raynas.supernet.actor import shared_supernet
from raynas.understanding.flatness import with_flatness
from trials.deployed import ImageClassifier
from trials.training import Train
from trials.trial import Diverged, derived_seed
from trials.weight_sharing.recipe import WeightSharing

_FINALISTS = 3  # tried in turn when a final training diverges
_WORKER_DEATHS = 3  # before an evaluation whose worker keeps dying counts as failed


@dataclass(frozen=True)
class Resources:
    """What a trial may use, and how many run at the same time."""

    cpus: float
    gpus: float
    concurrent: int


def search_by_trials(search: Search, job: Job, resources: Resources, monitor: Monitor) -> None:
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


def search_by_supernet(
    recipe: WeightSharing, search: Search, job: Job, resources: Resources, journal: Journal,
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


def check_outcome(search: Search, folder: Path) -> None:
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


def train_finally(
    plan: Plan, search: Search, job: Job, resources: Resources, journal: Journal, monitor: Monitor
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


def export_best(plan: Plan, best: Evaluation, metrics: dict[str, Any]) -> None:
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


def prune(
    plan: Plan, search: Search, job: Job, resources: Resources, journal: Journal, monitor: Monitor
) -> None:
    """Make the ensemble that is asked for, and record it.

    Raises:
        InvalidArgument: when fewer than two can be members.
    """
    candidates, asked = _candidates(plan, search), str(plan.config.ensemble)
    if not is_current(plan.folder, asked, candidates):  # else it only was not recorded
        how = plan.config.ensemble or "all of them"
        monitor.say(f"Ensemble of {len(candidates)} candidates: {how}")
        saep, penalties = plan.ensemble or SAEP(), {}
        if growing := search.growing:
            saep = replace(saep, combine=saep.combine or growing.combine)
            members = [candidate.index for candidate in candidates]
            penalties = dict(zip(members, growing.penalties(members), strict=True))
        try:
            make_ensemble(
                saep, plan.ensemble is not None, candidates, penalties, job, plan.data,
                plan.config.seed, asked, resources.cpus, resources.gpus,
            )  # fmt: skip
        except InvalidArgument as error:
            stopped = sum(e.status is Status.STOPPED for e in search.evaluations)
            if saep.stopped or not stopped:
                raise
            raise InvalidArgument(
                f"{error} {stopped} evaluations that were stopped early are members only with"
                " SAEP(stopped=True), on the command line --stopped."
            ) from None
    found = read_json(plan.folder / "ensemble" / "ensemble.json")
    curves = pd.read_parquet(plan.folder / "ensemble" / "curves.parquet").to_dict("records")
    journal.append(
        "ensemble", asked=asked, evaluations=found["evaluations"], metrics=found["metrics"],
        curves=curves,
    )  # fmt: skip


def _candidates(plan: Plan, search: Search) -> list[Evaluation]:
    """The evaluations that may be members of the ensemble."""
    if search.growing:
        return [search.evaluations[i] for i in search.growing.ensemble]
    trained = [Status.COMPLETED]
    if plan.ensemble is not None and plan.ensemble.stopped:
        trained.append(Status.STOPPED)
    return [e for e in search.evaluations if e.status in trained]


def has_ensemble(plan: Plan, search: Search) -> bool:
    """Whether the folder holds the ensemble that is asked for, or none is."""
    if plan.ensemble is None and not (search.growing and len(search.growing.ensemble) > 1):
        return True
    candidates, asked = _candidates(plan, search), str(plan.config.ensemble)
    recorded = [e for e in read_events(plan.folder) if e["event"] == "ensemble"]
    wanted = (asked, [e.index for e in candidates])
    known = recorded and (recorded[-1]["asked"], recorded[-1]["evaluations"]) == wanted
    return bool(known) and is_current(plan.folder, asked, candidates)


def write_table(plan: Plan, search: Search) -> None:
    """Write the evaluations, and how flat their surroundings are, as `trials.parquet`."""
    folder = plan.folder
    path = folder / "trials.parquet"
    partial = path.with_suffix(".partial")
    trials = trials_table(read_events(folder))
    with_flatness(trials, plan.space, search.merits, search.metric).to_parquet(partial)
    partial.replace(path)
