"""`report.html`: what was found, how, and how far it can be trusted, in one file."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from scipy.stats import binomtest

from raynas.config.config import Config
from raynas.config.continuation import check_named
from raynas.config.resolve import resolve
from raynas.errors import StorageError
from raynas.record.events import Status
from raynas.record.folder import RunFolder, write
from raynas.record.formatting import shown
from raynas.record.history import Evaluation, History
from raynas.record.journal import read_events
from raynas.record.results import Result, load
from raynas.record.table import read_parquet
from raynas.reports import (
    audit,
    cost,
    course,
    ensemble,
    flatness,
    gradients,
    rank_stability,
    selection,
    time_budget,
    tried,
    understanding,
    usage,
    winner,
)
from raynas.reports.rendering import png, render
from raynas.reports.search_figures import search_figure
from search_spaces import SearchSpace
from trials.data import Data


def report(path: str | Path, **objects: Any) -> Path:
    """Write the report of a run anew, from what its folder has; return where it lies.

    The run may still be going on; the report then says so. Needs no Ray.

    Args:
        path: the run folder.
        objects: `space`, `data` and other arguments of the run that were objects of the user's.

    Raises:
        StorageError: when `path` is no run folder, or nothing has been evaluated yet.
        InvalidArgument: when an object of the user's is needed, naming it.
    """
    result = load(path)
    then, folder = {**result.config, "tracker": None}, result.path  # which may not be here
    check_named({key: value for key, value in then.items() if key not in objects})
    place = {"storage_path": str(folder.parent), "name": folder.name, "resume": "must"}
    plan = resolve({**then, **place, **objects})
    history = result.history
    best = _best(result, history)
    return write_report(result.folder, plan.config, plan.space, history, best, plan.data)


def write_report(
    folder: RunFolder, config: Config, space: SearchSpace, history: History, best: Evaluation,
    data: Data,
) -> Path:  # fmt: skip
    """Write `report.html`, and `search.png`, to the run folder.

    Args:
        folder: of the run.
        config: of the run.
        space: of its architectures.
        history: of the run.
        best: the evaluation that was chosen: of a run that is finished, it has been retrained.
        data: of the run.
    """
    events, recorded = read_events(folder.path), folder.read_configuration()["recorded"]
    write(folder.path / "search.png", _search_png(history))
    finished = best.index in history.retrained
    text = render(
        "report",
        name=config.name,
        head=_head(history, best, data, finished),
        winner=winner.section(folder, space, history, best, data),
        using=usage.using(folder.best, data) if finished else "",
        course=course.section(history, events, best),
        time_budget=time_budget.section(history),
        searches=gradients.section(folder, config, space, history, data),
        audit=audit.section(history),
        selection=selection.section(history, config.select, best.index),
        ensemble=ensemble.section(folder.path, history, len(data.test)),
        understanding=understanding.section(folder, config, space, history, best, data),
        flatness=flatness.section(folder, history, space, best),
        supernet=rank_stability.section(folder.path),
        trust=_trust(config, history, best, data, folder),
        tried=tried.section(history, best, _merits(folder)),
        cost=cost.section(history, events, recorded),
        reproducing=usage.reproducing(config, recorded),
    )
    write(folder.report, lambda partial: partial.write_text(text))
    return folder.report


def _head(history: History, best: Evaluation, data: Data, finished: bool) -> Markup:
    """Return what stands on top: the accuracy with its interval, and the size."""
    metrics: Mapping[str, Any] = {**(best.history[-1] if best.history else {})}
    interval, images = None, len(data.test)
    if finished:
        metrics = {**metrics, **history.retrained[best.index]}
        right = round(metrics["test_accuracy"] * images)
        interval = binomtest(right, images).proportion_ci(method="wilson")
    return render(
        "head",
        shown=functools.partial(shown, history.metric),
        metric=_words(history.metric),
        best=best,
        metrics=metrics,
        interval=interval,
        test_images=images,
        train_images=len(data.train) + len(data.validation),
        classes=data.num_classes,
        input_shape=data.input_shape,
        evaluations=len(history.evaluations),
        comparable=_comparable(history, best),
        ended=len(history.finished),
    )


def _trust(
    config: Config, history: History, best: Evaluation, data: Data, folder: RunFolder
) -> Markup:
    """Return the section about what the numbers do not tell."""
    failed = (Status.FAILED, Status.DIVERGED)
    return render(
        "trust",
        metric=_words(history.metric),
        data_notes=data.notes,
        comparable=_comparable(history, best),
        finished=best.index in history.retrained,
        supernet=folder.rankings.exists(),
        stopped=sum(e.status is Status.STOPPED and e.epochs > 0 for e in history.evaluations),
        scheduler=config.scheduler,
        retraining_failed={
            i: reason for i, reason in history.retraining_failed.items() if i != best.index
        },
        failures=sum(e.status in failed for e in history.evaluations),
    )


def _best(result: Result, history: History) -> Evaluation:
    """Return the winner of a run that is finished, else the best so far."""
    retrained = [history.evaluations[index] for index in history.retrained]
    best = history.chosen or history.best
    if (result.folder.best / "metrics.json").exists():
        notation = result.best.architecture
        best = next((e for e in reversed(retrained) if e.notation == notation), best)
    if best is None:
        raise StorageError(
            f"{result.path}: no evaluation has ended well yet, so nothing to report."
        )
    return best


def _comparable(history: History, best: Evaluation) -> int:
    """Return how many evaluations got as far as the best, itself included."""
    return sum(e.epochs == best.epochs for e in history.evaluations)


def _merits(folder: RunFolder) -> dict[int, float]:
    """Return {evaluation: merit} as the table of the run has them; empty without any."""
    if not folder.trials.exists():
        return {}
    table = read_parquet(folder.trials)
    if "merit" not in table:
        return {}
    known: pd.Series[float] = table["merit"].dropna()
    return {int(str(index)): float(merit) for index, merit in known.items()}


def _words(metric: str) -> str:
    return metric.replace("val_", "validation ").replace("_", " ")


def _search_png(history: History) -> Any:
    image = png(search_figure(history))
    return lambda partial: partial.write_bytes(image)
