"""Zero-cost proxies: NASWOT by hand and by its invariances, all of them by their contract."""

import itertools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import search_spaces
from raynas.testing import ProxySuite
from search_spaces.counting import count_params
from search_spaces.errors import InvalidArgument, UnknownName
from trials import proxies
from trials.data import load
from trials.proxies import PROXIES, az_nas, naswot, rectifiers, vkdnw
from trials.proxies.aggregate import AGGREGATES, rank_aggregate
from trials.proxies.initialization import kaiming, reinitialize
from trials.proxies.preserving import untouched
from trials.proxies.scoring import Proxy, Scorer

TABLES = Path(__file__).parents[2] / "shared" / "data"

CODES = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]]) * 2 - 1
BY_HAND = math.log(32)  # K = [[4,2,0],[2,4,2],[0,2,4]]


class Calls(nn.Module):
    """A network without parameters from a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def by_definition(*inputs: Tensor) -> np.ndarray:
    """K as the paper writes it: X X^T + (1 - X)(1 - X)^T, summed over the rectifiers' inputs."""
    kernel = np.zeros((len(inputs[0]), len(inputs[0])))
    for tensor in inputs:
        x = (tensor.detach().flatten(1) > 0).double().numpy()
        kernel += x @ x.T + (1 - x) @ (1 - x).T
    return kernel


def logdet(kernel: np.ndarray) -> float:
    return np.linalg.slogdet(kernel)[1]


@torch.library.custom_op("raynas_tests::add_into", mutates_args=("target",))
def add_into(target: Tensor, source: Tensor) -> None:
    target.add_(source)


def random_images(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make()


def small_network(channels: int = 3) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(channels, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(288, 4),
        )
    )


class TestKernel:
    def test_three_images_by_hand(self):
        assert naswot.score(nn.ReLU(), CODES) == pytest.approx(BY_HAND, abs=1e-12)

    @given(
        images=st.integers(1, 9),
        units=st.integers(1, 200),
        seed=st.integers(0, 2**16),
        packed=st.booleans(),
    )
    @settings(deadline=None, max_examples=40, database=None)
    def test_hamming_distances(self, images, units, seed, packed):
        rng = np.random.default_rng(seed)
        codes = rng.random((images, units)) < 0.5
        given_codes = torch.from_numpy(np.packbits(codes, axis=1) if packed else codes)
        kernel = units - naswot.hamming(given_codes)
        assert (kernel == by_definition(torch.from_numpy(codes).float())).all()
        assert (kernel.diagonal() == units).all()
        assert (kernel == kernel.T).all()

    def test_many_units_are_counted_exactly(self):
        codes = torch.from_numpy(np.random.default_rng(0).random((5, 1_000_003)) < 0.5)
        packed = torch.from_numpy(np.packbits(codes.numpy(), axis=1))
        expected = [[int((a ^ b).sum()) for b in codes] for a in codes]
        assert naswot.hamming(codes).tolist() == expected
        assert naswot.hamming(packed).tolist() == expected

    def test_singular_without_equal_codes(self):
        codes = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]) * 2 - 1  # the rows 1 + 4 = 2 + 3
        assert naswot.score(nn.ReLU(), codes) == -math.inf


class TestInvariances:
    @given(seed=st.integers(0, 2**16), scale=st.floats(1e-3, 1e3))
    @settings(deadline=None, max_examples=25, database=None)
    def test_units_images_and_scale(self, seed, scale):
        x = random_images(seed, 6, 40)
        rng = torch.Generator().manual_seed(seed)
        expected = naswot.score(nn.ReLU(), x)
        for other in (
            x[torch.randperm(6, generator=rng)],
            x[:, torch.randperm(40, generator=rng)],
            x * scale,
        ):
            assert naswot.score(nn.ReLU(), other) == pytest.approx(expected, abs=1e-9)

    @given(seed=st.integers(0, 2**16), layers=st.integers(1, 4))
    @settings(deadline=None, max_examples=25, database=None)
    def test_layers_add_up(self, seed, layers):
        inputs = random_images(seed, 5, 12 * layers).split(12, dim=1)
        network = Calls(lambda x: sum(functional.relu(part) for part in x.split(12, dim=1)))
        expected = logdet(sum(by_definition(part) for part in inputs))
        assert naswot.score(network, torch.cat(inputs, 1)) == pytest.approx(expected, abs=1e-9)

    def test_positive_scale_of_a_hidden_layer(self):
        def network(scale):
            return Calls(lambda x: torch.relu(scale * functional.linear(torch.relu(x), weight)))

        weight, x = random_images(1, 7, 20), random_images(2, 6, 20)
        assert naswot.score(network(5.0), x) == naswot.score(network(1.0), x)

    @given(seed=st.integers(0, 2**16), twice=st.integers(1, 5))
    @settings(deadline=None, max_examples=20, database=None)
    def test_an_image_twice(self, seed, twice):
        images = random_images(seed, 6, 3, 8, 8)
        images[twice] = images[0]
        assert naswot.score(small_network(), images) == -math.inf

    def test_all_images_equal(self):
        images = random_images(0, 1, 3, 8, 8).repeat(5, 1, 1, 1)
        assert naswot.score(small_network(), images) == -math.inf


