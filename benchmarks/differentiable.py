"""What differentiable search costs, and what it finds in the NAS-Bench-201 and DARTS supernets.

`cost`: seconds per step side by side (of one thread's CPU time, so that other work on the machine
counts little; on a GPU by the clock), medians of interleaved rounds, and memory, in the search
network of DARTS, in float32. `milenas`: MiLeNAS of the first order over DARTS of the second;
`simultaneous`: the same with one backward pass of the training batch for both w and a; `mixed`: one
pass of a mixture and its gradients with shared work, against the plain sum (which must agree to
1e-5); `gdas`: a step with sampled operations against one with the full mixture (first-order DARTS);
`checkpoint`: peak memory of a pass and its gradients with `checkpoint` and without (which must
agree too).

`search`: single-level, DARTS (first order), MiLeNAS, NA-DARTS and GDAS, N seeds each, in the
supernet of NAS-Bench-201 on CIFAR-10: the derived cells with the accuracies that the table gives
them, and the gap between the search network's accuracies on the half that w learnt on and on the
half of a, both without augmentation at the end. A rule with three seeds takes about half an hour on
two cores; the recipe is far smaller than the papers' (8 channels, 1 cell per stage, 12 epochs, and
an architecture learning rate five times theirs for a fifth of their steps).

`sizes`: MiLeNAS in the DARTS supernet: model sizes over the epochs, where the search would stop,
and the Pareto set of what it found, parameters counted in the papers' network (20 cells, 36
channels). It is slow on a CPU: give it a tenth of the images (`fraction=0.1`).

    python -m benchmarks.differentiable cost [--device cuda] [--quick] [--json]
    python -m benchmarks.differentiable search --images IMAGES --table TABLE [--results FOLDER]
        [--seeds N] [--rules milenas,darts] [--epochs N] [--processes N] [--device cuda] [--quick]
        [--json]
    python -m benchmarks.differentiable sizes --images IMAGES [--results FOLDER] [--expected 4,2]
        [--seeds N] [--epochs N] [--processes N] [--device cuda] [--quick] [--json]

IMAGES is what `trials.data.load` reads, TABLE has the columns `arch`, `c10_valid_200` and
`c10_test_200`. FOLDER keeps each search after every epoch, so that a run can be interrupted and
extended. On a GPU several processes share it.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

import search_spaces
from trials.data import Data, Part, load
from trials.differentiable import (
    GDAS,
    Darts,
    Differentiable,
    GradientSearch,
    MiLeNAS,
    NADarts,
    SingleLevel,
)

#: what the project asks for: at most for the first two, at least for the others
TARGETS = {"milenas": 0.62, "simultaneous": 0.42, "mixed": 1.3, "gdas": 3.0, "checkpoint": 0.4}
_TOLERANCE = 1e-5

RULES = {
    "single-level": SingleLevel(),
    "darts": Darts(),
    "milenas": MiLeNAS(),
    "na-darts": NADarts(),
    "gdas": GDAS(),
}
#: NAS-Bench-201 paper, table 5: CIFAR-10 test accuracy in percent of what these rules find
PUBLISHED = {"darts": 54.30, "gdas": 93.51}
_CELL = "nasbench201:channels=8,cells=1"
_RECIPE = Differentiable(architecture_learning_rate=1.5e-3, judged_images=2048)
_EPOCHS = 12
_JUDGED = 5120  # images of each half at the end

_SIZES = "darts:channels=4,cells=3"
_SIZES_RECIPE = replace(
    _RECIPE, rule=MiLeNAS(), batch_size=32, architecture_learning_rate=3e-3, judged_images=1024
)
_SIZES_EPOCHS = 12


# What a step costs


def cost(device: torch.device, quick: bool) -> dict[str, dict[str, Any]]:
    """All measures of `cost`."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    channels, cells, batch = (16, 8, 64) if device.type == "cuda" else (8, 3, 16)
    space = search_spaces.get(f"darts:channels={channels},cells={cells}")
    data = load(_noise(4 * batch), validation_fraction=0.2, test_fraction=0.2)
    rounds = 3 if quick else 7
    searches = {
        name: _search(rule, space, data, batch // 2 if quick else batch, device)
        for name, rule in {
            "second": Darts(second_order=True),
            "first": Darts(),
            "milenas": MiLeNAS(),
            "simultaneous": MiLeNAS(order="simultaneous"),
            "gdas": GDAS(),
        }.items()
    }
    seconds = _interleaved(
        {name: _one_step(search) for name, search in searches.items()}, rounds, device
    )
    found = {
        name: _row(seconds[name], seconds["second"], seconds[name] / seconds["second"], "s/step")
        for name in ("milenas", "simultaneous")
    }
    found["mixed"] = _mixed(searches["first"], rounds, device)
    ratio = seconds["first"] / seconds["gdas"]
    found["gdas"] = _row(seconds["gdas"], seconds["first"], ratio, "s/step")
    found["checkpoint"] = _checkpoint(searches["first"], device)
    return found


def _row(ours: float, other: float, ratio: float, unit: str) -> dict[str, Any]:
    return {"ours": ours, "other": other, "ratio": ratio, "unit": unit}


def _noise(images: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(images) % 10


def _search(rule: Any, space: Any, data: Data, batch: int, device: torch.device) -> GradientSearch:
    """A search whose passes are all in float32, as those of the second order must be."""
    recipe = Differentiable(rule=rule, batch_size=batch)
    search = recipe.trial(space, data, 1, 0, device)
    search.weights.precision = search._precision = None
    return search


def _batches(search: GradientSearch) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """One mini-batch of each half."""
    size = search.options.batch_size
    of_w, of_a = (p.batches(size, search.device, seed=0) for p in (search.of_w, search.of_a))
    return next(of_w), next(of_a)


def _one_step(search: GradientSearch) -> Callable[[], None]:
    train, validation = _batches(search)
    return lambda: search.rule.step(search, train, validation)


def _interleaved(
    sides: dict[str, Callable[[], Any]], rounds: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each, which take turns after a round to warm up."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            _wait(device)
            start = clock()
            run()
            _wait(device)
            if number:
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _gradients(search: GradientSearch, forward: Callable[..., Tensor]) -> list[Tensor]:
    """The logits of a mini-batch, and the gradients of its loss in a and w."""
    (images, labels), _ = _batches(search)
    logits = forward(images, search.relaxation)
    loss = functional.cross_entropy(logits, labels)
    return [logits.detach(), *torch.autograd.grad(loss, [*search.a, *search.w])]


def _difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The largest difference relative to the largest value of a tensor; at least 1 counts."""
    return max(
        float((x - y).abs().max() / y.abs().max().clamp(min=1))
        for x, y in zip(first, second, strict=True)
    )


def _checked(name: str, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    difference = _difference(first, second)
    if difference > _TOLERANCE:
        raise SystemExit(f"{name}: both sides differ by {difference:.1e}")


def _mixed(search: GradientSearch, rounds: int, device: torch.device) -> dict[str, Any]:
    """A pass of the mixture and its gradients: shared work against the plain sum."""
    search.supernet.train()
    shared, plain = search.supernet, search.supernet.mixed_plain
    double = copy.deepcopy(search)  # in float64, in which the order of additions does not show
    double.supernet.double()
    (images, labels), _ = _batches(search)
    sides = []
    for forward in (double.supernet, double.supernet.mixed_plain):
        mixture = [alpha.double() for alpha in search.relaxation]
        logits = forward(images.double(), mixture)
        loss = functional.cross_entropy(logits, labels)
        sides.append([logits, *torch.autograd.grad(loss, [*search.a, *double.w])])
    _checked("mixed", *sides)
    seconds = _interleaved(
        {
            "shared": lambda: _gradients(search, shared),
            "plain": lambda: _gradients(search, plain),
        },
        rounds,
        device,
    )
    ours, other = seconds["shared"], seconds["plain"]
    return _row(ours, other, other / ours, "s/pass")


def _checkpoint(search: GradientSearch, device: torch.device) -> dict[str, Any]:
    """Peak memory of a pass and its gradients; `ratio` is what checkpointing saves."""
    search.supernet.train()
    peaks, sides = {}, {}
    for checkpoint in (False, True):
        search.supernet.checkpoint = checkpoint
        with _Peak(device) as peak:
            sides[checkpoint] = _gradients(search, search.supernet)
        peaks[checkpoint] = peak.bytes / 2**20
    search.supernet.checkpoint = False
    _checked("checkpoint", sides[True], sides[False])
    return _row(peaks[True], peaks[False], 1 - peaks[True] / peaks[False], "MiB")


class _Peak:
    """The most bytes of tensors at a time, beyond what was there before."""

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0
        on_cpu = device.type == "cpu"
        self._profile = torch.profiler.profile(profile_memory=True) if on_cpu else nullcontext()

    def __enter__(self) -> "_Peak":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profile.__exit__(*error)
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before
            return
        events = [
            event
            for event in self._profile.profiler.kineto_results.events()  # type: ignore[union-attr]
            if event.name() == "[memory]"
        ]
        total = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            total += event.nbytes()
            self.bytes = max(self.bytes, total)


# What a search finds


@lru_cache(maxsize=1)
def _data(images: str) -> Data:
    return load(images)


def run_search(
    images: str,
    space_name: str,
    recipe: Differentiable,
    seed: int,
    epochs: int,
    device: str,
    file: Path | None,
) -> list[dict[str, Any]]:
    """One row for each epoch of a search; it goes on from the file, if that is there."""
    torch.set_num_threads(1)
    space, data = search_spaces.get(space_name), _data(images)
    recipe.check(space, data)
    search = recipe.trial(space, data, epochs, seed, torch.device(device))
    rows: list[dict[str, Any]] = []
    if file is not None and file.exists():
        kept = torch.load(file, weights_only=True, map_location=device)
        rows = kept["rows"]
        search.load_state_dict(kept["state"])
    while search.epoch < epochs:
        metrics = search.step()
        row = {"rule": recipe.rule.name, "seed": seed, "epoch": search.epoch}
        row |= {"architecture": space.to_string(search.derived), "stopped": search.stopped}
        if search.epoch == epochs:
            halves = (search.of_w, search.of_a)
            judged = [search.judge(Part(h.store, h.indices[:_JUDGED]))[1] for h in halves]
            row |= {"end_train_accuracy": judged[0], "end_search_accuracy": judged[1]}
        rows.append(row | metrics)
        if file is not None:
            new = file.with_suffix(".new")
            torch.save({"rows": rows, "state": search.state_dict()}, new)
            new.replace(file)
    return rows


def searches(given: argparse.Namespace, space: str, recipes: dict[str, Differentiable]) -> Any:
    """The rows of all searches, in parallel; the first seeds first."""
    if given.results:
        given.results.mkdir(parents=True, exist_ok=True)
    jobs = [(name, seed) for seed in range(given.seeds) for name in recipes]
    rows, start = [], time.perf_counter()
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        futures = {
            pool.submit(
                run_search, given.images, space, recipes[name], seed, given.epochs, given.device,
                given.results and given.results / f"{name}-{seed}-{given.epochs}.pt",
            ): (name, seed)
            for name, seed in jobs
        }  # fmt: skip
        for future in as_completed(futures):
            rows += future.result()
            name, seed = futures[future]
            seconds = time.perf_counter() - start
            print(f"{name}, seed {seed}: done after {seconds:.0f} s", file=sys.stderr, flush=True)
    return pd.DataFrame(rows).sort_values(["rule", "seed", "epoch"])


def nasbench201(given: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """`search`: cells over the epochs, and a summary for each rule."""
    names = given.rules.split(",") if given.rules else list(RULES)
    recipes = {name: replace(_RECIPE, rule=RULES[name]) for name in names}
    frame = searches(given, _CELL, recipes)
    columns = ["arch", "c10_valid_200", "c10_test_200"]
    table = pd.read_parquet(given.table, columns=columns).set_index("arch")
    frame = frame.join(table, on="architecture")
    last = frame[frame["epoch"] == given.epochs].copy()
    last["gap"] = last["end_train_accuracy"] - last["end_search_accuracy"]
    last["seconds"] = last["train_seconds"]
    measured = [
        "c10_test_200", "c10_valid_200", "gap", "end_train_accuracy", "end_search_accuracy",
        "val_accuracy", "skip_share", "entropy", "seconds",
    ]  # fmt: skip
    groups = last.groupby("rule")
    summary = groups[measured].mean()
    for name in ("c10_test_200", "gap"):
        summary.insert(summary.columns.get_loc(name) + 1, f"{name}_se", groups[name].sem())
    summary.insert(0, "searches", groups.size())
    summary["published"] = pd.Series(PUBLISHED)
    shown = ["rule", "seed", "epoch", "architecture", "c10_test_200", "skip_share", "entropy"]
    return {"cells": frame[shown], "summary": summary.sort_values("gap").reset_index()}


def sizes(given: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """`sizes`: over the epochs, and the Pareto set of each search."""
    expected = tuple(int(number) for number in given.expected.split(","))
    recipe = replace(_SIZES_RECIPE, expected_size=expected)
    frame = searches(given, _SIZES, {"milenas": recipe})
    paper = search_spaces.get("darts")  # 20 cells, 36 channels
    frame["params_millions"] = [
        paper.params(paper.from_string(text)) / 1e6 for text in frame["architecture"]
    ]
    shown = [
        "seed", "epoch", "normal_convolutions", "reduction_convolutions", "params_millions",
        "train_accuracy", "architecture_accuracy", "val_accuracy", "stopped",
    ]  # fmt: skip
    pareto = []
    for _, one in frame.groupby("seed"):
        best = one.sort_values("architecture_accuracy", ascending=False, kind="stable")
        best = best.drop_duplicates(["normal_convolutions", "reduction_convolutions"])
        smallest = float("inf")  # of those that are more accurate
        for row in best.to_dict("records"):
            if row["params_millions"] < smallest:
                smallest = row["params_millions"]
                pareto.append(row)
    return {"sizes": frame[shown], "pareto": pd.DataFrame(pareto)[[*shown[:7], "architecture"]]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("study", choices=("cost", "search", "sizes"))
    parser.add_argument("--images", default="digits")
    parser.add_argument("--table")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--rules", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--expected", default="4,2")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.epochs = 1, given.epochs or 1
    given.epochs = given.epochs or (_SIZES_EPOCHS if given.study == "sizes" else _EPOCHS)
    if given.study == "search" and not given.table:
        parser.error("search: give --table, the accuracies of NAS-Bench-201.")
    return given


def main() -> None:
    """Run one of the three and print it."""
    given = _arguments()
    if given.study == "cost":
        found = cost(torch.device(given.device), given.quick)
        if given.json:
            print(json.dumps(found))
            return
        for name, row in found.items():
            unit = row["unit"]
            print(
                f"{name}: {row['ours']:.4g} {unit} against {row['other']:.4g} {unit}, ratio"
                f" {row['ratio']:.2f} (target {TARGETS[name]})"
            )
        return
    tables = nasbench201(given) if given.study == "search" else sizes(given)
    if given.json:
        print(
            json.dumps(
                {name: json.loads(t.to_json(orient="records")) for name, t in tables.items()}
            )
        )
        return
    for name, table in tables.items():
        print(f"\n{name}\n{table.round(4).to_string(index=False)}")


if __name__ == "__main__":
    main()
