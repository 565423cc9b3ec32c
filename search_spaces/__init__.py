"""Search spaces: what can be chosen, how it is written, and the network it denotes."""

from typing import Any

from search_spaces.naming import construct, spell
from search_spaces.nasbench201 import NASBench201
from search_spaces.nasbench_macro import NASBenchMacro
from search_spaces.space import Architecture, Decision, SearchSpace

__all__ = ["Architecture", "Decision", "SearchSpace", "get", "names"]

_SPACES: dict[str, type[SearchSpace]] = {
    "nasbench201": NASBench201,
    "nasbench_macro": NASBenchMacro,
}


def names() -> list[str]:
    """The names of all built-in spaces."""
    return list(_SPACES)


def get(name: str, **options: Any) -> SearchSpace:
    """The built-in space `name`, which may carry arguments: `nasbench201:channels=8,cells=1`.

    Raises:
        UnknownName: when there is no such space (the closest match is suggested).
        InvalidArgument: for an option that the space lacks, or of the wrong type.
    """
    return construct("space", spell(name, options) if options else name, _SPACES)
