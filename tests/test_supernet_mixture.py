"""Mixtures of a supernet: the architecture derived, shared work, one sampled choice, memory."""

import collections
import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import search_spaces
from raynas.errors import InvalidArgument
from search_spaces import (
    InputChoice,
    IntegerChoice,
    LayerChoice,
    UserSpace,
    WeightSharingSpace,
    from_module,
)
from search_spaces.cells.supernet import SharingCellSpace
from search_spaces.modules import GlobalPoolClassifier
from search_spaces.nasbench201 import OPERATIONS
from search_spaces.weight_sharing import mixture as mixture_module
from search_spaces.weight_sharing.graph_supernet import GraphSupernet
from search_spaces.weight_sharing.shared_norm import SharedNorm

SHAPE = (3, 8, 8)


class Blocks(nn.Module):
    """A user's network with layers and inputs to choose, and a size of which there is only one."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        width = IntegerChoice("width", (4,))
        self.stem = nn.Conv2d(input_shape[0], width, 3, padding=1)
        self.layer = LayerChoice(
            "layer",
            {
                "conv": lambda: nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)),
                "skip": nn.Identity,
                "tanh": nn.Tanh,
            },
        )
        self.join = InputChoice("join", inputs=3, take=2)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.stem(x)
        y = self.layer(x)
        return self.classifier(self.join(x, y, y.relu()).mean((2, 3)))


SPACES = {
    "nasbench201": search_spaces.get("nasbench201:channels=4,cells=1"),
    "nasbench_macro": search_spaces.get("nasbench_macro:channels=4,head_channels=8"),
    "micro64": search_spaces.get("micro64:channels=4,cells=2"),
    "darts": search_spaces.get("darts:channels=2,cells=3"),
    "darts_replacement": search_spaces.get("darts:channels=2,cells=3,none=true,replacement=true"),
    "darts_none": search_spaces.get("darts:channels=2,cells=3,none=true"),
    "pnas": search_spaces.get("pnas:channels=2,cells=3"),
    "user": from_module("blocks", Blocks),
}
SUPERNETS = {
    (name, kind): getattr(space, kind)(SHAPE, 5)
    for name, space in SPACES.items()
    for kind in ("supernet", "differentiable_supernet")
}


def one_hot(supernet, arch):
    """The mixture in which an architecture's choices weigh 1 and the others nothing."""
    if hasattr(supernet, "selection"):
        taken = supernet.selection(arch)
    else:
        config = supernet.space.to_config(arch)
        taken = [(slot.choices.index(config[slot.name]),) for slot in supernet.slots]
    mixture = [torch.zeros(len(slot.choices)) for slot in supernet.slots]
    for weights, choices in zip(mixture, taken, strict=True):
        weights[list(choices)] = 1
    return mixture


def derivable(arch, space):
    """Whether cells have two different edges at every node, and "none" on no one."""
    if not hasattr(space, "to_genotype"):
        return True
    genotype = space.to_genotype(arch)
    for cell in (genotype.normal, genotype.reduction):
        pairs = zip(cell.edges[::2], cell.edges[1::2], strict=True)
        if any(a == b or "none" in (a[0], b[0]) for a, b in pairs):
            return False
    return True


