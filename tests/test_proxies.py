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
from trials.proxies import PROXIES, naswot
from trials.proxies.scoring import Scorer

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

    @pytest.mark.parametrize("name", ["snip", "grad_norm", "fisher", "zico", "synflow"])
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
        for name in set(PROXIES) - {"params"}:
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


@pytest.mark.parametrize("name", PROXIES)
class TestProxies(ProxySuite):
    @pytest.fixture
    def proxy(self, name):
        return PROXIES[name]


def test_names():
    modules = {name for name in proxies.__all__ if name.islower()}
    assert modules | {"params", "macs"} == set(PROXIES)
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

    def test_what_a_network_raises_goes_through(self, data, arch):
        class Broken(type(self.space)):
            def build(self, arch, input_shape=(3, 32, 32), num_classes=10):
                raise MemoryError("too large")

        with pytest.raises(MemoryError, match="too large"):
            Scorer(Broken(), data).score(arch)