class TestRectifiers:
    x = random_images(0, 8, 3, 6, 6)

    @pytest.mark.parametrize(
        "rectify",
        [
            nn.ReLU(),
            nn.ReLU(inplace=True),
            nn.ReLU6(),
            nn.LeakyReLU(0.2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.PReLU(),
            nn.RReLU(),
            nn.Threshold(0, 0),
            nn.Hardtanh(0, 3),
            torch.jit.script(nn.ReLU()),
            functional.relu,
            functional.relu_,
            functional.relu6,
            functional.leaky_relu,
            torch.relu,
            torch.relu_,
            Tensor.relu,
            Tensor.relu_,
            lambda x: x.clamp(min=0),
            lambda x: x.clamp(0, 2),
            lambda x: x.clamp_(min=0),
            lambda x: x.clamp_min(0),
            lambda x: torch.clamp(x, min=0.0),
            lambda x: functional.threshold(x, 0, 0),
            lambda x: functional.relu(x, inplace=True),
        ],
    )
    def test_every_kind_counts_once(self, rectify):
        expected = logdet(by_definition(self.x))
        images = self.x.clone()
        assert naswot.score(Calls(rectify), images) == pytest.approx(expected, abs=1e-9)
        assert torch.equal(images, self.x)  # in place or not

    @pytest.mark.parametrize(
        "function",
        [
            nn.GELU(),
            nn.SiLU(),
            nn.Sigmoid(),
            nn.Hardswish(),
            nn.Hardtanh(),
            nn.Identity(),
            nn.AvgPool2d(3),
            lambda x: x.clamp(max=0),
            lambda x: x.clamp(min=-1),
            lambda x: x.clamp(min=0.5),
        ],
    )
    def test_nothing_else_does(self, function):
        with pytest.raises(InvalidArgument, match="no rectifier"):
            naswot.score(Calls(function), self.x)

    def test_a_wrapper_named_like_a_rectifier_counts_once(self):
        block = search_spaces.modules.ReLUConvBN(3, 4, 3)
        assert naswot.score(block, self.x) == pytest.approx(logdet(by_definition(self.x)), abs=1e-9)

    def test_one_module_used_twice_counts_twice(self):
        shared = nn.ReLU()
        network = Calls(lambda x: shared(shared(x) - 0.5))
        inner = functional.relu(self.x) - 0.5
        expected = logdet(by_definition(self.x, inner))
        assert naswot.score(network, self.x) == pytest.approx(expected, abs=1e-9)

    def test_one_tensor_rectified_twice_counts_twice(self):
        network = Calls(lambda x: torch.relu(x) + torch.relu(x))
        expected = logdet(by_definition(self.x, self.x))
        assert naswot.score(network, self.x) == pytest.approx(expected, abs=1e-9)

    def test_a_tensor_that_changed_in_between_is_another(self):
        def network(x):
            x = x + 0
            y = torch.relu(x)
            x -= 0.7
            return y + torch.relu(x)

        expected = logdet(by_definition(self.x, self.x - 0.7))
        assert naswot.score(Calls(network), self.x) == pytest.approx(expected, abs=1e-9)

    def test_memory_that_is_used_again_is_not_the_same_tensor(self):
        def network(x):
            total = 0
            for i in range(6):
                total = total + torch.relu(x + 0.3 * i)
            return total

        expected = logdet(by_definition(*(self.x + 0.3 * i for i in range(6))))
        assert naswot.score(Calls(network), self.x) == pytest.approx(expected, abs=1e-9)

    def test_any_memory_layout(self):
        network = Calls(lambda x: torch.relu(x.transpose(1, 3)) + torch.relu(x.flip(3)).mean())
        expected = logdet(by_definition(self.x, self.x))
        assert naswot.score(network, self.x) == pytest.approx(expected, abs=1e-9)

    def test_patches_of_an_image_belong_to_it(self):
        network = Calls(lambda x: torch.relu(x.reshape(-1, 27)))
        assert naswot.score(network, self.x) == pytest.approx(logdet(by_definition(self.x)))

    def test_what_does_not_depend_on_the_images_has_no_code(self):
        weight = random_images(3, 5, 108)
        network = Calls(lambda x: torch.relu(x.flatten(1)) @ torch.relu(weight).T)
        assert naswot.score(network, self.x) == pytest.approx(logdet(by_definition(self.x)))

    def test_images_that_cannot_be_told_apart(self):
        network = Calls(lambda x: torch.relu(x.mean(0)))
        with pytest.raises(InvalidArgument, match=r"\(3, 6, 6\).*8 images"):
            naswot.score(network, self.x)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_other_precisions(self, dtype):
        expected = logdet(by_definition(self.x))
        assert naswot.score(nn.ReLU(), self.x.to(dtype)) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_not_finite_is_ranked_last(self, value):
        x = self.x.clone()
        x[2, 1, 3, 3] = value
        assert naswot.score(nn.ReLU(), x) == -math.inf

    def test_large_but_finite(self):
        assert naswot.score(nn.ReLU(), self.x.sign() * 3e38) == pytest.approx(
            logdet(by_definition(self.x))
        )


class TestDeadBranches:
    x = random_images(0, 8, 3, 6, 6)

    @pytest.mark.parametrize(
        "network",
        [
            lambda x: (torch.relu(x), torch.relu(x - 1))[0],
            lambda x: torch.relu(x + 0 * len(torch.relu(x - 1))),
        ],
    )
    def test_they_do_not_count(self, network):
        expected = logdet(by_definition(self.x))
        assert naswot.score(Calls(network), self.x) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize(
        "network",
        [
            lambda x: torch.relu(x) + 0 * torch.relu(x - 1),
            lambda x: (torch.relu(x), {"auxiliary": [torch.relu(x - 1)]}),
            lambda x: torch.relu(x).add_(torch.relu(x - 1).mean()),
            lambda x: torch.cat([torch.relu(x), torch.relu(x - 1)]),
            lambda x: torch.zeros_like(x).copy_(torch.relu(x)).add_(torch.relu_(x - 1)),
            lambda x: torch.relu(x) + torch.relu(x - 1).detach(),
            lambda x: torch.add(torch.relu(x), torch.relu(x - 1), out=torch.empty_like(x)),
            lambda x: torch.stack([torch.relu(x), torch.relu(x - 1)]).view(-1)[5:].reshape(-1),
        ],
    )
    def test_what_takes_part_counts(self, network):
        """Also multiplied by zero (a backward pass reaches it), or behind a detach (none does)."""
        expected = logdet(by_definition(self.x, self.x - 1))
        assert naswot.score(Calls(network), self.x) == pytest.approx(expected, abs=1e-9)

    def test_a_write_into_a_part_counts(self):
        def network(x):
            y = torch.zeros(len(x), 6, 6, 6)
            y[:, :3] = torch.relu(x)
            y[:, 3:] = torch.relu(x - 1)
            return y

        expected = logdet(by_definition(self.x, self.x - 1))
        assert naswot.score(Calls(network), self.x) == pytest.approx(expected, abs=1e-9)

    def test_a_write_by_a_custom_operator_counts(self):
        def network(x):
            y = torch.relu(x)
            add_into(y, torch.relu(x - 1))
            return y

        expected = logdet(by_definition(self.x, self.x - 1))
        assert naswot.score(Calls(network), self.x) == pytest.approx(expected, abs=1e-9)

    def test_memory_of_a_dead_branch_may_be_used_again(self):
        def network(x):
            dead = [torch.relu(x - 1) for _ in range(20)]
            del dead
            zeros = [torch.zeros(x.shape) for _ in range(20)]
            return torch.relu(x) + torch.stack(zeros).sum(0)

        expected = logdet(by_definition(self.x))
        assert naswot.score(Calls(network), self.x) == pytest.approx(expected, abs=1e-9)

    def test_what_is_not_finite_there_does_not_matter(self):
        network = Calls(lambda x: (torch.relu(x), torch.relu(x / 0))[0])
        expected = logdet(by_definition(self.x))
        assert naswot.score(network, self.x) == pytest.approx(expected, abs=1e-9)

    def test_only_dead_ones(self):
        with pytest.raises(InvalidArgument, match=r"no rectifier .* reaches the output"):
            naswot.score(Calls(lambda x: (torch.relu(x), x)[1]), self.x)

    def test_shared_normalization_does_not_bring_them_to_life(self):
        norm = nn.BatchNorm2d(3)

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = norm

            def forward(self, x):
                self.norm(torch.relu(x - 1))
                return torch.relu(self.norm(x))

        expected = logdet(by_definition(functional.batch_norm(self.x, None, None, training=True)))
        assert naswot.score(Network(), self.x) == pytest.approx(expected, abs=1e-9)

    def test_dead_edges_of_a_space_do_not_count(self):
        """Built or not; the edge between the nodes 1 and 2 leads nowhere."""
        lean = search_spaces.get("nasbench201:channels=4,cells=1")
        full = search_spaces.get("nasbench201:channels=4,cells=1,dead_edges=true")
        images = random_images(0, 16, 3, 8, 8)
        for first, dead, last in itertools.product(
            search_spaces.nasbench201.OPERATIONS[1:], repeat=3
        ):
            text = f"|{first}~0|+|none~0|{dead}~1|+|none~0|{last}~1|none~2|"
            arch = lean.from_string(text)
            networks = [space.build(arch, (3, 8, 8)) for space in (lean, full)]
            weights = networks[0].state_dict()
            networks[1].load_state_dict(weights, strict=False)
            assert naswot.score(networks[0], images) == naswot.score(networks[1], images)
            assert dead not in (f"nor_conv_{k}x{k}" for k in (1, 3)) or count_params(
                networks[0]
            ) < count_params(networks[1])

    def test_agrees_with_the_backward_marking(self):
        """The procedure of the paper's code, each rectifier counted once."""
        space = search_spaces.get("nasbench201:channels=8,cells=2,dead_edges=true")
        rng = np.random.default_rng(4)
        images = random_images(0, 32, 3, 16, 16)
        for _ in range(10):
            network = seeded(lambda: space.build(space.sample(rng)))
            expected = self.textbook(network, images)
            assert naswot.score(network, images) == pytest.approx(expected, abs=1e-3)

    @staticmethod
    def textbook(network, images):
        inputs, marked = {}, set()
        handles = []
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                handles += [
                    module.register_forward_hook(lambda m, i, o: inputs.update({m: i[0]})),
                    module.register_full_backward_hook(lambda m, i, o: marked.add(m)),
                ]
        output = network.train()(images)
        if output.requires_grad:
            output.backward(torch.ones_like(output))
        for handle in handles:
            handle.remove()
        return logdet(by_definition(*(inputs[module] for module in marked)))


class TestBadInput:
    def test_no_rectifier(self):
        with pytest.raises(InvalidArgument, match=r"Linear.*no rectifier.*another proxy"):
            naswot.score(nn.Linear(4, 2), CODES)

    def test_no_image(self):
        with pytest.raises(InvalidArgument, match="no image"):
            naswot.score(nn.ReLU(), CODES[:0])

    @pytest.mark.parametrize("name", ["snip", "grad_norm", "fisher", "zico"])
    def test_labels_are_missing_or_do_not_fit(self, name):
        images = random_images(0, 8, 4)
        with pytest.raises(InvalidArgument, match=f"labels=None: {name} needs"):
            PROXIES[name](nn.Linear(4, 2), images)
        with pytest.raises(InvalidArgument, match="one class number for each"):
            PROXIES[name](nn.Linear(4, 2), images, torch.zeros(7, dtype=torch.int64))

    @pytest.mark.parametrize("name", ["snip", "grad_norm", "fisher", "zico", "synflow", "vkdnw"])
    def test_nothing_to_train(self, name):
        images, labels = random_images(0, 8, 4), torch.zeros(8, dtype=torch.int64)
        frozen = nn.Linear(4, 2).requires_grad_(False)
        for network in (nn.ReLU(), frozen):
            with pytest.raises(InvalidArgument, match="no trainable weights"):
                PROXIES[name](network, images, labels)

    def test_zico_needs_two_batches(self):
        with pytest.raises(InvalidArgument, match=r"batch of 3 .* at least 4"):
            PROXIES["zico"](nn.Linear(4, 2), CODES, torch.zeros(3, dtype=torch.int64))

    def test_lazy_modules(self):
        images, labels = random_images(0, 4, 4), torch.zeros(4, dtype=torch.int64)
        network = nn.Sequential(nn.LazyLinear(3), nn.ReLU())
        for name in set(PROXIES) - {"params"}:
            with pytest.raises(InvalidArgument, match="run it on a batch"):
                PROXIES[name](network, images, labels)

    def test_a_network_that_raises(self):
        network = small_network()
        network.eval()[-1].register_forward_pre_hook(lambda module, inputs: 1 / 0)
        for name in set(PROXIES) - {"params", "layers"}:  # which do not run it
            with pytest.raises(ZeroDivisionError):
                PROXIES[name](network, random_images(0, 8, 3, 8, 8), torch.arange(8) % 4)
            assert not network[0].training


class TestOtherProxies:
    """By hand, on one linear layer or two."""

    x = torch.tensor([[1.0, 2.0], [0.5, -1.0], [2.0, 0.0], [-1.0, 1.0]])
    labels = torch.tensor([0, 1, 1, 0])

    @staticmethod
    def linear() -> nn.Linear:
        layer = nn.Linear(2, 2, bias=False)
        layer.weight.data = torch.tensor([[0.5, -1.0], [2.0, 0.25]])
        return layer

    def gradient(self, x: Tensor, labels: Tensor) -> Tensor:
        """(softmax(W x) - onehot)^T x / N."""
        p = torch.softmax(x @ self.linear().weight.T, 1).detach()
        return (p - functional.one_hot(labels, 2)).T @ x / len(x)

    def test_snip(self):
        expected = (self.gradient(self.x, self.labels) * self.linear().weight).abs().sum().item()
        assert PROXIES["snip"](self.linear(), self.x, self.labels) == pytest.approx(expected)

    def test_grad_norm(self):
        expected = self.gradient(self.x, self.labels).norm().item()
        assert PROXIES["grad_norm"](self.linear(), self.x, self.labels) == pytest.approx(expected)

    def test_fisher(self):
        a = self.x @ self.linear().weight.detach().T
        g = (torch.softmax(a, 1) - functional.one_hot(self.labels, 2)) / 4
        expected = ((a * g) ** 2).sum().item() / 8
        assert PROXIES["fisher"](self.linear(), self.x, self.labels) == pytest.approx(expected)

    def test_fisher_takes_what_a_layer_gives_before_it_changes_in_place(self):
        scores = [
            PROXIES["fisher"](nn.Sequential(self.linear(), elu), self.x, self.labels)
            for elu in (nn.ELU(), nn.ELU(inplace=True))
        ]
        assert scores[0] == scores[1]

    def test_zico(self):
        g = [self.gradient(self.x[i : i + 2], self.labels[i : i + 2]).abs() for i in (0, 2)]
        mean, std = (g[0] + g[1]) / 2, (g[0] - g[1]).abs() / 2
        expected = (mean / std).sum().log().item()
        score = PROXIES["zico"](self.linear(), self.x, self.labels)
        assert score == pytest.approx(expected, rel=1e-4)

    def test_synflow(self):
        """R = 1^T |W2| |W1| 1; every layer's weights contribute R."""
        network = nn.Sequential(self.linear(), nn.BatchNorm1d(2), nn.ReLU(), self.linear())
        w = self.linear().weight.detach().abs()
        expected = math.log(2 * (w @ w).sum().item())
        assert PROXIES["synflow"](network, self.x) == pytest.approx(expected)

    def test_synflow_does_not_overflow(self):
        layers = [nn.Linear(64, 64) for _ in range(60)]
        for layer in layers:
            layer.weight.data.mul_(30)
        assert 100 < PROXIES["synflow"](nn.Sequential(*layers), torch.ones(1, 64)) < 1000

    def test_jacov(self):
        """Two images whose Jacobian rows correlate by r: eigenvalues 1 + r, 1 - r."""
        network = Calls(lambda x: (torch.relu(x) * torch.tensor([1.0, 2.0, 4.0])).sum(1))
        x = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, 1.0]])
        r = np.corrcoef([[1, 2, 0], [1, 0, 4]])[0, 1]
        expected = -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in (1 + r, 1 - r))
        assert PROXIES["jacov"](network, x) == pytest.approx(expected, rel=1e-6)

    def test_jacov_of_a_constant_is_last(self):
        assert PROXIES["jacov"](Calls(lambda x: x * 0), self.x) == -math.inf


