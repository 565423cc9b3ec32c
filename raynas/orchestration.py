"""`run()`: from a data set to the best architecture, trained and exported.

A run is a plan, a session and a list of stages (`raynas.stages`): score, search, select, retrain,
export, ensemble, understand, report. What a stage has done is in the journal, so a run that was
killed anywhere goes on at the first stage that is not done.
"""

import functools
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import ray

from raynas.cluster import connected, resources, slots, terminable
from raynas.config.config import check_known
from raynas.config.continuation import check_folder, check_named
from raynas.config.resolve import Plan, resolve
from raynas.drivers import DRIVERS
from raynas.drivers.session import Session
from raynas.drivers.visibility import check_visible
from raynas.ensemble.members import ValidationLogits
from raynas.ensemble.saep import SAEP
from raynas.planning.allotment import allot_search, search_is_over
from raynas.planning.limits import check_limits, limit_reached
from raynas.planning.planning import in_time
from raynas.record import events
from raynas.record.folder import RunFolder
from raynas.record.full_disks import one_sentence
from raynas.record.journal import Journal, Listener
from raynas.record.results import Result, load
from raynas.reports.mirror import Mirror
from raynas.reports.monitor import Monitor
from raynas.reports.table import TrialsTable
from raynas.reports.tensorboard import TensorBoard
from raynas.reports.tracking import Tracking
from raynas.reports.views import View
from raynas.schedulers import Scheduler
from raynas.search.admission import Admission
from raynas.search.search import Search
from raynas.searchers import Constraint, Searcher
from raynas.stages import STAGES
from raynas.trackers import TrackedRun, Tracker
from search_spaces import SearchSpace
from search_spaces.naming import lookup
from trials.places import make_folder
from trials.trial import AnyEvaluator


