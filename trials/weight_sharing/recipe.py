"""The options of weight sharing: how supernets are trained, how their children are judged."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Interval
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from search_spaces import SearchSpace
from search_spaces.errors import InvalidArgument
from search_spaces.weight_sharing.shared_norm import Statistics
from search_spaces.weight_sharing.space import sharing
from trials.data import Data
from trials.weight_sharing.children import Children, Grouping, Order, Sampling

_MAX_PRIVATE = 10_000  # children with weights of their own


@dataclass(frozen=True)
class Recipe:
    """The way supernets are trained and their children judged.

    SGD with momentum; the learning rate falls on a cosine over all steps; every mini-batch
    trains one path (with `fair`, one path for each choice).

    Args:
        epochs: of the supernet's training, for each group.
        batch_size: images of one step.
        learning_rate: of the first step.
        final_learning_rate: of the last step.
        momentum: of SGD.
        weight_decay: L2 penalty on the weights of the path.
        gradient_clip: largest L2 norm of the gradient; 0 leaves it as it is.
        sampling: which path is trained when: `uniform`, `fair`, `cycle`, `shuffled` or
            `reshuffled` (`trials.weight_sharing.children.Sampling`).
        canonical: train and judge one architecture only of those that compute the same function.
        unused: what happens to weights off the path: `untouched`; or `zero_gradient`: they get
            updates by momentum and weight decay, once they have been used (the behavior of
            the weight-sharing study's own code with the PyTorch of its time).
        affine: scale and shift in the choices' batch normalization.
        statistics: of batch normalization when a child is judged: those of the `batch`;
            `recomputed` from training images; or `running`.
        calibration: training images that statistics are recomputed from.
        fine_tuning: mini-batches that a child is trained alone, from the shared weights, before
            it is judged.
        groups: of children, each with a supernet of its own that is trained as long.
        grouping: `similarity` (of the leading decisions), `random`, or a function from an
            architecture to its group's key.
        prefix: number of layers that are shared, the stem aside; behind them every child has
            weights of its own. None: everything is shared.
        replicas: further processes that judge children with the trained weights; no part of
            what a run is, so it may change when one is continued, and is to be said again then.
        probes: children that are ranked again and again towards the end of the training, to
            tell how far the ranking can be trusted; 0: none.
        ranked_epochs: after how many of the last epochs they are ranked.
        ranked_batches: after how many of the last mini-batches they are ranked.
        ranked_images: validation images that they are ranked on, the same ones after a
            mini-batch, after an epoch and at the end; None: all.
    """

    epochs: PositiveInt = 20
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 0.025
    final_learning_rate: NonNegativeFloat = 0.001
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    gradient_clip: Annotated[float, Ge(0)] = 5.0
    sampling: Sampling = "uniform"
    canonical: bool = False
    unused: Literal["untouched", "zero_gradient"] = "untouched"
    affine: bool = False
    statistics: Statistics = "batch"
    calibration: PositiveInt = 256
    fine_tuning: NonNegativeInt = 0
    groups: PositiveInt = 1
    grouping: Grouping = "similarity"
    prefix: NonNegativeInt | None = None
    replicas: NonNegativeInt = field(default=0, compare=False)
    probes: NonNegativeInt = 32
    ranked_epochs: NonNegativeInt = 5
    ranked_batches: NonNegativeInt = 8
    ranked_images: PositiveInt | None = None

    def check(self, space: SearchSpace, data: Data) -> None:
        """Refuse what cannot be done, before anything is trained.

        Raises:
            InvalidArgument: saying what cannot.
        """
        children = Children(space, self.groups, self.grouping, self.canonical)
        Order(children, 0, self.sampling, 0)
        for group in range(len(children)):
            children.draw(group, np.random.default_rng(0))  # refuses groups without children
        supernet = sharing(space).supernet(data.input_shape, data.num_classes, self.affine)
        images = len(data.validation)
        if self.statistics == "batch" and images < 2:
            raise InvalidArgument(
                f"evaluate: the validation part has {images} image, whose statistics mean nothing;"
                " give more images, or statistics='running'."
            )
        if self.prefix is not None:
            self._check_prefix(self.prefix, children, supernet.layers)

    def _check_prefix(self, prefix: int, children: Children, layers: int) -> None:
        space = children.space
        if prefix > layers:
            raise InvalidArgument(
                f"prefix={prefix}: {space.name} has {layers} layers that can be shared."
            )
        if not 0 < len(children.listed) <= _MAX_PRIVATE:
            raise InvalidArgument(
                f"prefix={prefix} keeps weights for every child, of which {space.name} has"
                f" {len(children.listed) or space.size:.1e}; that works up to {_MAX_PRIVATE:,}."
            )
        if self.sampling == "fair":
            raise InvalidArgument("prefix: goes with one path in a step; sampling='fair' has more.")