def cell_of(o: str) -> str:
    """Write a cell of NAS-Bench-201 with one operation on all edges."""
    return f"|{o}~0|+|{o}~0|{o}~1|+|{o}~0|{o}~1|{o}~2|"


class TestLayers:
    @pytest.mark.parametrize(("operation", "tensors", "layers"), [
        ("nor_conv_3x3", 291, 98), ("nor_conv_1x1", 291, 98), ("none", 21, 8),
    ])  # fmt: skip
    def test_of_nasbench201(self, operation, tensors, layers):
        space = search_spaces.get("nasbench201")
        text = cell_of(operation)
        network = space.build(space.from_string(text))
        assert len(list(network.parameters())) == tensors
        assert PROXIES["layers"](network, random_images(0, 1, 3, 32, 32)) == layers

    def test_of_a_network_without_weights(self):
        assert PROXIES["layers"](nn.ReLU(), CODES) == 0


class TestNewWeights:
    def test_are_drawn_and_the_old_ones_come_back(self):
        network = nn.Sequential(
            nn.Conv2d(8, 400, 3, groups=2), nn.BatchNorm2d(400), nn.Linear(50, 300), nn.PReLU()
        )
        network[1].running_mean.fill_(3)
        network[3].weight.data.fill_(0.7)
        network[0].weight.requires_grad_(False)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with untouched(network, torch.device("cpu")):
            reinitialize(network, kaiming)
            convolution, norm, linear, rectifier = network
            assert convolution.weight.std().item() == pytest.approx((2 / 36) ** 0.5, rel=0.02)
            assert linear.weight.std().item() == pytest.approx((2 / 50) ** 0.5, rel=0.02)
            assert not any(t.any() for t in (convolution.bias, linear.bias, norm.bias))
            assert norm.weight.eq(1).all()
            assert norm.running_mean.eq(0).all()
            assert rectifier.weight.item() == pytest.approx(0.7)
            assert [p.requires_grad for p in convolution.parameters()] == [False, True]
        assert all(torch.equal(before[n], value) for n, value in network.state_dict().items())

    def test_what_is_shared_still_is(self):
        network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        network[1].weight = network[0].weight
        with untouched(network, torch.device("cpu")):
            old = network[0].weight
            reinitialize(network, kaiming)
            assert network[0].weight is network[1].weight is not old

    @pytest.mark.parametrize("name", ["vkdnw", "swap", *AGGREGATES["az_nas"][:3]])
    def test_the_old_ones_play_no_part(self, name):
        images = random_images(0, 8, 3, 8, 8)
        networks = [seeded(small_network, seed) for seed in range(2)]
        networks[1].train()(images)  # running statistics of batch normalization
        assert len({PROXIES[name](network, images) for network in networks}) == 1


