"""Supernets: one path, a mixture, many children at once."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

import search_spaces
from raynas.errors import InvalidArchitecture, InvalidArgument
from raynas.testing import SupernetSuite
from search_spaces import (
    InputChoice,
    IntegerChoice,
    LayerChoice,
    UserSpace,
    WeightSharingSpace,
    from_module,
)
from search_spaces.weight_sharing.graph_supernet import GraphSupernet
from search_spaces.weight_sharing.shared_norm import Normalization
from search_spaces.weight_sharing.space import NAMES, sharing
from search_spaces.weight_sharing.supernet import Path
from trials.weight_sharing import evaluation as many_children
from trials.weight_sharing.evaluation import evaluate_children
from trials.weight_sharing.images import Images

SHAPE = (3, 8, 8)


class Branches(nn.Module):
    """A user's network with all three kinds of choice."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        width = IntegerChoice("width", (4, 6))
        self.stem = nn.Conv2d(input_shape[0], width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.left = LayerChoice(
            "left",
            {
                "3": lambda: nn.Sequential(
                    nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
                ),
                "1": lambda: nn.Conv2d(width, width, 1),
                "skip": nn.Identity,
            },
        )  # fmt: skip
        self.right = nn.Conv2d(width, width, 1)
        self.join = InputChoice("join", inputs=3, take=2)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = self.join(x, self.left(x), self.right(x))
        return self.classifier(x.mean((2, 3)))


SPACES = {
    name.partition(":")[0] + str(i): search_spaces.get(name)
    for i, name in enumerate(
        [
            "nasbench201:channels=4,cells=2",
            "nasbench_macro:channels=4,head_channels=8",
            "micro64:channels=4,cells=2",
            "micro64:channels=4,cells=2,reading=paper",
            "darts:channels=2,cells=4",
            "darts:channels=2,cells=3,none=true,replacement=true",
            "darts:channels=2,cells=3,stem=imagenet",
            "pnas:channels=2,cells=3",
        ]
    )
}
SPACES["user"] = from_module("branches", Branches)


def archs_of(space, count, seed=0):
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def batch(images=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, *SHAPE, generator=generator)


def used_by(module, function):
    """The layers with weights that a function uses, in order, and what it gives."""
    used = []
    hooks = [
        layer.register_forward_hook(lambda layer, *_: used.append(layer))
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    result = function()
    for hook in hooks:
        hook.remove()
    return used, result


class TestSupernets(SupernetSuite):
    @pytest.fixture(params=SPACES)
    def space(self, request):
        return SPACES[request.param]

    @pytest.fixture(autouse=True)
    def mixes_where_it_can(self, space, monkeypatch):
        monkeypatch.setattr(type(self), "mixes", space is not SPACES["user"])


def test_a_mixture_has_the_right_gradients_for_its_weights():
    torch.manual_seed(0)
    supernet = SPACES["darts4"].supernet(SHAPE, 5).double()
    mixture = [
        torch.full((len(slot.choices),), 1 / 7, dtype=torch.double, requires_grad=True)
        for slot in supernet.slots
    ]
    x = batch().double()
    target = torch.arange(6) % 5

    def loss():
        return functional.cross_entropy(supernet(x, mixture), target)

    loss().backward()
    assert len(mixture) == 28
    for slot, choice in [(0, 0), (5, 3), (13, 6), (14, 2), (27, 5)]:
        weights, step = mixture[slot], 1e-6
        with torch.no_grad():
            weights[choice] += step
            above = loss()
            weights[choice] -= 2 * step
            slope = (above - loss()) / (2 * step)
            weights[choice] += step
        assert abs(slope) > 1e-6
        torch.testing.assert_close(weights.grad[choice], slope, rtol=1e-3, atol=1e-8)


def test_a_users_blocks_mix_where_no_integer_is_to_be_chosen():
    class Net(nn.Sequential):
        def __init__(self, input_shape, num_classes):
            super().__init__(
                nn.Conv2d(input_shape[0], 4, 3),
                LayerChoice("a", {"relu": nn.ReLU, "tanh": nn.Tanh}),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes),
            )  # fmt: skip

    supernet = from_module("net", Net).supernet(SHAPE, 5)
    one, other = (supernet(batch(), arch) for arch in supernet.space)
    half = supernet(batch(), [torch.tensor([0.5, 0.5])])
    torch.testing.assert_close(half, (one + other) / 2)
    wide = SPACES["user"].supernet(SHAPE, 5)
    ones = [torch.ones(len(slot.choices)) for slot in wide.slots]
    with pytest.raises(InvalidArgument, match="width cannot be mixed"):
        wide(batch(), ones)


def test_what_users_do_with_blocks():
    """Copies of a block, one norm in two places, norms of vectors, layers without shapes yet."""

    class Net(nn.Module):
        def __init__(self, input_shape, num_classes):
            super().__init__()
            block = LayerChoice("a", {"relu": nn.ReLU, "neg": lambda: Negative()})
            norm = nn.BatchNorm1d(6)
            nn.init.constant_(norm.weight, 3.0)
            self.first = nn.LazyLinear(6)
            self.layers = nn.Sequential(norm, block, copy.deepcopy(block), norm)
            self.last = nn.Linear(6, num_classes)

        def forward(self, x):
            return self.last(self.layers(self.first(x.flatten(1))))

    class Negative(nn.Module):
        def forward(self, x):
            return -x

    space = from_module("net", Net)
    supernet = space.supernet(SHAPE, 5).eval()
    supernet.normalization.statistics = "batch"
    (network,) = supernet.networks
    assert network.layers[0] is network.layers[3]
    relu, negative = (space.from_string(f"a={name}") for name in ("relu", "neg"))
    x = batch()

    def by_hand(function):
        y = network.first(x.flatten(1))
        y = 3 * functional.batch_norm(y, None, None, training=True)
        y = function(function(y))
        return network.last(3 * functional.batch_norm(y, None, None, training=True))

    torch.testing.assert_close(supernet(x, relu), by_hand(torch.relu))
    torch.testing.assert_close(supernet(x, negative), by_hand(torch.neg))
    mixture = torch.tensor([0.5, 0.5], requires_grad=True)
    supernet(x, [mixture]).square().sum().backward()
    assert mixture.grad.ne(0).all()
    assert copy.deepcopy(supernet)(x, relu).shape == (6, 5)


def test_statistics_of_a_batch_have_gradients():
    """Those of training, which come through mean and variance too, for every weight of a path."""
    space = SPACES["nasbench2010"]
    torch.manual_seed(0)
    supernet = space.supernet(SHAPE, 5).double()
    arch = space.architecture([3, 3, 3, 3, 3, 3])

    def gradients():
        supernet.zero_grad()
        logits = supernet(batch().double(), arch)
        functional.cross_entropy(logits, torch.arange(6) % 5).backward()
        return {n: p.grad.clone() for n, p in supernet.named_parameters() if p.grad is not None}

    trained = gradients()
    supernet.eval()
    supernet.normalization.statistics = "batch"
    evaluated = gradients()
    assert len(trained) > 6 * 6
    assert evaluated.keys() == trained.keys()
    for name, gradient in trained.items():
        torch.testing.assert_close(evaluated[name], gradient)


def test_published_cells_that_the_decisions_cannot_express_have_no_weights():
    space = search_spaces.get("darts:channels=2,cells=3")
    supernet = space.supernet(SHAPE, 5)
    with pytest.raises(InvalidArchitecture, match="has no weights for it"):
        supernet(batch(), space.genotype("ENAS"))
    supernet(batch(), space.genotype("DARTS_V2"))


def test_spaces_that_cannot_share_say_so():
    spaces = [search_spaces.get(name) for name in search_spaces.names()]
    can = [space.name for space in spaces if isinstance(space, WeightSharingSpace)]
    assert can == list(NAMES) == ["nasbench201", "nasbench_macro", "micro64", "darts", "pnas"]
    for space in spaces:
        if space.name in can:
            assert sharing(space) is space
            continue
        with pytest.raises(InvalidArgument, match=f"'{space.name}' has no supernet") as error:
            sharing(space)
        assert f"one of the spaces {', '.join(can)}, or a network" in str(error.value)


def test_a_users_space_shares_where_it_says_so():
    def build(config, input_shape, num_classes):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    class Mine(UserSpace, WeightSharingSpace):
        def supernet(self, input_shape=(3, 32, 32), num_classes=10, affine=False):
            return GraphSupernet(self, self.decisions, affine)

    with pytest.raises(InvalidArgument, match="'mine' has no supernet"):
        sharing(UserSpace("mine", {"a": (1, 2)}, build))
    supernet = sharing(Mine("mine", {"a": (1, 2)}, build)).differentiable_supernet()
    assert supernet.slots[0].name == "a"


class TestSearchNetworkOfDARTS:
    """`differentiable_supernet` of cells; papers.md, sections 4.4 and 8."""

    @staticmethod
    def parameters(module):
        return sum(p.numel() for p in module.parameters())

    @staticmethod
    def by_formula(space, classes):
        """Parameters by the description of the operations, for 3 x channels in the stem."""
        c, total = space.channels, 0
        before = last = 3 * c
        total += 3 * 9 * last + 2 * last  # the stem, whose normalization has scale and shift
        separable = {"sep_conv_3x3": 2 * 9, "sep_conv_5x5": 2 * 25, "sep_conv_7x7": 2 * 49}
        dilated = {"dil_conv_3x3": 9, "dil_conv_5x5": 25}
        factorized = {"conv_7x1_1x7": 14}
        for k in range(space.cells):
            reduction = k in (space.cells // 3, 2 * space.cells // 3)
            c = 2 * c if reduction else c
            total += before * c + last * c
            for node in range(2, 2 + space.nodes):
                for source in range(node):
                    for name in space.choices:
                        if name in separable:
                            total += separable[name] * c + 2 * c * c
                        elif name in dilated:
                            total += dilated[name] * c + c * c
                        elif name in factorized:
                            total += factorized[name] * c * c
                        elif name == "skip_connect" and reduction and source < 2:
                            total += c * c
            before, last = last, space.nodes * c
        return total + last * classes + classes

    def test_parameters_are_those_of_its_code(self):
        """1.930618 M, as its `train_search.py` logs for 16 channels and 8 cells."""
        space = search_spaces.get("darts:channels=16,cells=8")
        assert self.parameters(space.differentiable_supernet()) == 1_930_618
        assert self.by_formula(space, 10) == 1_930_618

    @pytest.mark.parametrize("text", ["darts:channels=4,cells=6", "pnas:channels=4,cells=5"])
    def test_parameters_by_the_formula(self, text):
        space = search_spaces.get(text)
        assert self.parameters(space.differentiable_supernet(num_classes=7)) == self.by_formula(
            space, 7
        )

    def test_the_one_of_one_shot_evaluation_scales_what_every_path_has(self):
        space = search_spaces.get("darts:channels=16,cells=8")
        scales = 2 * 2 * (16 * 2 + 32 * 3 + 64 * 3)  # two inputs of every cell
        assert self.parameters(space.supernet()) == 1_930_618 + scales
        assert {len(slot.choices) for slot in space.supernet().slots} == {7}

    @pytest.mark.parametrize("options", ["", ",none=true", ",none=true,replacement=true"])
    def test_none_is_one_of_eight_choices(self, options):
        space = search_spaces.get(f"darts:channels=2,cells=3{options}")
        supernet = space.differentiable_supernet(SHAPE, 5).eval()
        assert len(supernet.slots) == 28
        assert {slot.choices for slot in supernet.slots} == {(*space.operations, "none")}
        nothing = [torch.eye(8)[7] for _ in supernet.slots]
        logits = supernet(batch(), nothing)
        bias = list(supernet.parameters())[-1]
        torch.testing.assert_close(logits, bias.expand_as(logits))
        mixture = [torch.full((8,), 1 / 8, requires_grad=True) for _ in supernet.slots]
        supernet(batch(), mixture).sum().backward()
        assert all(weights.grad[7] == 0 for weights in mixture)
        assert all(weights.grad[:7].any() for weights in mixture)

    def test_poolings_are_normalized_and_nothing_is_scaled_but_the_stem(self):
        supernet = SPACES["darts4"].differentiable_supernet(SHAPE, 5)
        norms = [m for m in supernet.modules() if isinstance(m, _BatchNorm)]
        assert [norm.affine for norm in norms] == [True, *[False] * (len(norms) - 1)]
        pools = [m for m in supernet.operations.values() if is_pool(next(m.children()))]
        assert len(pools) == 4 * 14 * 2  # cells, edges, kinds
        assert all(isinstance(pool[1], _BatchNorm) for pool in pools)

    def test_an_architecture_is_a_path_of_it(self):
        space = SPACES["darts4"]
        supernet = space.differentiable_supernet(SHAPE, 5).eval()
        for arch in archs_of(space, 3):
            mixture = [torch.zeros(8) for _ in supernet.slots]
            for weights, taken in zip(mixture, supernet.selection(arch), strict=True):
                weights[list(taken)] = 1
            with torch.no_grad():
                torch.testing.assert_close(
                    supernet(batch(), mixture), supernet(batch(), arch), rtol=1e-3, atol=1e-4
                )


def is_pool(module):
    return isinstance(module, nn.MaxPool2d | nn.AvgPool2d)


def test_too_many_integers_are_refused():
    class Net(nn.Sequential):
        def __init__(self, input_shape, num_classes):
            for name in "abcd":
                IntegerChoice(name, (1, 2, 3))
            super().__init__(LayerChoice("l", {"x": nn.ReLU, "y": nn.ReLU}), nn.Flatten())

    with pytest.raises(InvalidArgument, match="81 combinations"):
        from_module("net", Net).supernet(SHAPE, 5)


def test_a_child_without_a_path_gives_the_same_logits_for_every_image():
    space = SPACES["nasbench2010"]
    dead = space.from_string("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    supernet = space.supernet(SHAPE, 5).eval()
    supernet.normalization.statistics = "batch"
    with torch.no_grad():
        logits = supernet(batch(), dead)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits, logits[:1].expand_as(logits))


def test_layers_of_two_cells():
    supernet = SPACES["micro642"].supernet(SHAPE, 5)
    assert supernet.layers == 2
    behind = [p for module in supernet.modules_after(2) for p in module.parameters()]
    assert len(behind) == 2  # the classifier's weight and bias


def test_a_path_is_a_module():
    space = SPACES["micro642"]
    supernet = space.supernet(SHAPE, 5)
    arch = next(iter(space))
    torch.testing.assert_close(Path(supernet, arch)(batch()), supernet(batch(), arch))


class TestManyChildren:
    @pytest.fixture(params=["batch", "recomputed", "running"])
    def statistics(self, request):
        return request.param

    def images(self, batches=2, size=10):
        labels = torch.arange(size) % 5
        return Images([(batch(size, i), labels) for i in range(batches)], batch(7, 99))

    @pytest.mark.parametrize("name", SPACES)
    def test_all_ways_give_the_same(self, name):
        self.check_ways(SPACES[name], "batch")

    def test_all_ways_give_the_same_with_all_statistics(self, statistics):
        self.check_ways(SPACES["nasbench2010"], statistics)

    def check_ways(self, space, statistics):
        torch.manual_seed(0)
        supernet = space.supernet(SHAPE, 5)
        archs = archs_of(space, 8)
        archs += archs[:3]
        expected = evaluate_children(supernet, archs, self.images(), statistics, "one by one")
        for way in ("tree", "grouped", None):
            found = evaluate_children(supernet, archs, self.images(), statistics, way)
            np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-5)
            assert found[:3] == found[-3:]

    @pytest.mark.parametrize("way", ["tree", "grouped"])
    def test_little_memory_only_divides_the_work(self, way):
        space = SPACES["nasbench_macro1"]
        supernet = space.supernet(SHAPE, 5)
        archs = archs_of(space, 20)
        plenty = evaluate_children(supernet, archs, self.images(), "batch", way)
        little = evaluate_children(supernet, archs, self.images(), "batch", way, memory=1)
        np.testing.assert_allclose(little, plenty, atol=1e-6, rtol=1e-5)

    def test_what_agrees_is_computed_once(self):
        space = SPACES["nasbench_macro1"]
        supernet = space.supernet(SHAPE, 5)
        archs = [space.from_string(f"1212120{last}") for last in range(3)]

        def calls(way):
            images = self.images(batches=1)
            judge = lambda: evaluate_children(supernet, archs, images, "batch", way)  # noqa: E731
            return len(used_by(supernet, judge)[0])

        supernet.eval()
        all_once = [torch.ones(3) for _ in supernet.slots]
        measured = len(used_by(supernet, lambda: supernet.mixed_plain(batch(1), all_once))[0])
        one = len(used_by(supernet, lambda: supernet(batch(1), archs[0]))[0])
        assert calls("one by one") >= 3 * one
        assert calls("tree") - measured < 2 * one
        assert calls("grouped") < calls("tree")

    def test_statistics_are_each_childs_own(self):
        """A child's value does not depend on which others are judged with it."""
        space = SPACES["nasbench2010"]
        supernet = space.supernet(SHAPE, 5)
        archs = archs_of(space, 10)
        for way in ("tree", "grouped"):
            together = evaluate_children(supernet, archs, self.images(), "batch", way)
            some = evaluate_children(supernet, archs[4:6], self.images(), "batch", way)
            np.testing.assert_allclose(some, together[4:6], atol=1e-6)

    def test_statistics_recomputed_from_the_images_themselves_are_those_of_the_batch(self):
        space = SPACES["nasbench2010"]
        supernet = space.supernet(SHAPE, 5)
        x, labels = batch(10), torch.arange(10) % 5
        archs = archs_of(space, 4)
        own = evaluate_children(supernet, archs, Images([(x, labels)], x), "recomputed")
        of_batch = evaluate_children(supernet, archs, Images([(x, labels)]), "batch")
        np.testing.assert_allclose(own, of_batch, atol=1e-5)

    def test_an_error_leaves_no_trace(self, monkeypatch):
        space = SPACES["nasbench2010"]
        supernet = space.supernet(SHAPE, 5)
        archs = archs_of(space, 6)
        expected = evaluate_children(supernet, archs, self.images())
        with monkeypatch.context() as patched:
            patched.setattr(many_children, "_judged", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                evaluate_children(supernet, archs, self.images(), "running", "grouped")
        assert supernet.normalization == Normalization()
        assert evaluate_children(supernet, archs, self.images()) == expected
        with pytest.raises(InvalidArgument, match="calibration"):
            evaluate_children(supernet, archs, Images(self.images().batches), "recomputed")

    def test_the_mode_is_as_before_afterwards(self, statistics):
        supernet = SPACES["micro642"].supernet(SHAPE, 5)
        before = supernet.normalization.statistics
        evaluate_children(supernet, archs_of(SPACES["micro642"], 2), self.images(), statistics)
        mode = supernet.normalization
        assert (mode.statistics, mode.calibration, mode.children) == (before, 0, 1)
