"""What weight sharing costs: the study of Zhang et al. (arXiv 2001.01431) at a small scale.

`micro64`: all 64 children of the space are ranked after each of the last 32 mini-batches, by
weights that are shared by all (m = 1), by groups of similar children, or by random groups, each
group with a supernet that is trained as long. Everything is repeated with N seeds (instances). The
truth is the published one, the mean of ten full trainings of each child (`micro64_truth.csv`, from
the assets of the study's repository); with `--alone` it is what children reach here that share
with nobody (m = 64), averaged over their instances, and an instance of theirs is compared with the
mean of the others. All rankings are on the same validation images. Measured are the mean of
Kendall's tau with the truth over these mini-batches and its standard deviation, of each instance;
then the mean over instances with its standard error, and the difference to full sharing with a
95 % interval (Welch). `truth_with_itself` is the mean tau between the mean accuracies over two
halves of the instances that were trained alone; of the published truth, that between two means of
five draws from its means and standard deviations.

`nasbench201`: supernets of three seeds on cells (4 channels, 1 cell per stage); Kendall's tau of
the accuracies of 200 random cells, with the shared weights and after 20 mini-batches of fine-tuning
of each, with the test accuracies of the table, and its 95 % bootstrap interval.

    python -m benchmarks.weight_sharing micro64 --images IMAGES [--results FILE] [--instances N]
        [--alone] [--processes N] [--quick] [--json]
    python -m benchmarks.weight_sharing nasbench201 --images IMAGES --table TABLE [--quick] [--json]

IMAGES is what `trials.data.load` reads. FILE keeps the rankings of finished supernets, so that the
study can be interrupted and extended; instances that are not whole are left out. The recipe is far
smaller than the paper's (4 channels, 2 cells, images of 16 x 16, 2,200 steps of 32 images).
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

import search_spaces
from raynas.understanding.rank_measures import gt_tau, s_tau, tau_interval, top_n_rank
from trials.data import Data, load
from trials.weight_sharing.children import Children
from trials.weight_sharing.evaluator import WeightSharing
from trials.weight_sharing.shared_weights import SharedWeights
from trials.weight_sharing.training import SupernetTraining

_SPACE = "micro64:channels=4,cells=2"
_RECIPE = WeightSharing(
    epochs=20, batch_size=32, learning_rate=0.05, weight_decay=1e-3, gradient_clip=0,
    sampling="cycle", statistics="running", probes=64, ranked_epochs=0, ranked_batches=32,
)  # fmt: skip
_ALONE = 64  # groups
#: (groups, grouping)
_SETTINGS = (
    (1, "similarity"),
    (4, "similarity"),
    (8, "similarity"),
    (4, "random"),
    (8, "random"),
)
_NB201 = WeightSharing(
    epochs=16, batch_size=16, final_learning_rate=0.01, canonical=True, statistics="running",
    probes=0,
)  # fmt: skip
_FINE_TUNING = 20  # mini-batches
_CELLS = 200
_PUBLISHED = Path(__file__).parent / "micro64_truth.csv"
_DRAWS = 100  # of ten trainings of every child, to tell how well the published truth is known


def _recipe(groups: int, grouping: str, quick: bool) -> WeightSharing:
    recipe = replace(_RECIPE, groups=groups, grouping=grouping)
    return replace(recipe, epochs=1, ranked_batches=4) if quick else recipe


def _rankings(images: str, recipe: WeightSharing, seed: int, group: int) -> list[dict[str, Any]]:
    """Return one supernet's rankings of its children, towards the end of its training."""
    torch.set_num_threads(1)
    children = Children(search_spaces.get(_SPACE), recipe.groups, recipe.grouping)
    training = SupernetTraining(recipe, children, group, _data(images), seed, torch.device("cpu"))
    while training.epoch < recipe.epochs:
        training.train_epoch()
    return [
        {
            "groups": recipe.groups, "grouping": str(recipe.grouping), "seed": seed,
            "group": group, "kind": kind, "offset": offset, "architecture": arch,
            "accuracy": accuracy,
        }
        for kind, offset, arch, accuracy in training.rankings
    ]  # fmt: skip


_loaded: dict[str, Data] = {}


