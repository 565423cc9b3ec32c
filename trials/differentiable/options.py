"""The options of differentiable search."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from search_spaces import SearchSpace
from search_spaces.errors import InvalidArgument
from search_spaces.weight_sharing.space import WeightSharingSpace, sharing
from trials.data import Data, DataError
from trials.differentiable.halves import halves
from trials.differentiable.milenas import MiLeNAS
from trials.differentiable.records import check_expected
from trials.differentiable.rule import Rule

Beta = Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True)
class Options:
    """How a supernet and its architecture parameters are trained together.

    The defaults are those of DARTS (Liu et al., ICLR 2019), which all of the papers take over:
    w by SGD, its learning rate falling on a cosine, its gradient clipped; a by Adam, never clipped.

    Args:
        rule: how a step moves w and a.
        batch_size: images of one mini-batch of either half.
        learning_rate: of w in the first step.
        final_learning_rate: of w in the last step.
        momentum: of SGD.
        weight_decay: L2 penalty on w.
        gradient_clip: largest L2 norm of the gradient in w; 0 leaves it as it is.
        architecture_learning_rate: of a.
        architecture_betas: of Adam.
        architecture_weight_decay: L2 penalty on a.
        architecture_share: of the training part that a learns on, and w does not.
        judged_images: images of a's half that the search network is judged on after an epoch;
            None: all.
        expected_size: the search stops after the first epoch whose derived architecture is not
            larger: (convolutions of the normal, of the reduction cell) for cells, (parameters,)
            elsewhere; None: it goes to the end.
        eigenvalue_iterations: of the power iteration for the largest eigenvalue of the validation
            Hessian after each epoch; 0: it is not computed.
        checkpoint: compute the operations of a mixture again in the backward pass instead of
            keeping what they have computed: less memory, more time, the same result.
    """

    rule: Rule = MiLeNAS()  # noqa: RUF009  frozen
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 0.025
    final_learning_rate: NonNegativeFloat = 0.001
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 3e-4
    gradient_clip: Annotated[float, Ge(0)] = 5.0
    architecture_learning_rate: PositiveFloat = 3e-4
    architecture_betas: tuple[Beta, Beta] = (0.5, 0.999)
    architecture_weight_decay: NonNegativeFloat = 1e-3
    architecture_share: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    judged_images: PositiveInt | None = None
    expected_size: tuple[int, ...] | None = None
    eigenvalue_iterations: NonNegativeInt = 0
    checkpoint: bool = False

    def check(self, space: SearchSpace, data: Data) -> None:
        """Refuse what cannot be done, before anything is trained.

        Raises:
            InvalidArgument: saying what cannot: a space without a supernet or with decisions that
                cannot be mixed, an option out of range, a size that no architecture has.
            DataError: for one class only, or too few images for a batch of each half.
        """
        space = sharing(space)
        if not isinstance(self.rule, Rule):
            raise InvalidArgument(
                f"rule={self.rule!r:.80} is no Rule; give one of trials.differentiable.RULES."
            )
        if not 0 < self.architecture_share < 1:
            raise InvalidArgument(
                f"architecture_share={self.architecture_share} is not between 0 and 1: both w and a"
                " need images of their own."
            )
        self._check_data(data)
        if self.expected_size is not None:
            check_expected(space, self.expected_size, data.input_shape, data.num_classes)
        try:
            _check_mixture(space, data)
        except RuntimeError as error:  # of shapes
            raise InvalidArgument(
                f"space={space.name!r}: its choices cannot be mixed ({error}); those of a"
                " LayerChoice must take and give tensors of the same shapes."
            ) from error

    def _check_data(self, data: Data) -> None:
        if data.num_classes < 2:
            raise DataError("data: all images are of one class; give at least two.")
        if self.batch_size < 2:
            raise InvalidArgument(
                f"batch_size={self.batch_size}: batch normalization needs at least 2 images."
            )
        of_w, of_a = halves(data.train, self.architecture_share, 0)
        if min(len(of_w), len(of_a)) < self.batch_size:
            raise DataError(
                f"data: of {len(data.train)} training images {len(of_w)} go to the weights and"
                f" {len(of_a)} to the architecture parameters (architecture_share="
                f"{self.architecture_share}), too few for a batch of {self.batch_size}. Give more"
                " images, or a smaller batch_size."
            )


def _check_mixture(space: WeightSharingSpace, data: Data) -> None:
    """Compute the even mixture of a space on two images."""
    supernet = space.differentiable_supernet(data.input_shape, data.num_classes)
    if all(len(slot.choices) < 2 for slot in supernet.slots):
        raise InvalidArgument(
            f"space={space.name!r} has one architecture: nothing is to be chosen."
        )
    mixture = [torch.full((n,), 1 / n) for n in (len(s.choices) for s in supernet.slots)]
    supernet.derive(mixture)
    with torch.no_grad():
        supernet(torch.zeros(2, *data.input_shape), mixture)
