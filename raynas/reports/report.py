"""`report.html`: what was found, how, and how far it can be trusted."""

import functools
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import binomtest

from raynas.config.config import Config
from raynas.record.events import Status
from raynas.record.folder import RunFolder, write
from raynas.record.formatting import shown
from raynas.record.history import Evaluation, History
from raynas.reports import (
    audit,
    ensemble,
    gradients,
    rank_stability,
    selection,
    time_budget,
    understanding,
)
from raynas.reports.figures import flatness_figure, search_figure
from raynas.reports.rendering import render
from search_spaces import SearchSpace
from trials.data import Data


def write_report(
    folder: RunFolder, config: Config, space: SearchSpace, history: History,
    ranked: Sequence[Evaluation], best: Evaluation, data: Data,
) -> Path:  # fmt: skip
    """Write `report.html` and its figures (`search.png` and others) to the run folder.

    Args:
        folder: of the run.
        config: of the run.
        space: of its architectures.
        history: of the run, its search finished.
        ranked: all evaluations that have a value, the best first.
        best: the evaluation whose architecture has been retrained.
        data: of the run.
    """
    test_images = len(data.test)
    progress, flatness = search_figure(history), flatness_figure(history, space, best)
    (folder.path / "search.png").write_bytes(progress)
    if flatness:
        (folder.path / "flatness.png").write_bytes(flatness)
    metrics = history.retrained[best.index]
    right = round(metrics["test_accuracy"] * test_images)
    by_status = {s: [e for e in history.evaluations if e.status is s] for s in Status}
    counts = {status.value: len(evaluations) for status, evaluations in by_status.items()}
    text = render(
        "report",
        name=config.name,
        shown=functools.partial(shown, history.metric),
        metric=history.metric.replace("val_", "validation ").replace("_", " "),
        config=config,
        best=best,
        metrics=metrics,
        interval=binomtest(right, test_images).proportion_ci(method="wilson"),
        test_images=test_images,
        data_notes=data.notes,
        retraining_failed={
            i: reason for i, reason in history.retraining_failed.items() if i != best.index
        },
        search=progress,
        flatness=flatness,
        time_budget=time_budget.section(folder, history),
        searches=gradients.section(folder, config, space, history, data),
        audit=audit.section(history),
        selection=selection.section(history, config.select, best.index),
        understanding=understanding.section(folder, config, space, history, best, data),
        supernet=rank_stability.section(folder.path),
        ensemble=ensemble.section(folder.path, history, test_images),
        counts=", ".join(f"{count} {status}" for status, count in counts.items() if count),
        comparable=sum(e.epochs == best.epochs for e in history.evaluations),
        stopped=sum(e.epochs > 0 for e in by_status[Status.STOPPED]),
        failures=by_status[Status.FAILED] + by_status[Status.DIVERGED],
        top=ranked[:10],
    )
    write(folder.report, lambda partial: partial.write_text(text))
    return folder.report