class TestVkdnw:
    """The vectors are worked out by hand."""

    @pytest.mark.parametrize(("s", "v"), [
        ([0.5, 0.0], 2.0498), ([4 / 3, 4 / 9], 2.1632), ([0.3, 0.3, 0.3], math.log(9)), ([0, 0], 0),
    ])  # fmt: skip
    def test_entropy(self, s, v):
        assert vkdnw.entropy(torch.tensor(s, dtype=torch.float64)) == pytest.approx(v, abs=5e-5)

    @given(s=st.lists(st.floats(0, 1), min_size=1, max_size=30), scale=st.floats(1e-9, 1e9))
    @settings(deadline=None, max_examples=50, database=None)
    def test_entropy_is_bounded_and_knows_no_scale(self, s, scale):
        s = torch.tensor([x if x > 1e-9 else 0.0 for x in s], dtype=torch.float64)
        v = vkdnw.entropy(s)
        assert -1e-8 <= v <= math.log(9) + 1e-8
        assert vkdnw.entropy(scale * s) == pytest.approx(v, abs=1e-6)

    def test_fisher_information(self):
        """J^T S J; with L J in place of L^T J, singular values were 2 and 0."""
        j = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))[None]
        information = vkdnw.fisher(torch.zeros(1, 2, dtype=torch.float64), j)
        assert information.tolist() == [[1.0, -0.5], [-0.5, 0.25]]
        assert torch.linalg.svdvals(information).tolist() == pytest.approx([1.25, 0])

    def test_two_parameters(self):
        """Logits (2a, 2b, 0) at a = b = 0, parameters of no layer."""

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = (nn.Parameter(torch.zeros(1, 1)) for _ in range(2))

            def forward(self, x):
                return torch.cat([2 * self.a, 2 * self.b, 0 * self.a], 1).expand(len(x), 3)

        logits, j = vkdnw.jacobian(Network(), CODES)
        assert vkdnw.fisher(logits, j).numpy() * 9 == pytest.approx(np.array([[8, -4], [-4, 8]]))
        score = vkdnw.score(Network(), CODES)
        assert score == pytest.approx(2 + 2.1632 / math.log(10), abs=5e-5)

    def test_smoothing(self):
        """p = .95 (1, 0) + .05 / 2."""
        j = torch.eye(2, dtype=torch.float64)[None]
        information = vkdnw.fisher(torch.tensor([[1000.0, 0.0]], dtype=torch.float64), j)
        assert information[0, 0].item() == pytest.approx(0.975 * 0.025)

    @pytest.mark.parametrize("view", [False, True])
    def test_jacobian_is_that_of_one_image_after_another(self, view):
        """Grouped, strided, dilated, of one dimension; shared, frozen, dead, of no layer."""
        shared = nn.Conv2d(6, 6, 3, padding=1)

        class Flat(nn.Module):
            def forward(self, x):
                return x.view(len(x), -1)

        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            shared, nn.PReLU(), shared, nn.GroupNorm(2, 6), nn.ReLU(),
            nn.Conv2d(6, 4, 3, padding="same", dilation=2, groups=2, bias=False),
            Flat() if view else nn.Flatten(), nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 2, 3),
            nn.Flatten(), nn.Linear(124, 5), nn.BatchNorm1d(5), nn.Dropout(),
        )  # fmt: skip
        network.dead = nn.Linear(2, 2)
        network.dead.forward = lambda x: x
        network[3].bias.requires_grad_(False)
        images = random_images(0, 4, 3, 8, 8)
        logits, j = vkdnw.jacobian(network, images)
        assert j.shape == (4, 5, sum(p.requires_grad for p in network.parameters()))
        with untouched(network, images.device):
            network.eval()
            reinitialize(network, kaiming)
            for n, c in itertools.product(range(4), range(5)):
                trained = [p for p in network.parameters() if p.requires_grad]
                logit = network(images[n : n + 1])[0, c]
                assert logits[n, c].item() == pytest.approx(logit.item(), abs=1e-4)
                gradients = torch.autograd.grad(
                    logit, trained, allow_unused=True, materialize_grads=True
                )
                expected = [g.flatten()[0].item() for g in gradients]
                assert j[n, c].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)

    def test_layers_come_first(self):
        deep = vkdnw.score(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), CODES)
        assert 1 < vkdnw.score(nn.Linear(4, 3), CODES) < 2 < deep < 3

    def test_not_finite_is_ranked_last(self):
        assert vkdnw.score(nn.Linear(4, 3), CODES / 0) == -math.inf


