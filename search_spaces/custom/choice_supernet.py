"""The shared weights of a network with Choice blocks: every block holds all its choices."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from search_spaces.architecture import Architecture
from search_spaces.custom.choices import Block, Constructor, Sampled, constructing
from search_spaces.errors import InvalidArgument
from search_spaces.space import SearchSpace
from search_spaces.weight_sharing.checkpoint import recomputed
from search_spaces.weight_sharing.shared_norm import kept_statistics, own_norms
from search_spaces.weight_sharing.supernet import Mixture, Supernet, strongest

_MAX_NETWORKS = 64  # of a supernet, one for each combination of integers

#: (input shape, number of classes) to a network with Choice blocks
Network = Callable[[Sequence[int], int], nn.Module]


class ChoiceSupernet(Supernet):
    """The network of `from_module` with all choices in it.

    Slots are the LayerChoice and InputChoice blocks. Weights of different shapes are not shared:
    there is one network for each combination of the IntegerChoice values. Layers, in the sense
    of `Supernet.layers`, are the network's direct submodules in the order of construction.

    Args:
        space: of the network.
        network: see `from_module`.
        input_shape: (channels, height, width) of one image.
        num_classes: number of logits.
        affine: whether batch normalization in the LayerChoice blocks has scale and shift.

    Raises:
        InvalidArgument: when there are too many combinations of IntegerChoice values.
    """

    def __init__(
        self,
        space: SearchSpace,
        network: Network,
        input_shape: Sequence[int],
        num_classes: int,
        affine: bool,
    ):
        super().__init__(space)
        constructor = Constructor(shared=True)
        with constructing(constructor):
            network(input_shape, num_classes)
        self.slots = tuple(d for d in space.decisions if d.name in constructor.blocks)
        integers = [d for d in space.decisions if d.name not in constructor.blocks]
        combinations = list(itertools.product(*(d.choices for d in integers)))
        if len(combinations) > _MAX_NETWORKS:
            raise InvalidArgument(
                f"space={space.name!r}: {len(combinations)} combinations of IntegerChoice values,"
                f" each of which needs weights of its own; at most {_MAX_NETWORKS} are made. Use"
                " fewer, or LayerChoice, whose weights are shared."
            )
        self._integers = [d.name for d in integers]
        self._numbers = {values: i for i, values in enumerate(combinations)}
        self.networks = nn.ModuleList()
        for values in combinations:
            config = {d.name: d.choices[0] for d in space.decisions}
            constructor = Constructor(
                config | dict(zip(self._integers, values, strict=True)), shared=True
            )
            with constructing(constructor):
                module = network(input_shape, num_classes)
            for block in _blocks(module):
                for name, layer in block.named_children():
                    setattr(block, name, self._with_shared_norms(layer, affine))
            self.networks.append(self._with_shared_norms(module, None))
            if any(is_lazy(p) for p in module.parameters()):  # whose shapes are not known yet
                every = {d.name: torch.ones(len(d.choices)) for d in self.slots}
                with torch.no_grad():
                    self._run(len(self.networks) - 1, torch.rand(2, *input_shape), every)
        self.layers = max(len(list(net.children())) for net in self.networks) - 1

    def child(self, x: Tensor, arch: Architecture) -> Tensor:
        """Run the network of the architecture's integers, its blocks set to the architecture."""
        config = self.space.to_config(arch)
        number = self._numbers[tuple(config[name] for name in self._integers)]
        paths = {slot.name: slot.choices.index(config[slot.name]) for slot in self.slots}
        return self._run(number, x, paths)

    def check(self, mixture: Mixture) -> Mixture:
        """Return `mixture` itself, where it fits and there is no IntegerChoice."""
        super().check(mixture)
        if len(self.networks) > 1:
            raise InvalidArgument(
                f"mixture: {', '.join(self._integers)} cannot be mixed; use LayerChoice instead of"
                " IntegerChoice."
            )
        return mixture

    def derive(self, mixture: Mixture) -> Architecture:
        """Take the strongest choice of each block.

        Those of an InputChoice are combinations of its inputs, of which each has its own weight.
        """
        best = {
            slot.name: slot.choices[strongest(weights)]
            for slot, weights in zip(self.slots, self.check(mixture), strict=True)
        }
        only = {d.name: d.choices[0] for d in self.space.decisions}  # of a size, which is not mixed
        return self.space.from_config(only | best)

    def mixed(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Run all choices of every block; only where there is no IntegerChoice."""
        return self._run(0, x, {s.name: w for s, w in zip(self.slots, mixture, strict=True)})

    def sampled(self, x: Tensor, mixture: Mixture, choices: Sequence[int]) -> Tensor:
        """Run one choice of every block; see `Supernet`."""
        sampled = map(Sampled, self.check_choices(choices), self.check(mixture))
        return self._run(0, x, {s.name: path for s, path in zip(self.slots, sampled, strict=True)})

    def _run(self, number: int, x: Tensor, paths: Mapping[str, int | Tensor | Sampled]) -> Tensor:
        with self._along(number, paths):
            logits: Tensor = self.networks[number](x)
        return logits

    @contextmanager
    def _along(
        self, number: int, paths: Mapping[str, int | Tensor | Sampled], again: bool = False
    ) -> Iterator[None]:
        """Set the blocks of a network to paths; `again` for what is computed a second time."""

        def later(function: Callable[[], Any]) -> Any:
            return recomputed(function, lambda: self._along(number, paths, again=True))

        network = self.networks[number]
        blocks, own = _blocks(network), own_norms(network) if again else []
        tracking = self.normalization.tracking and not again
        try:
            for block in blocks:
                block.path = paths[block.choice_name]
                block.evaluate = later if self.checkpoint else None
            with self.normalization.set(tracking=tracking), kept_statistics(own):
                yield
        finally:
            for block in blocks:  # a mixture's weights are not kept
                block.path, block.evaluate = 0, None

    def modules_after(self, layer: int) -> list[nn.Module]:
        """List modules as `Supernet` does; the last direct submodule is always among them."""
        modules: list[nn.Module] = []
        for net in self.networks:
            parts = list(net.children())
            modules += parts[min(layer + 1, len(parts) - 1) :]
        return modules


def _blocks(network: nn.Module) -> list[Block]:
    """List the blocks of a supernet's network, copies that its constructor made too."""
    return [m for m in network.modules() if isinstance(m, Block) and m.choice_name]