class TestDerive:
    @pytest.mark.parametrize("key", SUPERNETS, ids="-".join)
    @given(seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=15, deadline=None)
    def test_it_is_the_inverse_of_a_path(self, key, seed):
        supernet, space = SUPERNETS[key], SPACES[key[0]]
        rng = np.random.default_rng(seed)
        arch = next(a for a in (space.sample(rng) for _ in range(10_000)) if derivable(a, space))
        noise = [
            weights + 0.4 * torch.tensor(rng.random(len(weights)), dtype=torch.float32)
            for weights in one_hot(supernet, arch)
        ]
        for mixture in (one_hot(supernet, arch), noise):
            assert space.canonical(supernet.derive(mixture)) == space.canonical(arch)

    @pytest.mark.parametrize("key", SUPERNETS, ids="-".join)
    def test_of_equal_weights_it_takes_the_first(self, key):
        supernet, space = SUPERNETS[key], SPACES[key[0]]
        mixture = [torch.full((len(slot.choices),), 0.125) for slot in supernet.slots]
        arch = supernet.derive(mixture)
        if key[0] in ("darts", "darts_none"):
            first = space.operations[0]
            expected = [(first, 0), (first, 1)] * space.nodes
            assert list(space.to_genotype(arch).normal.edges) == expected
        elif hasattr(space, "to_genotype"):  # both on one edge
            expected = [(name, 0) for name in space.operations[:2]] * space.nodes
            assert list(space.to_genotype(arch).reduction.edges) == expected
        else:
            assert arch.choices == (0,) * len(space.decisions)

    def test_darts_takes_the_two_strongest_edges_and_no_none(self):
        """By hand: node 3 reads 0, 1 and 2, and what "none" weighs does not matter."""
        supernet, space = SUPERNETS["darts", "differentiable_supernet"], SPACES["darts"]
        mixture = [torch.full((8,), 0.01) for _ in supernet.slots]
        names = [slot.name for slot in supernet.slots]
        for source, choice, weight in [(0, 3, 0.3), (1, 6, 0.2), (1, 7, 0.9), (2, 2, 0.25)]:
            mixture[names.index(f"normal_{source}_3")][choice] = weight
        mixture[names.index("normal_2_3")][1] = 0.24
        edges = space.to_genotype(supernet.derive(mixture)).normal.edges
        assert edges[2:4] == (("sep_conv_3x3", 0), ("skip_connect", 2))

    def test_a_node_that_may_read_another_twice_takes_two_operations_of_one_edge(self):
        supernet, space = SUPERNETS["pnas", "supernet"], SPACES["pnas"]
        mixture = [torch.full((len(slot.choices),), 0.01) for slot in supernet.slots]
        mixture[0][[2, 5]] = torch.tensor([0.4, 0.5])
        mixture[1][0] = 0.3
        edges = space.to_genotype(supernet.derive(mixture)).normal.edges
        assert set(edges[:2]) == {("avg_pool_3x3", 0), ("sep_conv_7x7", 0)}

    def test_none_can_be_derived_where_it_is_a_choice_of_the_edge(self):
        supernet, space = SUPERNETS["nasbench201", "supernet"], SPACES["nasbench201"]
        mixture = [torch.tensor([0.3, 0.2, 0.2, 0.2, 0.1]) for _ in supernet.slots]
        assert space.to_string(supernet.derive(mixture)).count("none") == 6

    def test_what_does_not_fit_is_refused_as_in_forward(self):
        for supernet in SUPERNETS.values():
            with pytest.raises(InvalidArgument, match="mixture: weights of shapes"):
                supernet.derive([torch.ones(1)])

        class Wide(nn.Sequential):
            def __init__(self, input_shape, num_classes):
                width = IntegerChoice("width", (2, 4))
                layer = LayerChoice("layer", {"relu": nn.ReLU, "tanh": nn.Tanh})
                super().__init__(nn.Flatten(), nn.LazyLinear(width), layer)

        supernet = from_module("wide", Wide).supernet(SHAPE, 5)
        with pytest.raises(InvalidArgument, match="width cannot be mixed"):
            supernet.derive([torch.ones(2)])


def random_mixture(supernet, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(len(slot.choices), generator=generator).to(dtype).softmax(0).requires_grad_()
        for slot in supernet.slots
    ]


