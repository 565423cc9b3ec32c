"""The type of the spaces whose architectures can share weights."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from search_spaces.errors import InvalidArgument
from search_spaces.space import SearchSpace

if TYPE_CHECKING:  # torch takes long to import
    from search_spaces.weight_sharing.supernet import Supernet

#: the built-in ones
NAMES = ("nasbench201", "nasbench_macro", "micro64", "darts", "pnas")


class WeightSharingSpace(SearchSpace):
    """A space with one network that holds the weights of all architectures."""

    @abstractmethod
    def supernet(
        self,
        input_shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        affine: bool = False,
    ) -> "Supernet":
        """Make the shared weights, untrained.

        Args:
            input_shape: (channels, height, width) of one image.
            num_classes: number of logits.
            affine: whether batch normalization in the choices has scale and shift, which makes
                the ranking of children worse (Ning et al., arXiv 2008.03064).
        """

    def differentiable_supernet(
        self, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> "Supernet":
        """Make the shared weights as differentiable search trains them; default: `supernet`.

        Args:
            input_shape: (channels, height, width) of one image.
            num_classes: number of logits.
        """
        return self.supernet(input_shape, num_classes)


def sharing(space: SearchSpace) -> WeightSharingSpace:
    """Return `space`, as one whose architectures share weights.

    Raises:
        InvalidArgument: when they cannot.
    """
    if isinstance(space, WeightSharingSpace):
        return space
    raise InvalidArgument(
        f"space={space.name!r} has no supernet: its architectures cannot share weights. Choose"
        f" one of the spaces {', '.join(NAMES)}, or a network with LayerChoice and InputChoice; or"
        " train architectures one by one (evaluate='train', and a search without gradients)."
    )