def run(
    space: str | SearchSpace | None = None,
    data: Any = "digits",
    search: str | Searcher | None = None,
    evaluate: str | AnyEvaluator | None = None,
    scheduler: str | Scheduler | None = None,
    architectures: str | Path | Sequence[str] | None = None,
    time_budget: str | float | None = None,
    gpu_hours: float | None = None,
    target: str | Mapping[str, float] | None = None,
    samples: int | None = None,
    epochs: int | None = None,
    retrain_epochs: int | None = None,
    snapshots: Sequence[int] = (),
    keep_checkpoints: int | str | None = None,
    select: int | None = None,
    constraint: str | Constraint | None = None,
    seed: int = 0,
    cpus_per_trial: float = 1,
    gpus_per_trial: float | None = None,
    workers_per_trial: int = 1,
    retrain_workers: int | None = None,
    ensemble: str | SAEP | None = None,
    understand: bool = False,
    max_concurrent: int | None = None,
    tracker: str | Tracker | None = None,
    storage_path: str | Path = "runs",
    name: str | None = None,
    resume: Literal["auto", "must", "never"] = "auto",
) -> Result:
    """Search for the best architecture, retrain it, export it, report.

    The same call continues a run that was interrupted, and with more `samples` extends one that
    is finished. Names may carry arguments: `nasbench201:channels=8,cells=1`.

    Args:
        space: a name (`search_spaces.names()`) or a `SearchSpace`.
        data: a name (`trials.data.names()`), a folder of class folders, a Parquet file, a pair
            (images, labels) of arrays, or a `torch.utils.data.Dataset`.
        search: `auto`, `evolution`, `area`, `local`, `naswot`, `random`, `na-rs`, `adanet` (which
            grows an ensemble), `milenas`, `darts`, `gdas`, `na-darts`, `single-level` (which search
            by gradients), or a `Searcher`.
        evaluate: `train`, `table:FILE`, `proxy`, `supernet` (with the weights that all
            architectures share; `trials.WeightSharing`), or an `Evaluator` or `Estimator`. Without
            `train` only the outcome of the search is trained alone.
        scheduler: `asha`, `asha-stratified` (within families, by depth unless told otherwise),
            `fifo`, or a `Scheduler`; None: `asha`, with `adanet` and searches by gradients `fifo`.
            Of the latter it stops searches, not evaluations.
        architectures: evaluate these, in the notation of the space or by the names of published
            cells, and search no others: a list, or a file with one a line; `search` and `samples`
            are not asked then.
        time_budget: `20min`, `12h`, or seconds: what is not said of `space`, `search`, `evaluate`,
            `scheduler`, `constraint`, `samples`, `epochs` and `select` follows from it, the data
            and the hardware, and is shown before the start; search, last decision and retraining
            share the time. None: those have the defaults `nasbench201`, `evolution`, `train`,
            none, none, 32, 4 and 1.
        gpu_hours: the search ends when its trials have held GPUs for so many hours, those of
            earlier calls counted; what runs then is stopped, and the best is retrained. The same
            call with more goes on, with what was stopped first.
        target: `{"val_accuracy": 0.95}`: the search ends likewise when the best evaluation that has
            ended is as good.
        samples: number of architectures to evaluate; of searches by gradients, at most that many
            of what they derive.
        epochs: epochs of an evaluation that is not stopped early.
        retrain_epochs: epochs of the retraining of the best; `epochs` if None.
        snapshots: epochs after which the weights of every evaluation are kept too, beside those of
            its last epoch; see `Result.snapshot`. What has been trained before is not trained
            again for them.
        keep_checkpoints: of how many of the best evaluations the weights are kept, for ensembles
            and `understand`, beside those that the search still needs; `all` keeps those of all.
            None: as the run folder has it; 50 in a new one.
        select: how many of the best are trained alone for `retrain_epochs`, on the training part,
            before the best of them on the validation part is retrained; also of a run that is
            finished. 1: the best of the search is.
        constraint: what may be evaluated, `limit:of=macs,most=3e6` or `quota:of=depth,most=0.5`, or
            what lowers the metric, `penalty:of=macs,above=3e6,weight=0.05`; or a `Limit`, `Quota`
            or `Penalty`.
        seed: all randomness derives from it. With one trial at a time the same seed gives the
            same run, bit for bit, on the same machine; with a time budget only evaluations are the
            same, while how many and how long depends on the time.
        cpus_per_trial: CPU cores of one trial, and its threads; of each of its workers.
        gpus_per_trial: GPUs of one trial, also a fraction; None: 1 when the cluster has any. Of
            each of its workers, where there are several, and whole ones then.
        workers_per_trial: processes that train one architecture together, also on several nodes:
            each takes its share of every batch, with `train` and evaluators that know of it.
        retrain_workers: processes of the retraining, likewise; None: `workers_per_trial`.
        ensemble: `saep`, or a `SAEP`: prune the trained architectures to a small, diverse ensemble
            too; also of a run that is finished. None: as the run folder has it; `none`: none.
        understand: tell also what costs something of the architectures that were trained, in
            `understanding/` and the report: scores by proxies, against the final accuracies, and
            loss surfaces; also of a run that is finished.
        max_concurrent: trials at the same time; None: as many as the cluster holds, also when nodes
            come or go.
        tracker: `mlflow:experiment=NAME` or `wandb:project=NAME`, where the run is shown too while
            it is on, or a `Tracker`.
        storage_path: where run folders lie; all nodes must see it. A folder, or in an object store
            `s3://bucket/runs`, `gs://bucket/runs` (`pip install 'raynas[s3]'`, `'raynas[gs]'`).
        name: of the run folder; None: made from the other arguments, the same for the same ones.
        resume: `auto` continues the run folder if there is one, `must` wants one, `never` none.

    Returns:
        The result, read from the run folder.

    Raises:
        InvalidArgument: for a wrong argument, before anything starts; after the search, when fewer
            than two architectures can be members of an ensemble (all else is in the run folder).
        StorageError: when the run folder cannot be written or another process uses it.
        SearchFailed: when the first ten evaluations fail for the same reason, or all fail.
        Terminated: (a KeyboardInterrupt) when SIGTERM has ended the run; the same call goes on.
    """
    said, started = locals(), time.monotonic()
    plan = resolve(said)
    check_folder(plan)
    with (
        one_sentence(plan.folder.path),
        connected(),
        terminable(),
        _session(*in_time(plan, said), started) as session,
    ):
        if not all(stage.done(session) for stage in STAGES):
            with _watched(session):
                for stage in STAGES:
                    if not stage.done(session):
                        stage.run(session)
        for problem in session.problems:
            raise problem
    return Result(plan.folder.path)


