"""Search spaces: what can be chosen, how it is written, and the network it denotes."""

from typing import Any

from search_spaces.architecture import Architecture, Decision
from search_spaces.custom.choices import InputChoice, IntegerChoice, LayerChoice
from search_spaces.custom.module_space import from_module
from search_spaces.custom.user_space import UserSpace
from search_spaces.darts import DARTS, ENAS, PNAS, AmoebaNet, NASNet
from search_spaces.feedforward import Convolutional, Dense
from search_spaces.micro64 import Micro64
from search_spaces.naming import construct, spell
from search_spaces.nasbench101 import NASBench101
from search_spaces.nasbench201 import NASBench201
from search_spaces.nasbench_macro import NASBenchMacro
from search_spaces.natsbench_size import NATSBenchSize
from search_spaces.residual import ResNet, ResNeXtA, ResNeXtB
from search_spaces.space import SearchSpace
from search_spaces.weight_sharing.space import WeightSharingSpace

__all__ = [
    "SPACES",
    "Architecture",
    "Decision",
    "InputChoice",
    "IntegerChoice",
    "LayerChoice",
    "SearchSpace",
    "UserSpace",
    "WeightSharingSpace",
    "from_module",
    "get",
    "names",
]

SPACES: dict[str, type[SearchSpace]] = {
    "nasbench101": NASBench101,
    "nasbench201": NASBench201,
    "natsbench_size": NATSBenchSize,
    "nasbench_macro": NASBenchMacro,
    "micro64": Micro64,
    "darts": DARTS,
    "nasnet": NASNet,
    "amoebanet": AmoebaNet,
    "pnas": PNAS,
    "enas": ENAS,
    "resnet": ResNet,
    "resnext_a": ResNeXtA,
    "resnext_b": ResNeXtB,
    "dense": Dense,
    "convolutional": Convolutional,
}


def names() -> list[str]:
    """The names of all built-in spaces."""
    return list(SPACES)


def get(name: str, **options: Any) -> SearchSpace:
    """The built-in space `name`, which may carry arguments: `nasbench201:channels=8,cells=1`.

    Raises:
        UnknownName: when there is no such space (the closest match is suggested).
        InvalidArgument: for an option that the space lacks, or of the wrong type.
    """
    return construct("space", spell(name, options) if options else name, SPACES)
