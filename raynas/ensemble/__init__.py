"""Ensembles: members, SAEP's rules and measures, combinations."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from search_spaces.naming import Table

if TYPE_CHECKING:  # what it imports takes long
    from raynas.ensemble.saep import SAEP

ENSEMBLES: "Table[Callable[..., SAEP]]" = Table({"saep": "raynas.ensemble.saep:SAEP"})