def _data(images: str) -> Data:
    if images not in _loaded:
        _loaded[images] = load(images)
    return _loaded[images]


def rankings(
    images: str, file: Path | None, instances: int, processes: int, alone: bool, quick: bool
) -> pd.DataFrame:
    """Train the supernets that FILE lacks; return the rankings of all instances."""
    known = pd.read_parquet(file) if file and file.exists() else pd.DataFrame()
    done = set()
    if not known.empty:
        keys = known[["groups", "grouping", "seed", "group"]].drop_duplicates()
        done = set(keys.itertuples(index=False, name=None))
    rows = known.to_dict("records")
    jobs = [job for job in _jobs(instances, alone, quick) if job not in done]
    start = time.perf_counter()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = [
            pool.submit(_rankings, images, _recipe(groups, grouping, quick), seed, group)
            for groups, grouping, seed, group in jobs
        ]
        for i, future in enumerate(as_completed(futures), 1):
            rows += future.result()
            print(f"{i}/{len(futures)} supernets, {time.perf_counter() - start:.0f} s", flush=True)
            if file:
                new = file.with_suffix(".new")
                pd.DataFrame(rows).to_parquet(new)
                new.replace(file)
    frame = pd.DataFrame(rows)
    return frame[frame["seed"] < instances]


def _jobs(instances: int, alone: bool, quick: bool) -> Iterator[tuple[int, str, int, int]]:
    """Yield (groups, grouping, seed, group) of every supernet, the first instances first."""
    settings = [*_SETTINGS, (_ALONE, "similarity")] if alone else _SETTINGS
    for seed in range(2 if quick else instances):
        for groups, grouping in settings[:2] if quick else settings:
            yield from ((groups, grouping, seed, group) for group in range(groups))


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each setting; see the module."""
    frame = _whole(frame)
    rows, taus = [], {}
    for (groups, grouping), part in frame.groupby(["groups", "grouping"]):
        instances = [
            _instance(one, truth(frame, seed if groups == _ALONE else None))
            for seed, one in part.groupby("seed")
        ]
        taus[groups, grouping] = np.array([tau for tau, *_ in instances])
        finals = _finals(part)
        spread = s_tau(finals.to_numpy()).mean if len(finals) > 1 else float("nan")
        means, stds = (np.array(column) for column in zip(*taus[groups, grouping], strict=True))
        rows.append(
            {
                "groups": groups, "grouping": grouping if groups > 1 else "-", "n": len(instances),
                "tau_mean": means.mean(), "tau_mean_se": _standard_error(means),
                "tau_std": stds.mean(), "tau_std_se": _standard_error(stds),
                "s_tau": spread,
                "top1": np.mean([top for _, top, _ in instances]),
                "top3": np.mean([top for *_, top in instances]),
            }
        )  # fmt: skip
    full = taus[1, "similarity"]
    for row, (_, values) in zip(rows, sorted(taus.items()), strict=True):
        for i, name in enumerate(("tau_mean", "tau_std")):
            if row["groups"] > 1:
                row[f"{name}_gain"], row[f"{name}_low"], row[f"{name}_high"] = _welch(
                    values[:, i], full[:, i]
                )
    return pd.DataFrame(rows)


def _whole(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rankings of instances of which all groups are there."""
    keys = ["groups", "grouping", "seed"]
    groups = frame.groupby(keys)["group"].transform("nunique")
    return frame[groups == frame["groups"]]