def step(function, supernet, mixture, shape=SHAPE):
    """Logits of a batch, all gradients, and the state afterwards."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, *shape, generator=generator, dtype=mixture[0].dtype)
    supernet.zero_grad()
    mixture = [weights.detach().clone().requires_grad_() for weights in mixture]
    logits = function(x, mixture)
    functional.cross_entropy(logits, torch.arange(4)).backward()
    gradients = [p.grad for p in [*mixture, *supernet.parameters()]]
    return [logits.detach(), *gradients, *(b.clone() for b in supernet.buffers())]


def made(name, kind="differentiable_supernet", shape=SHAPE, **options):
    torch.manual_seed(0)
    return getattr(SPACES[name], kind)(shape, 5, **options)


GRAPHS = [name for name in SPACES if name != "user"]
#: up to how many numbers of a value a CPU stacks choices: none, all
WAYS = {"one by one": 0, "stacked": 1 << 40}


class TestSharedWork:
    @pytest.fixture(params=WAYS)
    def way(self, request, monkeypatch):
        monkeypatch.setattr(mixture_module, "_SMALL", WAYS[request.param])

    def check(self, supernet, shape=SHAPE):
        supernet.double()
        again = copy.deepcopy(supernet)
        mixture = random_mixture(supernet, dtype=torch.double)
        for training in (True, False):
            found = step(supernet.train(training).mixed, supernet, mixture, shape)
            expected = step(again.train(training).mixed_plain, again, mixture, shape)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert found[0].std() > 0.01  # the images and the classes differ

    @pytest.mark.parametrize("name", ["nasbench201", "nasbench_macro", "micro64", "darts"])
    @pytest.mark.parametrize("affine", [False, True])
    @pytest.mark.usefixtures("way")
    def test_it_is_the_plain_sum(self, name, affine):
        """Logits, gradients and running statistics."""
        self.check(made(name, "supernet", affine=affine))

    @pytest.mark.parametrize(("name", "size"), [("darts", 8), ("darts", 9), ("pnas", 8)])
    @pytest.mark.usefixtures("way")
    def test_it_is_the_plain_sum_in_the_search_network(self, name, size):
        shape = (3, size, size)
        supernet = made(name, shape=shape)
        self.check(supernet.to(memory_format=torch.channels_last) if size == 8 else supernet, shape)

    @pytest.mark.parametrize("way", WAYS, indirect=True)
    def test_it_is_the_plain_sum_in_single_precision(self, way):
        supernet = made("darts")
        again, mixture = copy.deepcopy(supernet), random_mixture(supernet)
        found = step(supernet.mixed, supernet, mixture)
        for a, b in zip(found, step(again.mixed_plain, again, mixture), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)

    def test_of_what_it_knows_nothing_it_runs_the_module(self):
        """Layers of a user's, in place, with a bias or statistics of another kind."""

        class Doubled(nn.Module):
            def forward(self, x):
                return 2 * x

        class Mine(UserSpace, WeightSharingSpace):
            def supernet(self, input_shape=SHAPE, num_classes=5, affine=False):
                net = GraphSupernet(self, self.decisions, affine)
                x = net.fixed(nn.Conv2d(3, 4, 1), net.images)
                choices = [
                    nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)),
                    nn.Sequential(nn.ReLU(), Doubled(), nn.BatchNorm2d(4, momentum=None)),
                    nn.Conv2d(4, 4, 3, padding="same", bias=False),
                    nn.ReLU(),
                    nn.Identity(),
                ]
                edges = [net.choose(i, copy.deepcopy(choices), x) for i in range(2)]
                net.fixed(GlobalPoolClassifier(4, num_classes), net.joined(edges))
                return net

        space = Mine("mine", {"a": tuple("12345"), "b": tuple("12345")}, lambda *_: None)
        self.check(space.supernet())

    def test_what_edges_have_in_common_is_computed_once(self):
        supernet = made("darts")
        mixture, x = random_mixture(supernet), torch.randn(2, *SHAPE)
        with Counter() as plain:
            supernet.mixed_plain(x, mixture)
        with Counter() as shared:
            supernet.mixed(x, mixture)
        cells, edges, sources = 3, 14, 5
        for pool in ("max_pool2d_with_indices", "avg_pool2d"):
            assert plain.calls[pool] == cells * edges
            assert shared.calls[pool] == cells * sources
        assert shared.calls["convolution"] < plain.calls["convolution"] / 2  # they are stacked
        assert shared.calls["relu"] < plain.calls["relu"] / 2

    def test_batches_that_only_look_leave_no_statistics(self):
        for supernet in (made("darts"), made("user")):
            before = copy.deepcopy(supernet.state_dict())
            with supernet.normalization.set(tracking=False):
                silent = step(supernet.mixed, supernet, random_mixture(supernet))
            assert_equal(before.values(), supernet.state_dict().values())
            heard = step(supernet.mixed, supernet, random_mixture(supernet))
            gradients = len(list(supernet.parameters())) + len(supernet.slots) + 1
            assert_equal(silent[:gradients], heard[:gradients])
            assert not all(map(torch.equal, before.values(), supernet.state_dict().values()))


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


