"""What the shared weights of every space must do."""

import copy
import itertools
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raynas.testing.suite import Suite
from search_spaces import Architecture, WeightSharingSpace
from search_spaces.errors import InvalidArchitecture, InvalidArgument
from search_spaces.weight_sharing.graph_supernet import GraphSupernet
from search_spaces.weight_sharing.supernet import Supernet


class SupernetSuite(Suite):
    """Tests of a space whose architectures share weights; `part` is a small one.

    Attributes:
        shape: of images.
        classes: that networks are built for.
        mixes: whether its supernet runs mixtures too.
    """

    shape: ClassVar[tuple[int, int, int]] = (3, 8, 8)
    classes: ClassVar[int] = 5
    mixes: ClassVar[bool] = True

    @pytest.fixture
    def space(self) -> WeightSharingSpace:
        """The space."""
        space: WeightSharingSpace = self.given()
        return space

    @pytest.fixture
    def archs(self, space: WeightSharingSpace) -> list[Architecture]:
        """Some architectures."""
        rng = np.random.default_rng(0)
        return [space.sample(rng) for _ in range(6)]

    @pytest.fixture
    def images(self) -> Tensor:
        """Random images, `6 x channels x height x width`."""
        return torch.randn(6, *self.shape, generator=torch.Generator().manual_seed(0))

    def shared(self, space: WeightSharingSpace, affine: bool = False) -> Supernet:
        """Return a supernet that evaluates by the statistics of the batch."""
        torch.manual_seed(0)
        supernet = space.supernet(self.shape, self.classes, affine=affine).eval()
        supernet.normalization.statistics = "batch"
        return supernet

    def test_a_path_is_the_network_of_its_architecture(
        self, space: WeightSharingSpace, archs: list[Architecture], images: Tensor
    ) -> None:
        """With the weights of the layers on the path, in the order in which they are used."""
        supernet = self.shared(space, affine=True)
        compared = 0
        for arch in map(space.canonical, archs):  # edges in order
            own = space.build(arch, self.shape, self.classes).train()
            theirs, logits = on_path(supernet, images, arch)
            mine, _ = on_path(own, images)
            if len(mine) > len(theirs):  # an operation that the network has twice on an edge
                continue
            compared += 1
            for layer, source in zip(mine, theirs, strict=True):
                layer.load_state_dict(source.state_dict())
            torch.testing.assert_close(own(images), logits, rtol=1e-4, atol=1e-4)
        assert compared > len(archs) / 2

    def test_only_the_path_gets_gradients(
        self, space: WeightSharingSpace, archs: list[Architecture], images: Tensor
    ) -> None:
        """And all of it: as many layers, of the same shapes, as the architecture's network has."""
        supernet = self.shared(space).train()
        every = sum(parameter.ndim > 1 for parameter in supernet.parameters())
        compared = 0
        for arch in map(space.canonical, archs):
            own = space.build(arch, self.shape, self.classes)
            expected = sorted(tuple(p.shape) for p in own.parameters() if p.ndim > 1)
            on_path(supernet, images, arch)
            moved = [p for p in supernet.parameters() if p.ndim > 1 and p.grad is not None]
            assert 0 < len(moved) < every
            if len(expected) > len(moved):  # an operation that the network has twice on an edge
                continue
            compared += 1
            assert sorted(tuple(p.shape) for p in moved) == expected
        assert compared > len(archs) / 2

    @torch.no_grad()
    def test_architectures_differ(
        self, space: WeightSharingSpace, archs: list[Architecture], images: Tensor
    ) -> None:
        """Those that are drawn in the space do not all compute the same."""
        supernet = self.shared(space)
        logits = [supernet(images, arch) for arch in archs]
        assert any(not torch.allclose(logits[0], other) for other in logits[1:])

    @torch.no_grad()
    def test_a_mixture_of_one_architecture_is_its_path(
        self, space: WeightSharingSpace, archs: list[Architecture], images: Tensor
    ) -> None:
        if not self.mixes:
            pytest.skip("its supernet runs no mixtures")
        supernet = self.shared(space)
        for arch in archs[:3]:
            mixture = [torch.zeros(len(slot.choices)) for slot in supernet.slots]
            for weights, taken in zip(mixture, taken_by(supernet, arch), strict=True):
                for choice in taken:
                    weights[choice] += 1
            torch.testing.assert_close(
                supernet(images, mixture), supernet(images, arch), rtol=1e-3, atol=1e-4
            )

    def test_every_weight_of_a_mixture_matters(
        self, space: WeightSharingSpace, images: Tensor
    ) -> None:
        if not self.mixes:
            pytest.skip("its supernet runs no mixtures")
        supernet = self.shared(space)
        mixture = [
            torch.full((len(slot.choices),), 0.5, requires_grad=True) for slot in supernet.slots
        ]
        supernet(images, mixture).square().sum().backward()
        gradients = [weights.grad for weights in mixture]
        assert all(gradient is not None and gradient.any() for gradient in gradients)

    @torch.no_grad()
    def test_evaluating_leaves_it_as_it_was(
        self, space: WeightSharingSpace, archs: list[Architecture], images: Tensor
    ) -> None:
        """Buffers too, whatever batch normalization goes by."""
        supernet = self.shared(space)
        before = copy.deepcopy(supernet.state_dict())
        for statistics in ("batch", "running", "recomputed"):
            calibration = 3 * (statistics == "recomputed")
            with supernet.normalization.set(statistics=statistics, calibration=calibration):
                for arch in archs[:3]:
                    supernet(images, arch)
        after = supernet.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)

    @torch.no_grad()
    def test_its_state_is_all_there_is(
        self, space: WeightSharingSpace, archs: list[Architecture], images: Tensor
    ) -> None:
        supernet = self.shared(space)
        torch.manual_seed(1)
        other = space.supernet(self.shape, self.classes).eval()
        other.normalization.statistics = "batch"
        assert not torch.equal(other(images, archs[0]), supernet(images, archs[0]))
        other.load_state_dict(supernet.state_dict())
        for arch in archs[:3]:
            assert torch.equal(other(images, arch), supernet(images, arch))

    def test_layers_are_counted_from_the_stem(self, space: WeightSharingSpace) -> None:
        """What lies behind more layers is less, and never nothing."""
        supernet = self.shared(space)
        assert supernet.layers >= 1
        behind = [
            {id(p) for module in supernet.modules_after(k) for p in module.parameters()}
            for k in range(supernet.layers + 1)
        ]
        assert behind[0] < {id(p) for p in supernet.parameters()}  # without the stem
        assert all(more >= fewer for more, fewer in itertools.pairwise(behind))
        assert 0 < len(behind[-1]) < len(behind[0])

    def test_wrong_paths_are_refused(self, space: WeightSharingSpace, images: Tensor) -> None:
        supernet = self.shared(space)
        with pytest.raises(InvalidArchitecture, match="another"):
            supernet(images, Architecture("another", (0,)))
        with pytest.raises(InvalidArgument, match="mixture: weights of shapes"):
            supernet(images, [torch.ones(1)])
        for path in (None, "111"):
            with pytest.raises(InvalidArgument, match="neither an Architecture nor a mixture"):
                supernet(images, path)


def on_path(network: nn.Module, *arguments: object) -> tuple[list[nn.Module], Tensor]:
    """Return the layers that the logits depend on, in the order of use; and the logits.

    A layer is what has weights of more than one dimension, which leaves normalizations out.
    """
    layers = [
        module
        for module in network.modules()
        if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
    ]
    order: dict[nn.Module, None] = {}
    hooks = [layer.register_forward_hook(lambda m, *_: order.setdefault(m)) for layer in layers]
    network.zero_grad()
    logits: Tensor = network(*arguments)
    for hook in hooks:
        hook.remove()
    logits.square().sum().backward()  # type: ignore[no-untyped-call]
    used = [m for m in order if any(p.grad is not None for p in m.parameters(recurse=False))]
    return used, logits.detach()


def taken_by(supernet: Supernet, arch: Architecture) -> list[tuple[int, ...]]:
    """Return the choices that an architecture takes at every slot."""
    if isinstance(supernet, GraphSupernet):
        return list(supernet.selection(arch))
    config = supernet.space.to_config(arch)
    return [(slot.choices.index(config[slot.name]),) for slot in supernet.slots]
