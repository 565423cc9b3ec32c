"""The result of one cheap evaluation: metrics, or the reason why there are none."""

from collections.abc import Callable
from dataclasses import dataclass

from search_spaces import Architecture


@dataclass(frozen=True)
class Estimate:
    """The result of one architecture: metrics, or the reason why there are none."""

    architecture: Architecture
    metrics: dict[str, float] | None
    reason: str | None = None


def estimated(estimate: Callable[[Architecture], dict[str, float]], arch: Architecture) -> Estimate:
    """Return the metrics by a function of an architecture, or the reason why there are none."""
    try:
        return Estimate(arch, estimate(arch))
    except Exception as error:  # whatever the network raises
        return Estimate(arch, None, f"{type(error).__name__}: {error}")
