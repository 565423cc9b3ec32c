"""What ends a search before all samples: hours of GPUs that are used, a target that is reached."""

import time

from raynas.cluster import Resources
from raynas.config.resolve import Plan
from raynas.drivers.session import Session
from raynas.errors import InvalidArgument

_COUNTED = "trials"  # the driver whose work has places in the cluster, one by one


def check_limits(plan: Plan, resources: Resources) -> None:
    """Refuse limits that mean nothing for a run.

    Raises:
        InvalidArgument: saying what to use instead.
    """
    hours = plan.config.gpu_hours
    if hours is not None and resources.gpus == 0:
        raise InvalidArgument(
            f"gpu_hours={hours:g}: no trial uses a GPU here"
            f" (gpus_per_trial={plan.config.gpus_per_trial or 0:g}). End the search by samples,"
            " target or time_budget instead."
        )
    if hours is not None and plan.driver != _COUNTED:
        raise InvalidArgument(
            f"gpu_hours={hours:g} counts the trainings of single architectures, and"
            f" search={plan.config.search!r} with evaluate={plan.config.evaluate!r} is not made of"
            " them. End it by samples instead."
        )


def limit_reached(session: Session) -> str | None:
    """Return why the search is over before all samples; None: it is not."""
    config, best = session.plan.config, session.search.best
    if config.gpu_hours is not None:
        used = session.history.costs.gpu_seconds(time.time(), "evaluation") / 3600
        if used >= config.gpu_hours:
            return f"gpu_hours={config.gpu_hours:g} are used"
    for metric, value in (config.target or {}).items():
        if best is not None and best.value >= value:
            return f"target={metric}={value:g} is reached by #{best.index}"
    return None
