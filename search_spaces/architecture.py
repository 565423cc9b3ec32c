"""What a search space is made of: decisions, and architectures as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """One categorical decision: its name and what can be chosen."""

    name: str
    choices: tuple[Any, ...]


@dataclass(frozen=True, order=True)
class Architecture:
    """The choice taken at every decision of a space, as indices into `Decision.choices`.

    Args:
        space: name of the space.
        choices: one index for each decision.
        name: instead of choices, the name of a published architecture that the decisions cannot
            express (`CellSpace.genotype`). It can be built and trained, but not varied.
    """

    space: str
    choices: tuple[int, ...]
    name: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        data: dict[str, Any] = {"space": self.space, "choices": list(self.choices)}
        return data | {"name": self.name} if self.name else data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Architecture":
        """The inverse of `to_json`."""
        choices = tuple(int(choice) for choice in data["choices"])
        return cls(str(data["space"]), choices, str(data.get("name", "")))
