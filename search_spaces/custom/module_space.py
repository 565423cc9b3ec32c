"""An existing network as a search space: its constructor says what can be chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.custom.choice_supernet import ChoiceSupernet, Network
from search_spaces.custom.choices import Constructor, constructing
from search_spaces.custom.user_space import Canonical, UserSpace
from search_spaces.errors import InvalidArgument
from search_spaces.weight_sharing.space import WeightSharingSpace


class ModuleSpace(UserSpace, WeightSharingSpace):
    """The space of a network that is written with Choice blocks; see `from_module`."""

    def __init__(self, name: str, network: Network, canonical: Canonical | None = None):
        constructor = Constructor()
        with constructing(constructor):
            network((3, 32, 32), 10)
        if not constructor.decisions:
            raise InvalidArgument(
                f"network: {name} constructs no Choice block. Use LayerChoice, InputChoice or"
                " IntegerChoice for what shall be searched."
            )
        super().__init__(
            name, constructor.decisions, _Builder(network), kinds=constructor.kinds,
            canonical=canonical,
        )  # fmt: skip
        self._network = network

    def supernet(
        self,
        input_shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        affine: bool = False,
    ) -> ChoiceSupernet:
        """Make the network with all choices in it; see `ChoiceSupernet`."""
        return ChoiceSupernet(self, self._network, input_shape, num_classes, affine)


def from_module(name: str, network: Network, canonical: Canonical | None = None) -> ModuleSpace:
    """Make the space of a network that is written with Choice blocks.

    Args:
        name: what the space is called in run folders.
        network: the network's class, or a function, called with the input shape (channels,
            height, width) and the number of classes. It must construct the same Choice blocks
            in the same way each time. Layers whose parameters cannot influence its output in
            evaluation mode (the layer before an input that is not taken) are removed from it.
        canonical: tells which architectures are one network, for that reason; see `UserSpace`.
            None: each is evaluated.

    Raises:
        InvalidArgument: when the network has no Choice block, or two of the same name.

    Example:
        >>> from torch import nn
        >>> from search_spaces import IntegerChoice, LayerChoice
        >>> class Net(nn.Sequential):
        ...     def __init__(self, input_shape, num_classes):
        ...         width = IntegerChoice("width", (8, 16))
        ...         super().__init__(
        ...             nn.Conv2d(input_shape[0], width, 3),
        ...             LayerChoice("activation", {"relu": nn.ReLU, "silu": nn.SiLU}),
        ...             nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
        >>> space = from_module("net", Net)
        >>> [space.to_string(arch) for arch in space][1]
        'width=8,activation=silu'
    """
    return ModuleSpace(name, network, canonical)


@dataclass(frozen=True)
class _Builder:
    network: Network

    def __call__(
        self, config: Mapping[str, Any], input_shape: Sequence[int], num_classes: int
    ) -> nn.Module:
        # The caller may have gradients switched off; they tell which layers are unused.
        with torch.inference_mode(False), torch.enable_grad():
            return self._build(config, input_shape, num_classes)

    def _build(
        self, config: Mapping[str, Any], input_shape: Sequence[int], num_classes: int
    ) -> nn.Module:
        constructor = Constructor(config)
        with constructing(constructor):
            module = self.network(input_shape, num_classes)
        if constructor.decisions.keys() != config.keys():
            missing = ", ".join(config.keys() - constructor.decisions.keys())
            raise InvalidArgument(
                f"network: the choices {missing} were not made this time. Construct every Choice"
                " block in every case, and use it or not."
            )
        return _without_unused(module, input_shape)


def _without_unused(module: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Replace layers whose parameters cannot influence the output of `module` by identities.

    A layer stays where its absence would change or break the network.
    """
    training = module.training
    module.eval()
    images = torch.rand(2, *input_shape)
    expected = module(images)
    expected.sum().backward()
    unused = [
        name
        for name, layer in module.named_modules()
        if name
        and any(True for _ in layer.parameters())
        and all(parameter.grad is None for parameter in layer.parameters())
    ]
    module.zero_grad(set_to_none=True)
    removed: list[str] = []
    for name in unused:
        if any(name.startswith(f"{outer}.") for outer in removed):
            continue
        parent, _, attribute = name.rpartition(".")
        owner, layer = module.get_submodule(parent), module.get_submodule(name)
        setattr(owner, attribute, nn.Identity())
        if _same(module, images, expected):
            removed.append(name)
        else:
            setattr(owner, attribute, layer)
    return module.train(training)


def _same(module: nn.Module, images: Tensor, expected: Tensor) -> bool:
    try:
        with torch.no_grad():
            return torch.allclose(module(images), expected)
    except (RuntimeError, TypeError, AttributeError):
        return False