class Counter(TorchDispatchMode):
    """How often each operation of PyTorch runs."""

    def __init__(self):
        super().__init__()
        self.calls = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


class TestSampled:
    def test_by_hand(self):
        """GDAS's sum(w_i * op_i(x) if i == index else w_i), and its gradients."""

        class Mine(UserSpace, WeightSharingSpace):
            def supernet(self, input_shape=SHAPE, num_classes=5, affine=False):
                net = GraphSupernet(self, self.decisions, affine)
                net.choose(0, [nn.Hardtanh(), None, nn.Identity()], net.images, stride=1)
                return net

        supernet = Mine("mine", {"a": tuple("123")}, lambda *_: None).supernet()
        x = torch.randn(2, *SHAPE)
        values = [x.clamp(-1, 1), torch.zeros_like(x), x]
        for choice in range(3):
            weights = torch.tensor([0.5, 0.2, 0.3], requires_grad=True)
            found = supernet.sampled(x, [weights], [choice])
            others = sum(weights[j] for j in range(3) if j != choice)
            torch.testing.assert_close(found, weights[choice] * values[choice] + others)
            slopes = torch.randn_like(found)
            found.backward(slopes)
            expected = torch.full((3,), float(slopes.sum()))
            expected[choice] = (slopes * values[choice]).sum()
            torch.testing.assert_close(weights.grad, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("name", SPACES)
    def test_a_sampled_architecture_is_its_path(self, name):
        """Of one-hot weights; and no other module runs."""
        supernet, space = SUPERNETS[name, "supernet"], SPACES[name]
        rng, x = np.random.default_rng(0), torch.randn(3, *SHAPE)
        if name in ("darts", "darts_none", "darts_replacement", "pnas"):
            choices = [int(rng.integers(len(slot.choices))) for slot in supernet.slots]
        else:
            arch = space.sample(rng)
            if name == "nasbench201":
                arch = space.from_string(
                    "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|avg_pool_3x3~0|skip_connect~1|skip_connect~2|"
                )
            config = space.to_config(arch)
            choices = [slot.choices.index(config[slot.name]) for slot in supernet.slots]
        mixture = [
            torch.eye(len(s.choices))[c] for s, c in zip(supernet.slots, choices, strict=True)
        ]
        mixture = [weights.requires_grad_() for weights in mixture]
        ran = []
        hooks = [
            module.register_forward_hook(lambda module, *_: ran.append(module))
            for module in supernet.modules()
            if isinstance(module, nn.Conv2d)
        ]
        logits = supernet.sampled(x, mixture, choices)
        sampled, ran[:] = list(ran), []
        logits.sum().backward()
        assert all(weights.grad is not None for weights in mixture)
        if isinstance(space, SharingCellSpace):
            plain = copy.deepcopy(supernet).mixed_plain(x, mixture)
            torch.testing.assert_close(logits, plain)
            every = [m for m in supernet.modules() if isinstance(m, nn.Conv2d)]
            assert len(set(map(id, sampled))) == len(sampled) < len(every) / 3
        else:
            torch.testing.assert_close(logits, supernet(x, arch))
            assert {id(m) for m in ran} == {id(m) for m in sampled}
        for hook in hooks:
            hook.remove()

    def test_none_everywhere_has_the_right_shapes(self):
        for name in ("darts", "nasbench201"):
            supernet = made(name)
            choices = [slot.choices.index("none") for slot in supernet.slots]
            mixture = random_mixture(supernet)
            logits = supernet.sampled(torch.randn(2, *SHAPE), mixture, choices)
            assert logits.shape == (2, 5)
            logits.sum().backward()
            for weights, choice in zip(mixture, choices, strict=True):
                assert weights.grad[choice] == 0  # of zeros; the others add a constant

    def test_what_does_not_fit_is_refused(self):
        supernet = made("micro64")
        x, mixture = torch.randn(2, *SHAPE), random_mixture(supernet)
        for choices in ([0, 0], [0, 0, 4], [-1, 0, 0]):
            with pytest.raises(InvalidArgument, match=r"give one index for each of the 3 slots"):
                supernet.sampled(x, mixture, choices)
        with pytest.raises(InvalidArgument, match="mixture: weights of shapes"):
            supernet.sampled(x, mixture[:2], [0, 0, 0])


class TestCheckpoint:
    @pytest.mark.parametrize("name", SPACES)
    def test_it_changes_no_bit(self, name):
        """Logits, gradients, running statistics; of a mixture and of what is sampled."""
        first = [0] * len(SUPERNETS[name, "differentiable_supernet"].slots)
        for kind in ("mixed", "sampled"):
            results = []
            for checkpoint in (False, True):
                supernet = made(name)
                supernet.checkpoint = checkpoint
                function = supernet.mixed
                if kind == "sampled":
                    function = functools.partial(sampled_of, supernet, first)
                results.append(step(function, supernet, random_mixture(supernet)))
            assert_equal(*results)

    def test_memory(self):
        """A training step of the search network of DARTS: at least 40 % less at its peak."""
        shape = (3, 16, 16)
        space = search_spaces.get("darts:channels=4,cells=5")
        supernet = space.differentiable_supernet(shape, 5)
        mixture = random_mixture(supernet)
        for function in (supernet.mixed, supernet.mixed_plain):
            peaks = []
            for checkpoint in (False, True):
                supernet.checkpoint = checkpoint
                step(function, supernet, mixture, shape)  # gradients are there
                peaks.append(peak_memory(lambda: step(function, supernet, mixture, shape)))  # noqa: B023
            assert peaks[1] < 0.6 * peaks[0]

    def test_stacks_and_shared_values_take_no_more_memory(self, monkeypatch):
        shape = (3, 16, 16)
        supernet = search_spaces.get("darts:channels=4,cells=4").differentiable_supernet(shape, 5)
        mixture = random_mixture(supernet)
        plain = peak_memory(lambda: step(supernet.mixed_plain, supernet, mixture, shape))
        for small in WAYS.values():
            monkeypatch.setattr(mixture_module, "_SMALL", small)
            assert peak_memory(lambda: step(supernet.mixed, supernet, mixture, shape)) < plain


def sampled_of(supernet, choices, x, mixture):
    return supernet.sampled(x, mixture, choices)


def peak_memory(function):
    """Bytes that the allocator gave out at most at a time, beyond those at the beginning."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        function()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    assert len(sizes) > 100
    return max(itertools.accumulate(sizes))


def test_the_differentiable_form_of_nasbench201_scales_nothing_on_edges():
    """As its code of DARTS and GDAS has it: batch normalization of edges without affine."""
    supernet = made("nasbench201")
    assert {slot.choices for slot in supernet.slots} == {OPERATIONS}
    for name, module in supernet.operations.items():
        on_edge = supernet.steps[int(name.partition("_")[0]) - 1].slot is not None
        for norm in module.modules():
            if isinstance(norm, SharedNorm):
                assert norm.affine != on_edge
