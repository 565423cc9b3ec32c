"""Measuring on a worker how fast the networks of a space train there."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch
from torch import nn

from raynas.cluster import Resources, prepare_process, reason_of
from raynas.errors import InvalidArgument
from raynas.planning.facts import Hardware, Speed
from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.pace import Pace, Work, step_seconds
from trials.training import Train, TrainingTrial

_DRAWN = 31  # random architectures, of which the space's sizes are known
_MEASURED = 7  # of them at most, from small to large
_SECONDS = 6.0  # after so long no larger one is measured


@dataclass(frozen=True)
class _Question:
    """What is to be measured; see `measured`."""

    space: SearchSpace
    recipe: Train
    threads: int
    all_threads: int
    known: Sequence[str]


def measured(
    space: SearchSpace, data: "ray.ObjectRef[Data]", recipe: Train, resources: Resources,
    hardware: Hardware, known: Sequence[str] = (),
) -> Speed:  # fmt: skip
    """Return how fast the networks of a space train on a worker.

    Args:
        space: whose architectures are drawn.
        data: whose images they are trained with.
        recipe: of their training, without a pace.
        resources: of a trial.
        hardware: of the cluster.
        known: architectures that are known to be good.

    Raises:
        InvalidArgument: when none of the architectures can be trained.
    """
    question = _Question(space, recipe, resources.threads, hardware.cpus, known)
    options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    task: Any = ray.remote(_measured).options(**options)
    try:
        speed: Speed = ray.get(task.remote(question, data))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    return speed


def rate(
    space: SearchSpace, arch: Architecture, data: "ray.ObjectRef[Data]", recipe: Train,
    resources: Resources,
) -> float:  # fmt: skip
    """Return the seconds of the pace that a second is worth, in the training of an architecture.

    Args:
        space: of the architecture.
        arch: which is trained.
        data: whose images it is trained with.
        recipe: of the training, with a pace.
        resources: of the training.
    """
    options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    task: Any = ray.remote(_rate).options(**options)
    measured: float = ray.get(task.remote(space, arch, data, recipe, resources.threads))
    return measured


def _rate(space: SearchSpace, arch: Architecture, data: Data, recipe: Train, threads: int) -> float:
    trial = _trial(space, arch, data, recipe, prepare_process(threads))
    if recipe.epoch_seconds is None:
        return 1.0
    return recipe.epoch_seconds / trial.steps / _wall(trial)


def _measured(question: _Question, data: Data) -> Speed:
    """Measure some architectures, smallest first; then choose the precision."""
    device = prepare_process(question.threads)
    rng = np.random.default_rng(0)
    works = _works(question.space, [question.space.sample(rng) for _ in range(_DRAWN)], data)
    rising = sorted(works, key=lambda arch: (works[arch].macs, works[arch].activations))
    chosen = rising[:: max(1, len(rising) // _MEASURED)]
    recipes = [question.recipe]
    if device.type == "cpu" and question.recipe.precision is None:
        recipes = [replace(question.recipe, precision=p) for p in ("float32", "bfloat16")]
    start = time.monotonic()
    steps: dict[Architecture, list[float]] = {}
    failure = ""
    for arch in chosen:
        try:
            steps[arch] = [
                _step(_trial(question.space, arch, data, recipe, device)) for recipe in recipes
            ]
        except Exception as error:  # a network may raise anything; the run records such failures
            failure = reason_of(error)
        if time.monotonic() - start > _SECONDS and steps:
            break
    if not steps:
        raise InvalidArgument(f"space: no architecture of a sample could be trained: {failure}.")
    best = min(range(len(recipes)), key=lambda number: sum(s[number] for s in steps.values()))
    trial = _trial(question.space, list(steps)[len(steps) // 2], data, recipes[best], device)
    return Speed(
        Pace.fitted(
            [works[arch] for arch in steps], trial.batch_size, [s[best] for s in steps.values()]
        ),
        recipes[best].precision,
        _gain(trial, question),
        [works[arch] for arch in rising],
        {
            text: Work.of(
                _network(question.space, question.space.from_string(text), data), data.input_shape
            )
            for text in question.known
        },
        trial.batch_size,
    )


def _works(
    space: SearchSpace, archs: Sequence[Architecture], data: Data
) -> dict[Architecture, Work]:
    """Return {architecture: work} of those whose network can be built."""
    works, failure = {}, ""
    for arch in archs:
        try:
            works[arch] = Work.of(_network(space, arch, data), data.input_shape)
        except Exception as error:  # of a user's code; the run records such failures
            failure = reason_of(error)
    if not works:
        raise InvalidArgument(f"space: no architecture of a sample could be built: {failure}.")
    return works


def _gain(trial: TrainingTrial, question: _Question) -> float:
    """Return how many times faster a step is with all cores of the node, at least 1."""
    if trial.device.type == "cuda" or question.all_threads <= question.threads:
        return 1.0
    few = _wall(trial)
    torch.set_num_threads(question.all_threads)
    return max(1.0, few / _wall(trial))


def _network(space: SearchSpace, arch: Architecture, data: Data) -> nn.Module:
    return space.build(arch, data.input_shape, data.num_classes)


def _trial(
    space: SearchSpace, arch: Architecture, data: Data, recipe: Train, device: torch.device
) -> TrainingTrial:
    return recipe.trial(space, arch, data, 1, 0, device)


def _step(trial: TrainingTrial) -> float:
    """Return the seconds of a training step, reading and augmenting of the images included."""
    batches = trial.endless_batches(0)
    trial.network.train()
    return step_seconds(lambda: trial.train_step(*next(batches)), trial.device)


def _wall(trial: TrainingTrial, steps: int = 8) -> float:
    """Return the time that passes in a step: the median of so many after two others."""
    batches, times = trial.endless_batches(0), []
    trial.network.train()
    for _ in range(2 + steps):
        start = time.perf_counter()
        trial.train_step(*next(batches))
        if trial.device.type == "cuda":
            torch.cuda.synchronize(trial.device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))