def resume(path: str | Path, **changes: Any) -> Result:
    """Continue the run in a folder, with its own arguments.

    Args:
        path: the run folder.
        changes: arguments that may differ from before: `samples`, `gpu_hours`, `target`, `select`,
            `ensemble`, `understand`, `snapshots`, `keep_checkpoints`, `tracker`, resources,
            `max_concurrent`.

    Raises:
        InvalidArgument: when the run was started with an object that has no name, such as a
            space of the user's own: call `run()` again with the same arguments.
    """
    check_known(changes)
    result = load(path)
    then, folder = result.config, result.path
    check_named({key: value for key, value in then.items() if key not in changes})
    arguments = {
        **then,
        "storage_path": str(folder.parent),
        "name": folder.name,
        "resume": "must",
    }
    return run(**{**arguments, **changes})


@contextmanager
def _session(plan: Plan, planned: events.Planned | None, started: float) -> Iterator[Session]:
    """Open the run folder, and take the path that its journal describes.

    Args:
        plan: of the run.
        planned: what is to be done in its time, where that is new.
        started: when the call began, on the monotonic clock.

    Raises:
        InvalidArgument: when the cluster does not hold what is asked for.
        StorageError: when the folder cannot be written or another process uses it.
    """
    config = plan.config
    share = resources(
        config.cpus_per_trial, config.gpus_per_trial, config.max_concurrent,
        config.workers_per_trial,
    )  # fmt: skip
    slots(config.cpus_per_trial, config.gpus_per_trial, config.retrain_workers or 1)
    check_limits(plan, share)
    lookup("evaluate: driver", plan.driver, DRIVERS)().check(plan, share)
    with Journal(plan.folder.path, prompt=plan.evaluator.trains) as journal:
        search = Search(
            plan.space, plan.searcher, plan.scheduler, config.samples, plan.epochs, config.seed,
            journal, plan.evaluator.metric_name,
            held_out=ValidationLogits(plan.folder, plan.space, plan.data),
            admission=_admission(plan), select=config.select,
            keep=config.kept if plan.evaluator.trains else None,
        )  # fmt: skip
        session = Session(plan, journal, search, share, _recorded(), started=started)
        search.expired = functools.partial(search_is_over, session)
        search.over = functools.partial(limit_reached, session)
        if planned is not None:  # first: a folder with a configuration is not planned again
            session.record(planned)
        session.write_plan()
        yield session


def _admission(plan: Plan) -> Admission:
    """Return what may be evaluated in a run."""
    if plan.constraint is None:
        return Admission()
    shape, classes = plan.data.input_shape, plan.data.num_classes
    return Admission(plan.constraint, plan.constraint.measured(plan.space, shape, classes))


@contextmanager
def _watched(session: Session) -> Iterator[None]:
    """Let monitor, TensorBoard and table listen while the stages are at work."""
    folder, journal, search = session.folder, session.journal, session.search
    make_folder(folder.checkpoints)
    check_visible(folder)
    mirror = Mirror(folder.tensorboard)
    table = TrialsTable(search, folder.trials)
    with Monitor(search) as monitor:
        session.say = monitor.say
        folder.discard(session.history.discarded)  # what a kill has left
        board = View("TensorBoard's files", monitor.say)
        board.attempt(
            lambda: journal.listeners.append(board.listener(_tensorboard(session, mirror)))
        )
        rows = View("trials.parquet", monitor.say)
        journal.listeners += [_remover(folder), mirror, monitor, rows.listener(table)]
        if session.plan.tracker is not None:
            shown = TrackedRun(session.folder, session.plan.config.model_dump(), session.history)
            journal.listeners.append(Tracking(session.plan.tracker, shown, monitor.say))
        if journal.notice:
            monitor.say(journal.notice)
        for note in session.plan.data.notes:
            monitor.say(f"data: {note}")
        session.record(events.Session(search.metric, **session.recorded, format=events.FORMAT))
        if session.history.planned and not search.evaluations:
            monitor(session.history.planned)
        allot_search(session)
        search.begin()
        try:
            yield
        finally:
            rows.attempt(table.write, always=True)
            mirror.close()


def _remover(folder: RunFolder) -> Listener:
    """Return what removes the checkpoints that are needed no more, once that is recorded."""

    def remove(event: events.Event) -> None:
        if isinstance(event, events.Discarded):
            folder.discard(event.evaluations)

    return remove


def _tensorboard(session: Session, mirror: Mirror) -> TensorBoard:
    """Return TensorBoard's files with what has happened so far."""
    board = TensorBoard(mirror.here, session.plan.space, session.plan.data)
    board.catch_up(session.journal.events)
    return board


def _recorded() -> dict[str, Any]:
    """Return versions and hardware, for `run.yaml` and the journal."""
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
