"""Learning curves by width, by depth: which architectures converge fast.

Shu, Wang, Cai: Understanding Architectures Learnt by Cell-based NAS (ICLR 2020), section 4.1.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from raynas.record.history import History
from raynas.record.results import Result, load
from raynas.understanding.bias import images_of, run_strata
from raynas.understanding.strata import JOINT, Strata
from raynas.understanding.topology import space_of_run
from search_spaces import SearchSpace

#: what is shown beside the metric that the search maximized
TRAINING_LOSS = "train_loss"

_COLUMNS = ("of", "stratum", "metric", "epoch", "architectures", "mean", "low", "high")


def convergence(run: str | Path | Result, space: SearchSpace | None = None) -> pd.DataFrame:
    """Return the learning curves of a run's evaluations, averaged by width and by depth.

    Where evaluations are stopped early, a mean is over those that were still running: later
    epochs have only survivors, and a curve may rise because the weak ones left. `architectures` is
    how many there are.

    Args:
        run: its folder, or what `raynas.run` and `raynas.load` return.
        space: the search space; None: the one of the run, if it has a name.

    Returns:
        `of` (the property), `stratum`, `metric` (`train_loss` and what the search maximized),
        `epoch`, `architectures`, `mean` and the bounds of its 95 % interval (Student's; NaN for
        one architecture), `low` and `high`.

    Raises:
        UnknownName: for a space of the user's own that was not given.
        InvalidArgument: when nothing has been evaluated, or nothing tells the architectures apart.
    """
    result = run if isinstance(run, Result) else load(run)
    history = result.history
    groups = run_strata(history, space or space_of_run(result, "convergence"), images_of(result))
    return curves(history, groups)


def curves(history: History, groups: Sequence[Strata]) -> pd.DataFrame:
    """Return the learning curves of a history; see `convergence`.

    Args:
        history: of the run.
        groups: its evaluations, grouped by every property.
    """
    rows = [row for group in groups if group.of != JOINT for row in _of_group(history, group)]
    return pd.DataFrame(rows, columns=_COLUMNS)


def _of_group(history: History, group: Strata) -> Iterator[tuple[Any, ...]]:
    for metric in (TRAINING_LOSS, history.metric):
        for index, label in enumerate(group.labels):
            told = [history.evaluations[i].history for i in np.flatnonzero(group.members == index)]
            for epoch in range(1, 1 + max(map(len, told), default=0)):
                reached = [float(h[epoch - 1].get(metric, np.nan)) for h in told if len(h) >= epoch]
                values = np.array([value for value in reached if np.isfinite(value)])
                if len(values):
                    yield group.of, label, metric, epoch, len(values), *_mean(values)


def _mean(values: Any) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, np.nan, np.nan
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half
