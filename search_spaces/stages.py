"""Networks in stages: the decisions of every stage, and their notation."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from search_spaces.architecture import Architecture, Decision
from search_spaces.notation import Scanner
from search_spaces.space import SearchSpace


class StagedSpace(SearchSpace, ABC):
    """Networks of a few stages in a row, each with decisions on its own depth, width, ...

    The notation is a letter and a number for each decision, stages being joined by "-". A
    subclass gives `stage_decisions` and `build`.
    """

    @cached_property
    @abstractmethod
    def stage_decisions(self) -> tuple[Mapping[str, Decision], ...]:
        """{letter in the notation: decision} of each stage; the choices are whole numbers."""

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Stage by stage; see `stage_decisions`."""
        return tuple(decision for stage in self.stage_decisions for decision in stage.values())

    def stage_values(self, arch: Architecture) -> list[tuple[Any, ...]]:
        """Return the values that are chosen in each stage, in the order of its decisions."""
        values = iter(self.to_config(self.check(arch)).values())
        return [tuple(next(values) for _ in stage) for stage in self.stage_decisions]

    def parts(self, arch: Architecture) -> list[str]:
        """Return the stages, `stage 1: d2w16`."""
        return [f"stage {i}: {stage}" for i, stage in enumerate(self._written(arch), 1)]

    def to_string(self, arch: Architecture) -> str:
        """Write the letters and values of each stage, such as `d2w16-d4w64-d8w256`."""
        return "-".join(self._written(arch))

    def from_string(self, text: str) -> Architecture:
        """Read what `to_string` writes."""
        scanner = Scanner(self.name, text)
        choices = []
        for index, stage in enumerate(self.stage_decisions):
            if index:
                scanner.literal("-")
            for letter, decision in stage.items():
                scanner.literal(letter)
                values = [str(value) for value in decision.choices]
                choices.append(values.index(scanner.one_of(values, "[0-9]+")))
        scanner.end()
        return self.architecture(choices)

    def _written(self, arch: Architecture) -> list[str]:
        stages = zip(self.stage_decisions, self.stage_values(arch), strict=True)
        return [
            "".join(f"{letter}{value}" for letter, value in zip(stage, values, strict=True))
            for stage, values in stages
        ]