def _finals(frame: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies at the end of the training: one row per seed, one column per child."""
    finals = frame[frame["kind"] == "final"]
    return finals.pivot_table("accuracy", "seed", "architecture").sort_index(axis="columns")


def published() -> pd.DataFrame:
    """Return mean and standard deviation of ten trainings of each child, in percent.

    Zhang et al. (arXiv 2001.01431), assets of the study's repository.
    """
    return pd.read_csv(_PUBLISHED, index_col="architecture", dtype={"architecture": str})


def truth(frame: pd.DataFrame, without: int | None = None) -> pd.Series:
    """Return the accuracy of each child: trained alone, the mean over the seeds (but one).

    Where none was trained alone, the published one.
    """
    alone = _finals(frame[frame["groups"] == _ALONE])
    if alone.empty:
        return published()["mean"]
    if len(alone) > 1 and without is not None:
        alone = alone.drop(index=without)
    return alone.mean()


def reliability(frame: pd.DataFrame) -> float:
    """Return the mean tau between the mean accuracies over two halves of the truth's instances."""
    frame = _whole(frame)
    alone = _finals(frame[frame["groups"] == _ALONE]).to_numpy()
    if not len(alone):
        table = published()
        draws = np.random.default_rng(0).normal(
            table["mean"], table["std"], (_DRAWS, 10, len(table))
        )
        halves = draws[:, :5].mean(1), draws[:, 5:].mean(1)
        return float(np.mean([gt_tau(one, other) for one, other in zip(*halves, strict=True)]))
    seeds = range(len(alone))
    taus = [
        gt_tau(alone[list(half)].mean(0), alone[[i for i in seeds if i not in half]].mean(0))
        for half in combinations(seeds, len(alone) // 2)
        if half
    ]
    return float(np.mean(taus)) if taus else float("nan")


def _instance(one: pd.DataFrame, truth: pd.Series) -> tuple[tuple[float, float], int, int]:
    """Return ((mean, standard deviation) of tau over the last mini-batches, T1R, T3R)."""
    batches = one[one["kind"] == "batch"].pivot_table("accuracy", "offset", "architecture")
    values = [gt_tau(row, truth.to_numpy()) for row in batches.to_numpy()]
    final = _finals(one).to_numpy()[0]
    tops = [top_n_rank(final, truth.to_numpy(), n) for n in (1, 3)]
    return (float(np.mean(values)), float(np.std(values))), tops[0], tops[1]


def _standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean; NaN for a single value."""
    return float(stats.sem(values)) if len(values) > 1 else float("nan")


def _welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Return the difference of the means and its 95 % interval (Welch)."""
    difference = float(a.mean() - b.mean())
    if len(a) < 2 or len(b) < 2:
        return difference, float("nan"), float("nan")
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    return difference, float(interval.low), float(interval.high)


def nasbench201(images: str, table: str, seed: int, quick: bool) -> list[dict[str, Any]]:
    """Return tau of one supernet's accuracies with the table's, over random cells."""
    torch.set_num_threads(1)
    space = search_spaces.get("nasbench201:channels=4,cells=1")
    recipe = replace(_NB201, epochs=1) if quick else _NB201
    weights = SharedWeights(recipe, space, _data(images), seed)
    start = time.perf_counter()
    weights.train()
    trained = time.perf_counter() - start
    rows = pd.read_parquet(table, columns=["arch", "c10_test_200"])
    chosen = rows.sample(20 if quick else _CELLS, random_state=0)
    archs = [space.from_string(text) for text in chosen["arch"]]
    truth = chosen["c10_test_200"].to_numpy(float)
    macs = gt_tau([space.macs(arch) for arch in archs], truth)
    found = []
    for tuning in (0, _FINE_TUNING):
        weights.trainings[0].recipe = replace(recipe, fine_tuning=tuning)
        start = time.perf_counter()
        values = [metrics["val_accuracy"] for metrics in weights.evaluate(archs)]
        low, high = tau_interval(values, truth)
        found.append(
            {
                "seed": seed, "cells": len(archs), "fine_tuning": tuning,
                "tau": gt_tau(values, truth), "low": low, "high": high, "macs_tau": macs,
                "train_seconds": trained, "evaluate_seconds": time.perf_counter() - start,
            }
        )  # fmt: skip
    return found


def main() -> None:
    """Run one of the two and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("study", choices=("micro64", "nasbench201"))
    parser.add_argument("--images", default="digits")
    parser.add_argument("--table")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="train children alone for the truth")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.study == "nasbench201":
        seeds = range(1 if given.quick else 3)
        table = pd.DataFrame(
            [row for s in seeds for row in nasbench201(given.images, given.table, s, given.quick)]
        )
    else:
        frame = rankings(
            given.images, given.results, given.instances, given.processes, given.alone, given.quick
        )
        table = summary(frame)
        table["truth_with_itself"] = reliability(frame)
    print(table.to_json(orient="records") if given.json else table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
