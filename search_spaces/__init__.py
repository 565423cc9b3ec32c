"""Search spaces: what can be chosen, how it is written, and the network it denotes.

Everything here is imported when it is first asked for: names and errors need no torch.
"""

from typing import TYPE_CHECKING, Any

from search_spaces.naming import Table, construct, importer, spell

if TYPE_CHECKING:
    from search_spaces.architecture import Architecture, Decision
    from search_spaces.custom.choices import InputChoice, IntegerChoice, LayerChoice
    from search_spaces.custom.module_space import from_module
    from search_spaces.custom.user_space import UserSpace
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

SPACES: "Table[type[SearchSpace]]" = Table(
    {
        "nasbench101": "search_spaces.nasbench101:NASBench101",
        "nasbench201": "search_spaces.nasbench201:NASBench201",
        "natsbench_size": "search_spaces.natsbench_size:NATSBenchSize",
        "nasbench_macro": "search_spaces.nasbench_macro:NASBenchMacro",
        "micro64": "search_spaces.micro64:Micro64",
        "darts": "search_spaces.darts:DARTS",
        "nasnet": "search_spaces.darts:NASNet",
        "amoebanet": "search_spaces.darts:AmoebaNet",
        "pnas": "search_spaces.darts:PNAS",
        "enas": "search_spaces.darts:ENAS",
        "convnet": "search_spaces.convnet:ConvNet",
        "resnet": "search_spaces.residual:ResNet",
        "resnext_a": "search_spaces.residual:ResNeXtA",
        "resnext_b": "search_spaces.residual:ResNeXtB",
        "mobile": "search_spaces.mobile:Mobile",
        "dense": "search_spaces.feedforward:Dense",
        "convolutional": "search_spaces.feedforward:Convolutional",
    }
)

_MODULES = {
    "Architecture": "search_spaces.architecture",
    "Decision": "search_spaces.architecture",
    "InputChoice": "search_spaces.custom.choices",
    "IntegerChoice": "search_spaces.custom.choices",
    "LayerChoice": "search_spaces.custom.choices",
    "SearchSpace": "search_spaces.space",
    "UserSpace": "search_spaces.custom.user_space",
    "WeightSharingSpace": "search_spaces.weight_sharing.space",
    "from_module": "search_spaces.custom.module_space",
}

if not TYPE_CHECKING:  # with it, type checkers would take any name for one of this package
    __getattr__ = importer(__name__, _MODULES)


def names() -> list[str]:
    """List the names of all built-in spaces."""
    return list(SPACES)


def get(name: str, **options: Any) -> "SearchSpace":
    """Make the built-in space `name`, which may carry arguments: `nasbench201:channels=8,cells=1`.

    Raises:
        UnknownName: when there is no such space (the closest match is suggested).
        InvalidArgument: for an option that the space lacks, or of the wrong type.
    """
    return construct("space", spell(name, options) if options else name, SPACES)
