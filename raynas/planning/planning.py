"""The plan of a run with a time budget: what is not said follows from data, hardware and budget."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import ray

import search_spaces
from raynas.cluster import Resources, largest_node, resources
from raynas.config.config import PLANNED
from raynas.config.description import described
from raynas.config.resolve import Plan, resolve
from raynas.errors import InvalidArgument
from raynas.planning.defaults import (
    CLOSING,
    KNOWN,
    OPENING,
    RECIPE,
    RETRAIN_EPOCHS,
    SELECT_EPOCHS,
    Choice,
    Outline,
    outline,
    space_for,
)
from raynas.planning.facts import Dataset, Hardware
from raynas.planning.measuring import measured
from raynas.record.events import Planned
from raynas.search.admission import Admission
from search_spaces import SearchSpace
from search_spaces.naming import construct, parse
from trials import EVALUATORS
from trials.training import Train


def in_time(plan: Plan, said: Mapping[str, Any]) -> tuple[Plan, Planned | None]:
    """Return the plan of a run in its time, and what to record of it.

    A run without a time budget, and one that is continued, keeps its plan.

    Args:
        plan: of what is said, with the defaults of runs that have no budget.
        said: the arguments of `run()`.

    Raises:
        InvalidArgument: for a search or an evaluation whose time cannot be planned.
    """
    seconds = plan.config.seconds
    if seconds is None or plan.folder.holds_run:
        return plan, None
    _check(plan)
    unsaid = {key for key in PLANNED if said.get(key) is None}
    if plan.config.architectures is not None:
        unsaid -= {"search", "samples", "constraint"}
    if plan.evaluator.epoch_length is not None:  # planned before, as in a run.yaml
        unsaid -= {"constraint"}
    parts = plan.data
    dataset = Dataset(len(parts.train), len(parts.validation), parts.input_shape)
    share = resources(
        plan.config.cpus_per_trial, plan.config.gpus_per_trial, plan.config.max_concurrent,
        plan.config.workers_per_trial,
    )  # fmt: skip
    hardware = Hardware(share.concurrent, largest_node(share.gpus))
    made = _outline(plan, unsaid, seconds, dataset, hardware, share)
    if plan.evaluator.epoch_length is None:
        unsaid.add("evaluate")
    planned = {key: made.arguments[key] for key in unsaid}
    plan = resolve({**said, **planned, "name": plan.config.name}, parts)
    return plan, _event(seconds, hardware, made, plan.config.retrain_epochs)


def _check(plan: Plan) -> None:
    """Refuse what is not trained epoch by epoch."""
    config = plan.config
    if plan.searcher.driver or plan.searcher.needs_predictions:
        raise InvalidArgument(
            f"time_budget={config.time_budget}: search={config.search!r} cannot be planned in"
            " time: use search='auto', 'random', 'evolution' or 'local', or no time_budget."
        )
    if parse(config.evaluate)[0] != "train":
        raise InvalidArgument(
            f"time_budget={config.time_budget}: only trainings are planned in time, by"
            f" evaluate='train' with options as you like, and not by {config.evaluate!r}."
        )


def _outline(
    plan: Plan, unsaid: set[str], seconds: float, dataset: Dataset, hardware: Hardware,
    share: Resources,
) -> Outline:  # fmt: skip
    """Choose space and recipe, measure how fast that is, and choose the rest."""
    space = space_for(dataset)
    recipe = Choice("evaluate", RECIPE, "docs/defaults.md has what each part of it gains")
    chosen: list[Choice] = [c for c in (space, recipe) if c.argument in unsaid]
    searched = search_spaces.get(space.value) if "space" in unsaid else plan.space
    text = recipe.value if "evaluate" in unsaid else described(plan.evaluator, EVALUATORS)
    trained = construct("evaluate", text, EVALUATORS)
    assert isinstance(trained, Train)
    known = _known(plan, searched) if {"space", "search", "samples"} <= unsaid else ()
    speed = measured(searched, ray.put(plan.data), trained, share, hardware, known)
    epochs = None if "epochs" in unsaid else plan.config.epochs
    augment = "evaluate" in unsaid
    made = outline(
        seconds, dataset, hardware, speed, text, space.value, epochs, augment,
        _fewest(plan, unsaid), None if "samples" in unsaid else plan.config.samples,
    )  # fmt: skip
    made.choices = [
        *chosen,
        *(c for c in made.choices if c.argument not in PLANNED or c.argument in unsaid),
    ]
    return made


def _known(plan: Plan, space: SearchSpace) -> tuple[str, ...]:
    """Return those of the architectures known to be good that may be evaluated."""
    if plan.constraint is None:
        return KNOWN
    shape, classes = plan.data.input_shape, plan.data.num_classes
    admission = Admission(plan.constraint, plan.constraint.measured(space, shape, classes))
    return tuple(text for text in KNOWN if admission.admits(space.from_string(text)))


def _fewest(plan: Plan, unsaid: set[str]) -> int:
    """Return how many evaluations what is said cannot do without."""
    needed = [1]
    if "search" not in unsaid:
        needed.append(plan.searcher.fewest_samples)
    if "scheduler" not in unsaid:
        needed.append(plan.scheduler.fewest_samples)
    if "select" not in unsaid:
        needed.append(plan.config.select)
    if plan.ensemble is not None:
        needed.append(max(2, plan.ensemble.size or 0))
    return max(needed)


def _event(
    seconds: float, hardware: Hardware, made: Outline, retrain_epochs: int | None
) -> Planned:
    shares = made.shares
    return Planned(
        seconds=seconds,
        inner=max(seconds - OPENING - CLOSING, seconds / 2),
        shares=[shares.search, shares.select, shares.retrain],
        closing=CLOSING,
        cpus=hardware.cpus,
        alone=made.alone,
        epochs={
            "select": retrain_epochs or SELECT_EPOCHS,
            "retrain": retrain_epochs or RETRAIN_EPOCHS,
        },
        longest=made.longest,
        choices=[asdict(choice) for choice in made.choices],
    )
