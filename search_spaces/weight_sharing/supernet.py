"""Weight sharing: one network that holds the weights of every architecture of a space.

A supernet has *slots* (an edge, a layer), each with one module for every choice. `forward(x,
architecture)` runs only the modules of that architecture, its path; `forward(x, mixture)` runs
all of them and adds their outputs up with the weights given, for differentiable search.

Bender et al.: Understanding and Simplifying One-Shot Architecture Search (ICML 2018); Guo et al.:
Single Path One-Shot NAS (ECCV 2020); Liu et al.: DARTS (ICLR 2019) for the mixture.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.errors import InvalidArgument
from search_spaces.space import SearchSpace
from search_spaces.weight_sharing.shared_norm import Normalization, SharedNorm, is_replaced

#: for each slot of a supernet one weight per choice, a 1-D tensor
Mixture = Sequence[Tensor]


class Supernet(nn.Module, ABC):
    """The shared weights of a space's architectures.

    Attributes:
        space: whose architectures it holds.
        slots: what can be chosen where: the meaning of a mixture.
        layers: how many layers it has from the input to the output, the stem and the classifier
            aside; the unit of `trials.WeightSharing.prefix`.
        normalization: how its batch normalization works.
        checkpoint: whether a mixture's forward pass keeps only what goes from layer to layer;
            the rest is computed again for the gradients, which saves memory and costs time.
    """

    slots: tuple[Decision, ...]
    layers: int
    checkpoint: bool = False

    def __init__(self, space: SearchSpace):
        super().__init__()
        self.space = space
        self.normalization = Normalization()

    def forward(self, x: Tensor, path: Architecture | Mixture) -> Tensor:
        """Map images, `batch x channels x height x width`, to logits, `batch x classes`.

        Args:
            x: the images.
            path: an architecture, of which only the modules run; or a mixture: for each slot
                the weights of its choices.

        Raises:
            InvalidArchitecture: for an architecture of another space.
            InvalidArgument: for a mixture that does not fit the slots.
        """
        if isinstance(path, Architecture):
            return self.child(x, self.space.check(path))
        if not isinstance(path, Sequence) or not all(isinstance(w, Tensor) for w in path):
            raise InvalidArgument(f"path={path!r:.80} is neither an Architecture nor a mixture.")
        return self.mixed(x, self.check(path))

    def check(self, mixture: Mixture) -> Mixture:
        """Return `mixture` itself.

        Raises:
            InvalidArgument: when it does not fit the slots.
        """
        shapes = [tuple(weights.shape) for weights in mixture]
        if shapes != [(len(slot.choices),) for slot in self.slots]:
            expected = ", ".join(f"{slot.name} {len(slot.choices)}" for slot in self.slots)
            raise InvalidArgument(
                f"mixture: weights of shapes {shapes}; give one 1-D tensor for each slot:"
                f" {expected}."
            )
        return mixture

    def derive(self, mixture: Mixture) -> Architecture:
        """Return the architecture that a mixture comes down to; the inverse of a path.

        Default: the strongest choice of each slot, where the slots are the space's decisions
        ("none" too, where a space has it among its choices). Of equally strong ones it is the
        first.

        Raises:
            InvalidArgument: for a mixture that does not fit the slots.
        """
        return self.space.architecture([strongest(weights) for weights in self.check(mixture)])

    @abstractmethod
    def child(self, x: Tensor, arch: Architecture) -> Tensor:
        """Compute `forward` of an architecture."""

    @abstractmethod
    def mixed(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Compute `forward` of a mixture."""

    @abstractmethod
    def sampled(self, x: Tensor, mixture: Mixture, choices: Sequence[int]) -> Tensor:
        """Compute one choice of each slot, so that all weights of a mixture get gradients.

        A slot gives `w_i * operation_i(x) + sum of w_j over j != i`, i being its choice (Dong,
        Yang: GDAS, CVPR 2019, section 3.2, and its code). With weights that are one-hot but for
        their gradients that is the operation's output; "none" gives zeros.

        Args:
            x: the images, `batch x channels x height x width`.
            mixture: for each slot the weights of its choices.
            choices: for each slot the index of the choice whose module runs.

        Raises:
            InvalidArgument: for a mixture or choices that do not fit the slots.
        """

    def check_choices(self, choices: Sequence[int]) -> Sequence[int]:
        """Return `choices` itself.

        Raises:
            InvalidArgument: when they are not one index for each slot.
        """
        most = [len(slot.choices) for slot in self.slots]
        if len(choices) != len(most) or not all(
            0 <= c < n for c, n in zip(choices, most, strict=True)
        ):
            raise InvalidArgument(
                f"choices={list(choices)}: give one index for each of the {len(most)} slots, less"
                f" than {', '.join(map(str, most))}."
            )
        return choices

    @abstractmethod
    def modules_after(self, layer: int) -> list[nn.Module]:
        """List the modules behind the first `layer` layers, the classifier among them."""

    def _with_shared_norms(
        self, module: nn.Module, affine: bool | None, replaced: dict[int, nn.Module] | None = None
    ) -> nn.Module:
        """Replace the batch normalization of `module`; `affine` None leaves scale and shift.

        `replaced` has what was put in the place of which module, for those that are there twice.
        """
        replaced = {} if replaced is None else replaced
        if id(module) in replaced:
            return replaced[id(module)]
        replaced[id(module)] = module
        if is_replaced(module):
            norm = SharedNorm.like(
                module, self.normalization, module.affine if affine is None else affine
            )
            replaced[id(module)] = replaced[id(norm)] = norm
            return norm
        for name, part in module._modules.items():  # named_children() gives each only once
            if part is not None:
                setattr(module, name, self._with_shared_norms(part, affine, replaced))
        return module


def strongest(weights: Tensor) -> int:
    """Return the index of the largest of some weights, the first of equal ones."""
    values: list[float] = weights.tolist()
    return values.index(max(values))


class Path(nn.Module):
    """One architecture of a supernet as a network of its own: images to logits."""

    def __init__(self, supernet: Supernet, arch: Architecture):
        super().__init__()
        self.supernet, self.arch = supernet, arch

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x channels x height x width` to `batch x classes`."""
        logits: Tensor = self.supernet(x, self.arch)
        return logits
