"""What every zero-cost proxy must do."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from raynas.testing.suite import Suite

Score = Callable[..., float]


class ProxySuite(Suite):
    """Tests of a zero-cost proxy; `part` is its function of network, images and labels."""

    @pytest.fixture
    def proxy(self) -> Score:
        """The function."""
        score: Score = self.given()
        return score

    @staticmethod
    def network(channels: int = 3, width: int = 6, depth: int = 1) -> nn.Sequential:
        """Convolutions, rectifiers (some in place), batch normalization, dropout."""
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [
                nn.Conv2d(width, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *layers,
            nn.AvgPool2d(3, 1, 1),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(width * 36, 4),
        )

    @staticmethod
    def batch(channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(12, channels, 8, 8, generator=generator), torch.arange(12) % 4

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_finite_number(self, proxy: Score, channels: int) -> None:
        value = proxy(self.network(channels), *self.batch(channels))
        assert isinstance(value, float)
        assert math.isfinite(value)

    def test_deterministic(self, proxy: Score) -> None:
        """Whatever the state of the global generator, which is left where it was."""
        values = set()
        for seed in range(3):
            network = self.network()
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            values.add(proxy(network, *self.batch()))
            assert torch.equal(torch.get_rng_state(), before)
        assert len(values) == 1

    def test_other_networks_score_otherwise(self, proxy: Score) -> None:
        """They differ in width and depth; a proxy may see one of them alone."""
        networks = [self.network(width=6 * depth, depth=depth) for depth in (1, 2, 3)]
        assert len({proxy(network, *self.batch()) for network in networks}) == 3

    def test_leaves_the_network_as_it_was(self, proxy: Score) -> None:
        """Contents, strides, gradients, flags of training and of gradients, hooks."""
        network = self.network()
        first, _, _, second, *_ = network.parameters()
        network[1].eval()
        second.requires_grad = False
        first.grad = torch.ones_like(first)
        calls: list[int] = []
        handle = network[2].register_forward_hook(lambda *_: calls.append(1))
        attributes = [self.attributes(module) for module in network.modules()]
        tensors = [*network.parameters(), *network.buffers()]
        before = [(t, t.clone(), t.stride(), t.requires_grad) for t in tensors]
        proxy(network, *self.batch())
        assert [self.attributes(module) for module in network.modules()] == attributes
        for tensor, content, stride, trained in before:
            assert torch.equal(tensor, content)
            assert (tensor.stride(), tensor.requires_grad) == (stride, trained)
        assert first.grad is not None
        assert first.grad.eq(1).all()
        assert all(p.grad is None for p in list(network.parameters())[1:])
        handle.remove()
        calls.clear()
        network(self.batch()[0])
        assert not calls

    def test_forgets_what_the_network_kept(self, proxy: Score) -> None:
        class Keeping(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.last = x
                self.register_buffer("mean", x.mean())
                self.register_forward_hook(lambda *_: None)
                return x

        keeping = Keeping()
        attributes = self.attributes(keeping)
        proxy(nn.Sequential(keeping, self.network()), *self.batch())
        assert self.attributes(keeping) == attributes

    @staticmethod
    def attributes(module: nn.Module) -> dict[str, object]:
        """With its tables of parameters, buffers and hooks."""
        return {k: {**v} if isinstance(v, dict) else v for k, v in vars(module).items()}

    def test_leaves_the_batch_as_it_was(self, proxy: Score) -> None:
        images, labels = self.batch()
        network = nn.Sequential(nn.ReLU(inplace=True), *self.network())
        proxy(network, images, labels)
        assert torch.equal(images, self.batch()[0])
        assert not images.requires_grad

    @pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
    def test_without_gradients_around(
        self, proxy: Score, guard: Callable[[], AbstractContextManager[None]]
    ) -> None:
        expected = proxy(self.network(), *self.batch())
        network, batch = self.network(), self.batch()
        with guard():
            assert proxy(network, *batch) == expected
