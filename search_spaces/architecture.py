"""Decisions, of which a search space is made, and architectures, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from search_spaces.errors import InvalidArgument

#: what a decision is about: what is computed somewhere, where it is read from, or how much of it
Kind = Literal["operation", "wiring", "size"]


@dataclass(frozen=True)
class Decision:
    """One categorical decision.

    Args:
        name: of the decision, unique in its space.
        choices: what can be chosen.
        kind: "operation"; "wiring": the sources of a node, or whether an edge exists; "size": a
            number of channels, layers, groups, ... Default: a size where every choice is a
            number, an operation elsewhere.

    Raises:
        InvalidArgument: for a size whose choices are no numbers.
    """

    name: str
    choices: tuple[Any, ...]
    kind: Kind | None = field(default=None, repr=False)  # runs are compared by the rest

    def __post_init__(self) -> None:
        """Fill in the default of `kind`, or check it."""
        numbers = all(isinstance(choice, Real) for choice in self.choices)
        if self.kind is None:
            size = numbers and not any(isinstance(choice, bool) for choice in self.choices)
            object.__setattr__(self, "kind", "size" if size else "operation")
        elif self.kind == "size" and not numbers:
            raise InvalidArgument(f"decision {self.name!r}: the choices of a size are numbers.")


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
        """Return the architecture as plain JSON data."""
        data: dict[str, Any] = {"space": self.space, "choices": list(self.choices)}
        return data | {"name": self.name} if self.name else data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Architecture":
        """Read what `to_json` returned."""
        choices = tuple(int(choice) for choice in data["choices"])
        return cls(str(data["space"]), choices, str(data.get("name", "")))