def rows(*values: tuple[float, float]) -> Tensor:
    """A map of two channels, these at its four places."""
    return torch.tensor(values).float().T.reshape(1, 2, 2, 2)


class TestAzNas:
    """The vectors are worked out by hand."""

    uneven = rows((2, 1), (-2, -1), (2, -1), (-2, 1))
    even = rows((1, 1), (-1, -1), (1, -1), (-1, 1))

    def test_spread(self):
        assert az_nas.spread(self.uneven) == pytest.approx(0.5004, abs=5e-5)
        assert az_nas.spread(self.even) == pytest.approx(0.6931, abs=5e-5)
        assert math.isnan(az_nas.spread(torch.zeros(2, 3, 4, 4)))
        assert az_nas.spread(random_images(0, 4, 1, 2, 2)) == pytest.approx(0, abs=1e-6)

    @given(seed=st.integers(0, 2**16), channels=st.integers(2, 20), scale=st.floats(1e-3, 1e3))
    @settings(deadline=None, max_examples=25, database=None)
    def test_spread_knows_no_scale_nor_shift(self, seed, channels, scale):
        h = random_images(seed, 2, channels, 3, 3).double()
        e = az_nas.spread(h)
        assert -1e-6 <= e <= math.log(channels) + 1e-6
        assert az_nas.spread(scale * h + 1) == pytest.approx(e, abs=1e-4)

    def test_expressivity_and_progressivity(self):
        """The first block scales the first channel by a half."""

        class Scale(nn.Module):
            def __init__(self):
                super().__init__()
                self.part = nn.Identity()

            def forward(self, x):
                return x * torch.tensor([0.5, 1.0]).view(2, 1, 1)

        network = nn.Sequential(nn.Identity(), Scale(), nn.Flatten())
        assert az_nas.expressivity(network, self.uneven) == pytest.approx(1.1935, abs=5e-5)
        assert az_nas.progressivity(network, self.uneven) == pytest.approx(0.1927, abs=5e-5)
        network = nn.Sequential(nn.Identity(), Scale(), Scale(), nn.Flatten())
        assert az_nas.progressivity(network, self.uneven) == pytest.approx(
            0.5004 - 0.6931, abs=1e-4
        )

    @pytest.mark.parametrize(("s", "t"), [(2.0, -0.5), (0.5, -0.5), (1.0, 0.0), (0.0, -999_998)])
    def test_preservation_of_a_scale(self, s, t):
        g = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
        u = s * g if s != 1 else -g
        assert az_nas.preservation(u, g) == pytest.approx(t, abs=1e-5)

    def test_preservation_by_a_convolution(self):
        """1x1, diag(2, 1); g has all four pairs of signs, and M is the diagonal matrix."""
        u = self.even * torch.tensor([2.0, 1.0]).view(2, 1, 1)
        assert az_nas.preservation(u, self.even) == pytest.approx(-0.5, abs=1e-5)

    def test_a_block_that_does_nothing(self):
        assert az_nas.preservation(self.even, self.even) == -math.inf

    @pytest.mark.parametrize("size", [4, 5])
    def test_lower_resolution(self, size):
        """Every second pixel of one channel goes on; the others, of odd sizes too, get nothing."""
        g = random_images(0, 3, 1, -(-size // 2), -(-size // 2)).sign()
        u = torch.zeros(3, 1, size, size)
        u[:, :, ::2, ::2] = 3 * g
        assert az_nas.preservation(u, g) == pytest.approx(2 - 3 - 1 / 3, abs=1e-5)

    def test_maps_are_those_of_cells_and_residual_blocks(self):
        space = search_spaces.get("nasbench201:channels=4")
        shapes = [(4, 32)] * 6 + [(8, 16)] * 6 + [(16, 8)] * 6
        for operation in search_spaces.nasbench201.OPERATIONS:
            text = cell_of(operation)
            network = space.build(space.from_string(text))
            with untouched(network, torch.device("cpu")):
                maps = az_nas._maps(network, random_images(0, 2, 3, 32, 32))
            assert [(h.shape[1], h.shape[3]) for h in maps] == shapes

    @pytest.mark.parametrize(("operation", "finite"), [
        ("none", (False, False, True)), ("skip_connect", (True, True, True)),
        ("nor_conv_3x3", (True, True, True)),
    ])  # fmt: skip
    def test_cells_of_one_operation(self, operation, finite):
        """Zeros have no spread; six skip connections multiply by four."""
        space = search_spaces.get("nasbench201:channels=4,cells=1")
        text = cell_of(operation)
        network = space.build(space.from_string(text))
        images = random_images(0, 16, 3, 16, 16)
        scores = [PROXIES[name](network, images) for name in AGGREGATES["az_nas"][:3]]
        assert tuple(map(math.isfinite, scores)) == finite
        if operation == "none":
            assert scores[2] < -500_000

    def test_an_identity_cannot_be_trained_better_or_worse(self):
        space = search_spaces.get("nasbench201:channels=4,cells=1")
        text = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
        network = space.build(space.from_string(text))
        assert az_nas.trainability(network, random_images(0, 4, 3, 16, 16)) == -math.inf

    @pytest.mark.parametrize("name", ["nasbench_macro", "nasbench101", "darts:cells=6", "resnet"])
    def test_other_spaces(self, name):
        space = search_spaces.get(f"{name}{',' if ':' in name else ':'}" + {
            "nasbench_macro": "channels=4,head_channels=8", "nasbench101": "channels=8",
            "darts:cells=6": "channels=4", "resnet": "stem_channels=4",
        }[name])  # fmt: skip
        network = space.build(space.sample(np.random.default_rng(1)))
        images = random_images(0, 4, 3, 16, 16)
        assert all(math.isfinite(PROXIES[n](network, images)) for n in AGGREGATES["az_nas"][:2])

    def test_too_few_maps(self):
        with pytest.raises(InvalidArgument, match=r"Linear has 0 maps .* at least two"):
            az_nas.expressivity(nn.Linear(4, 2), CODES)


class TestSwap:
    def test_by_hand(self):
        """Columns 101, 000, 010, 101, 110."""
        x = torch.tensor([[0.5, 0, 0, 2, 0.1], [0, 0, 1, 0, 0.3], [0.2, 0, 0, 0.7, 0]])
        assert PROXIES["swap"](nn.ReLU(), x) == 4
        assert PROXIES["swap"](nn.ReLU(), x.view(3, 5, 1, 1)) == 4

    @pytest.mark.parametrize("packed", [True, False])  # on a GPU they never are
    @pytest.mark.parametrize("images", [1, 7, 16, 20])
    def test_distinct_columns_of_sixteen_images(self, images, packed, monkeypatch):
        monkeypatch.setattr(rectifiers, "_PACKED", packed and rectifiers._PACKED)
        x = random_images(0, images, 3, 40)
        expected = len(np.unique((x[:16].flatten(1) > 0).numpy(), axis=1).T)
        assert PROXIES["swap"](nn.ReLU(), x) == expected

    def test_what_is_there_already_adds_nothing(self):
        x = random_images(0, 8, 30)
        once, twice, dead = (
            PROXIES["swap"](Calls(function), x)
            for function in (
                torch.relu, lambda x: torch.relu(x) + torch.relu(x + 0),
                lambda x: torch.relu(x) + torch.relu(0 * x),
            )
        )  # fmt: skip
        assert once == twice
        assert dead - once in (0, 1)  # the column of zeros

    def test_is_a_mean_over_weights(self):
        value = PROXIES["swap"](nn.Sequential(nn.Linear(4, 30), nn.ReLU()), random_images(0, 6, 4))
        assert value != int(value)
        assert (value * 32).is_integer()

    def test_not_finite_is_ranked_last(self):
        assert PROXIES["swap"](nn.ReLU(), CODES / 0) == -math.inf

    def test_no_rectifier(self):
        with pytest.raises(InvalidArgument, match=r"Linear.*no rectifier.*another proxy"):
            PROXIES["swap"](nn.Linear(4, 2), CODES)


columns = st.lists(
    st.lists(st.integers(-5, 5).map(float), min_size=6, max_size=6), min_size=1, max_size=4
)


class TestAggregate:
    def test_by_hand(self):
        """Ranks (1, 5) and (3, 3) of 5: equal in a linear sum."""
        totals = rank_aggregate({"a": [1, 3, 2, 4, 5], "b": [50, 30, 10, 20, 40]})
        assert totals[:2] == pytest.approx([-1.609, -1.022], abs=5e-4)

    def test_ties_get_the_mean_of_their_ranks(self):
        assert rank_aggregate({"a": [7, 7, 9]}) == pytest.approx(np.log([1.5 / 3, 1.5 / 3, 1]))

    def test_what_one_cannot_rank_takes_no_part(self):
        totals = rank_aggregate({"a": [1, -math.inf, 2, 5], "b": [2, 9, 1, math.nan]})
        assert totals.tolist() == pytest.approx([math.log(1 / 2), -math.inf] * 2)
        assert rank_aggregate({"a": [-math.inf, math.nan]}).tolist() == [-math.inf] * 2

    def test_infinitely_good(self):
        assert rank_aggregate({"a": [1, math.inf]}).tolist() == pytest.approx([math.log(0.5), 0])

    @given(scores=columns, order=st.permutations(range(6)))
    @settings(deadline=None, max_examples=50, database=None)
    def test_invariances(self, scores, order):
        """Monotone transformations, the order of networks and that of proxies."""
        totals = rank_aggregate({str(i): column for i, column in enumerate(scores)})
        others = [np.exp(0.3 * np.array(column)) - 7 for column in scores]
        assert rank_aggregate(dict(enumerate(others))) == pytest.approx(totals)
        assert rank_aggregate(dict(enumerate(others[::-1]))) == pytest.approx(totals)
        moved = {i: np.array(column)[list(order)] for i, column in enumerate(scores)}
        assert rank_aggregate(moved) == pytest.approx(totals[list(order)])

    @given(scores=columns)
    @settings(deadline=None, max_examples=50, database=None)
    def test_better_by_every_proxy_is_better(self, scores):
        totals = rank_aggregate(dict(enumerate(scores)))
        for i, j in itertools.permutations(range(6), 2):
            if all(column[i] > column[j] for column in scores):
                assert totals[i] > totals[j]

    @pytest.mark.parametrize("scores", [{}, {"a": [1], "b": [1, 2]}])
    def test_scores_that_do_not_fit(self, scores):
        with pytest.raises(InvalidArgument, match=r"scores=.*one score of each network"):
            rank_aggregate(scores)


@pytest.mark.parametrize("name", PROXIES)
class TestProxies(ProxySuite):
    @pytest.fixture
    def proxy(self, name):
        return PROXIES[name]


def test_names():
    functions = {"check_proxy", "proxy_name"}
    modules = {name for name in proxies.__all__ if name.islower()} - functions
    parts = {"az_expressivity", "az_progressivity", "az_trainability"}
    assert modules | parts | {"params", "macs"} == set(PROXIES)
    assert {name for names in AGGREGATES.values() for name in names} <= set(PROXIES)
    for name in modules:
        assert PROXIES[name] is getattr(proxies, name).score


class TestScorer:
    space = search_spaces.get("nasbench201:channels=4,cells=1")

    @pytest.fixture
    def data(self):
        return load("digits")

    @pytest.fixture
    def arch(self):
        return self.space.from_string(
            "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"
        )

    @pytest.mark.parametrize("proxy", PROXIES)
    def test_scores(self, data, arch, proxy):
        scorer = Scorer(self.space, data, proxy)
        score = scorer.score(arch)
        assert math.isfinite(score)
        torch.manual_seed(99)
        before = torch.get_rng_state()
        assert scorer.score(arch) == score
        assert torch.equal(torch.get_rng_state(), before)
        copy = pickle.loads(pickle.dumps(scorer))
        assert copy.score(arch) == score

    def test_counts_are_those_of_the_space(self, data, arch):
        shape = data.input_shape
        assert Scorer(self.space, data, "params").score(arch) == self.space.params(arch, shape, 10)
        assert Scorer(self.space, data, "macs").score(arch) == self.space.macs(arch, shape, 10)

    def test_the_seed_matters(self, data, arch):
        assert len({Scorer(self.space, data, seed=seed).score(arch) for seed in range(3)}) == 3

    def test_pickles_without_its_batch(self, data, arch):
        scorer = Scorer(self.space, data)
        fresh = len(pickle.dumps(scorer))
        scorer.score(arch)
        assert len(pickle.dumps(scorer)) == fresh

    def test_bad_arguments(self, data):
        with pytest.raises(InvalidArgument, match=r"batch_size=5000.*1\.\.\d+.*smaller"):
            Scorer(self.space, data, batch_size=5000)
        with pytest.raises(InvalidArgument, match="batch_size=0"):
            Scorer(self.space, data, batch_size=0)
        with pytest.raises(UnknownName, match=r"naswto.*Did you mean 'naswot'"):
            Scorer(self.space, data, proxy="naswto")

    def test_a_function_of_the_users_own(self, data, arch):
        """It gets the network and the batch that every proxy gets; its number is the score."""
        calls = []

        def own(network, images, labels):
            calls.append((count_params(network), images, labels))
            return torch.tensor(2.5)

        shape = data.input_shape
        scorer = Scorer(self.space, data, own, batch_size=8)
        assert scorer.score(arch) == 2.5
        [(params, images, labels)] = calls
        assert params == self.space.params(arch, shape, 10)
        assert (images.shape, labels.shape) == ((8, *shape), (8,))
        assert Proxy(own).metric_name == "own"
        assert Proxy(lambda *_: 1.0).metric_name == "lambda"
        same = Scorer(self.space, data, naswot.score, batch_size=8)
        assert same.score(arch) == Scorer(self.space, data, batch_size=8).score(arch)

    def test_an_object_that_is_called(self, data, arch):
        class Depth:
            def __call__(self, network, images, labels):
                return np.float32(7)

        assert Scorer(self.space, data, Depth()).score(arch) == 7
        assert Proxy(Depth()).metric_name == "Depth"

    @pytest.mark.parametrize("value", [None, "3", [1.0], torch.ones(2), np.ones(2), 1j])
    def test_a_function_that_returns_no_number(self, data, arch, value):
        def own(network, images, labels):
            return value

        with pytest.raises(InvalidArgument, match=r"own returned .* must return one number"):
            Scorer(self.space, data, own).score(arch)

    def test_nan_cannot_be_ranked(self, data, arch):
        assert Scorer(self.space, data, lambda *_: math.nan).score(arch) == -math.inf

    @pytest.mark.parametrize("proxy", [None, 3, nn.ReLU, ["naswot"]])
    def test_what_is_neither_a_name_nor_a_function(self, proxy):
        with pytest.raises(InvalidArgument, match="neither a proxy's name nor a function"):
            Proxy(proxy)

    def test_names_that_are_taken(self):
        def naswot(network, images, labels):
            return 0.0

        def val_accuracy(network, images, labels):
            return 0.0

        for own in (naswot, val_accuracy):
            with pytest.raises(InvalidArgument, match=f"{own.__name__!r}.*another name"):
                Proxy(own)
        assert Proxy(PROXIES["params"]).metric_name == "params"  # it is the one of that name

    def test_what_a_network_raises_goes_through(self, data, arch):
        class Broken(type(self.space)):
            def build(self, arch, input_shape=(3, 32, 32), num_classes=10):
                raise MemoryError("too large")

        with pytest.raises(MemoryError, match="too large"):
            Scorer(Broken(), data).score(arch)
