"""Search spaces: the shared suite over every built-in space and over users' own."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import search_spaces
from raynas.testing import SpaceSuite
from search_spaces import (
    InputChoice,
    IntegerChoice,
    LayerChoice,
    SearchSpace,
    UserSpace,
    from_module,
)
from search_spaces.counting import Counts, count_macs, count_params
from search_spaces.errors import InvalidArchitecture, InvalidArgument, RaynasError, UnknownName

SMALL = {
    "nasbench101": "nasbench101:channels=12,modules=1",
    "nasbench101 of 4 vertices": "nasbench101:channels=12,modules=1,vertices=4,edges=4",
    "nasbench201": "nasbench201:channels=4,cells=1",
    "natsbench_size": "natsbench_size",
    "nasbench_macro": "nasbench_macro:channels=4,head_channels=8",
    "micro64": "micro64:channels=4,cells=2",
    "micro64 as in the paper": "micro64:channels=4,cells=2,reading=paper",
    "darts": "darts:channels=4,cells=3",
    "darts as in NDS": "darts:channels=4,cells=5,replacement=true,none=true",
    "darts for ImageNet": "darts:channels=4,cells=3,stem=imagenet",
    "nasnet": "nasnet:channels=4,cells=3",
    "amoebanet": "amoebanet:channels=4,cells=3",
    "pnas": "pnas:channels=4,cells=3",
    "enas": "enas:channels=4,cells=6",
    "convnet": "convnet",
    "convnet of one stage": "convnet:stages=1",
    "resnet": "resnet:stem_channels=4",
    "resnext_a": "resnext_a",
    "resnext_b": "resnext_b",
    "mobile": "mobile:width_multiplier=0.25",
    "dense": "dense:units=8",
    "convolutional": "convolutional:channels=4,units=8",
}


def test_every_space_is_among_them():
    assert {text.partition(":")[0] for text in SMALL.values()} == set(search_spaces.names())


class TestBuiltIn(SpaceSuite):
    @pytest.fixture(params=SMALL, ids=SMALL)
    def space(self, request) -> SearchSpace:
        return search_spaces.get(SMALL[request.param])


class TestDepth:
    """The layers of `dense` and `convolutional`."""

    @staticmethod
    def layers(space: str, depth: int, shape: tuple[int, int, int] = (3, 9, 7)) -> list[str]:
        """What the network is made of, with the number of outputs where that can differ."""
        found = search_spaces.get(space)
        network = found.build(found.from_string(f"depth={depth}"), shape, 5)
        sizes = [getattr(m, "out_features", getattr(m, "out_channels", "")) for m in network]
        return [f"{type(m).__name__}{size}" for m, size in zip(network, sizes, strict=True)]

    def test_dense(self):
        hidden = ["Linear32", "ReLU"]
        for depth in (0, 1, 3):
            assert self.layers("dense", depth) == ["Flatten", *hidden * depth, "Linear5"]
        assert self.layers("dense:8,2", 2)[1] == "Linear8"

    def test_convolutional(self):
        convolution, rest = ["Conv2d16", "ReLU"], ["Linear64", "ReLU", "Linear5"]
        for depth in (1, 3):
            expected = [*convolution * depth, "MaxPool2d", "Flatten", *rest]
            assert self.layers("convolutional", depth) == expected

    def test_sizes_of_the_members_of_saep(self):
        """Worked out by hand from its code, for images of CIFAR-10."""
        dense, convolutional = map(search_spaces.get, ("dense", "convolutional"))
        assert dense.params(dense.from_string("depth=0")) == 3072 * 10 + 10
        assert dense.params(dense.from_string("depth=1")) == 3072 * 32 + 32 + 32 * 10 + 10
        member = convolutional.counts(convolutional.from_string("depth=1"))
        assert member.params == 3 * 9 * 16 + 16 + 16 * 16 * 16 * 64 + 64 + 64 * 10 + 10
        assert member.macs == 3 * 9 * 16 * 32 * 32 + 16 * 16 * 16 * 64 + 64 * 10

    @pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 6), (1, 5, 1)])
    def test_images_of_one_row_or_column(self, shape):
        for space in map(search_spaces.get, ("dense", "convolutional")):
            for arch in space:
                network = space.build(arch, shape, 3)
                assert network(torch.rand(2, *shape)).shape == (2, 3)
                counted = Counts(count_params(network), count_macs(network, shape))
                assert space.counts(arch, shape, 3) == counted

    @pytest.mark.parametrize(
        ("name", "depth", "wanted"),
        [
            ("dense", "11", "an integer in 0..10"),
            ("dense", "-1", "an integer"),
            ("dense", "", "an integer"),
            ("convolutional", "0", "an integer in 1..6"),
            ("convolutional:max_depth=2", "3", "an integer in 1..2"),
        ],
    )
    def test_depths_that_the_space_lacks(self, name, depth, wanted):
        message = re.escape(f"at position 6, wanted {wanted}, found")
        with pytest.raises(InvalidArchitecture, match=message):
            search_spaces.get(name).from_string(f"depth={depth}")


def convolutions(config, input_shape, num_classes):
    channels = config["channels"]
    first = nn.Conv2d(input_shape[0], channels, config["kernel"], padding=config["kernel"] // 2)
    rest = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(first, *rest)


def is_small(config):
    return config["channels"] * config["kernel"] <= 40


class TestUserSpace(SpaceSuite):
    @pytest.fixture(params=["all", "some valid"])
    def space(self, request) -> SearchSpace:
        decisions = {"channels": (4, 8, 16), "kernel": (1, 3, 5), "name": ("a", "a,b", None)}
        valid = is_small if request.param == "some valid" else None
        return UserSpace("mine", decisions, convolutions, valid)


class Branches(nn.Module):
    """All kinds of Choice blocks: a width, a layer, two of three inputs, a repetition."""

    def __init__(self, input_shape=(3, 32, 32), num_classes=10):
        super().__init__()
        width = IntegerChoice("width", (4, 8))
        self.repeats = IntegerChoice("repeats", (1, 2))
        self.stem = nn.Conv2d(input_shape[0], width, 3, padding=1)
        self.layer = LayerChoice(
            "layer",
            {
                "conv3": lambda: nn.Conv2d(width, width, 3, padding=1),
                "pool": nn.AvgPool2d(3, 1, 1),
                "skip": nn.Identity,
            },
        )
        self.branch = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.inputs = InputChoice("inputs", 3, take=2)
        self.tail = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.stem(x)
        x = self.inputs(x, self.layer(x), self.branch(x))
        for i in range(self.repeats):
            x = self.tail[i](x)
        return self.classifier(x.mean(dim=(2, 3)))


class TestChoiceBlocks(SpaceSuite):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return from_module("branches", Branches)

    def test_every_architecture_learns_with_all_parameters(self, space):
        assert space.size == 2 * 2 * 3 * 3
        for arch in space:
            network = space.build(arch, (1, 8, 8), 5)
            network(torch.rand(2, 1, 8, 8)).sum().backward()
            assert all(p.grad is not None for p in network.parameters()), space.to_string(arch)

    def test_the_network_works_alone(self):
        network = Branches()
        assert network(torch.rand(2, 3, 8, 8)).shape == (2, 10)
        assert network.stem.out_channels == 4

    def test_layers_that_stay_are_the_chosen_ones(self, space):
        text = "width=8,repeats=2,layer=conv3,inputs=(0, 1)"
        network = space.build(space.from_string(text), (3, 8, 8), 10)
        assert isinstance(network.layer.layer, nn.Conv2d)
        assert network.stem.out_channels == 8
        assert not list(network.branch.parameters())
        other = space.build(space.from_string(text.replace("(0, 1)", "(0, 2)")), (3, 8, 8), 10)
        assert not list(other.layer.parameters())

    def test_weights_are_drawn_anew(self, space):
        arch = next(iter(space))
        torch.manual_seed(0)
        first = space.build(arch, (3, 8, 8)).stem.weight
        again = space.build(arch, (3, 8, 8)).stem.weight
        assert not torch.equal(first, again)

    def test_decisions_must_not_depend_on_each_other(self):
        def network(input_shape, num_classes):
            depth = IntegerChoice("depth", (2, 1))
            layers = [LayerChoice(f"layer_{i}", {"id": nn.Identity()}) for i in range(depth)]
            return nn.Sequential(*layers)

        space = from_module("nested", network)
        with pytest.raises(InvalidArgument, match="in every case"):
            space.build(space.from_string("depth=1,layer_0=id,layer_1=id"), (3, 8, 8), 10)

    def test_misuse_is_refused(self):
        def twice(input_shape, num_classes):
            return nn.Linear(IntegerChoice("a", (1, 2)), IntegerChoice("a", (1, 2)))

        with pytest.raises(InvalidArgument, match="name='a': two choices"):
            from_module("twice", twice)
        with pytest.raises(InvalidArgument, match="no Choice block"):
            from_module("none", lambda input_shape, num_classes: nn.Identity())
        with pytest.raises(InvalidArgument, match="take=3"):
            InputChoice("inputs", 2, take=3)
        with pytest.raises(InvalidArgument, match="nothing to choose"):
            LayerChoice("layer", {})


def one_of_equal_branches(config):
    """In `Branches` the layer does not matter where it is not taken."""
    if 1 not in config["inputs"]:
        config["layer"] = "conv3"
    return config


class TestCanonicalFormOfTheUsers(SpaceSuite):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return from_module("branches", Branches, canonical=one_of_equal_branches)

    def test_equal_networks_have_one_form_and_others_have_not(self, space):
        """Of 36 architectures a third takes no layer, of which there are three."""
        forms = {}
        for arch in space:
            torch.manual_seed(0)
            network = space.build(arch, (3, 8, 8), 10)
            layer = network.layer.layer if 1 in space.to_config(arch)["inputs"] else None
            same = str((network.stem, network.repeats, layer, network.inputs.taken))
            forms.setdefault(space.canonical(arch), set()).add(same)
        assert len(forms) == 24 + 4
        assert all(len(same) == 1 for same in forms.values())
        assert len(set.union(*forms.values())) == len(forms)

    @pytest.mark.parametrize(
        ("canonical", "message"),
        [
            (lambda config: None, "of 'width=4,.*it makes None: that is no configuration"),
            (lambda config: {"width": 4}, "repeats=None is not one of 1, 2"),
            (lambda config: {**config, "repeats": 3 - config["repeats"]}, "must stand for itself"),
        ],
    )
    def test_a_wrong_function_is_refused(self, canonical, message):
        space = from_module("branches", Branches, canonical=canonical)
        with pytest.raises(InvalidArgument, match=message):
            space.canonical(next(iter(space)))


def test_user_space_refuses_repeated_and_missing_choices():
    for choices in ((), (1, 1), (1, "1"), (1, 1.0), (True, 1)):
        with pytest.raises(InvalidArgument, match="'kernel'"):
            UserSpace("mine", {"kernel": choices}, convolutions)


def test_a_space_of_one_architecture_has_no_mutation():
    space = UserSpace("mine", {"channels": (8,), "kernel": (3,)}, convolutions)
    (arch,) = space
    assert space.sample(np.random.default_rng(0)) == arch
    assert not list(space.neighbors(arch))
    with pytest.raises(RaynasError, match="no valid mutation"):
        space.mutate(arch, np.random.default_rng(0))


def test_every_name_is_that_of_its_space():
    issue = (
        "nasbench101 nasbench201 natsbench_size nasbench_macro micro64 darts nasnet amoebanet pnas"
        " enas convnet resnet resnext_a resnext_b mobile dense convolutional"
    )
    assert search_spaces.names() == issue.split()
    for name in search_spaces.names():
        space = search_spaces.get(name)
        assert space.name == name
        assert space.paper


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nasbench202", "Did you mean 'nasbench201'"),
        ("darts:chanels=3", "Did you mean 'channels'"),
        ("darts:channels=0", "channels"),
        ("darts:stem=mnist", "stem"),
        ("nasbench101:vertices=9", "vertices"),
    ],
)
def test_wrong_names_and_options(text, message):
    with pytest.raises(InvalidArgument, match=message):
        search_spaces.get(text)


def test_options_by_keyword_and_in_the_name_are_the_same():
    by_name = search_spaces.get("darts:channels=8,auxiliary=true,stem=imagenet")
    assert search_spaces.get("darts", channels=8, auxiliary=True, stem="imagenet") == by_name


def test_samples_do_not_depend_on_the_process():
    code = (
        "import numpy as np, search_spaces as s\n"
        "for name in s.names():\n"
        "    space = s.get(name)\n"
        "    print(space.to_string(space.canonical(space.sample(np.random.default_rng(3)))))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONHASHSEED": "5", "PYTHONPATH": ":".join(sys.path)},
    ).stdout.splitlines()
    for name, text in zip(search_spaces.names(), there, strict=True):
        space = search_spaces.get(name)
        arch = space.canonical(space.sample(np.random.default_rng(3)))
        assert space.to_string(arch) == text


def test_a_space_without_cells_has_no_width():
    space = search_spaces.get("resnet")
    with pytest.raises(UnknownName, match="cell='normal'"):
        space.width(next(iter(space)))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (("a", "a,y=1"), "could be taken for another choice"),
        (("a ", "b"), "blank"),
        (("\na", "b"), "blank"),
        ((np.zeros(2), np.ones(2)), "array"),
        ((np.zeros(2),), "array"),
        ((object(), object()), "place in memory"),
    ],
)
def test_choices_that_the_notation_cannot_tell_are_refused(choices, message):
    with pytest.raises(InvalidArgument, match=message):
        UserSpace("mine", {"x": choices, "y": (1, 2)}, lambda *_: nn.Identity())


def test_tuples_can_be_chosen():
    space = UserSpace("mine", {"x": ((0, 1), (0, 1, 2)), "y": (1, 2)}, lambda *_: nn.Identity())
    assert [space.from_string(space.to_string(arch)) for arch in space] == list(space)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_choice_blocks_are_built_as_well_without_gradients(mode):
    class Net(nn.Module):
        def __init__(self, input_shape, num_classes):
            super().__init__()
            size = int(np.prod(input_shape))
            self.heads = nn.ModuleList(nn.Linear(size, num_classes) for _ in range(2))
            self.choice = InputChoice("input", 2)

        def forward(self, x):
            return self.choice(*(head(x.flatten(1)) for head in self.heads))

    space = from_module("net", Net)
    arch = next(iter(space))
    expected = [str(m) for m in space.build(arch, (1, 4, 4), 3).modules()]
    with mode():
        network = space.build(arch, (1, 4, 4), 3)
    assert [str(m) for m in network.modules()] == expected
    network(torch.rand(2, 1, 4, 4)).sum().backward()


@pytest.mark.parametrize("name", ["space", "custom.user_space", "custom.module_space"])
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"search_spaces.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


class TestDocs:
    @pytest.fixture
    def page(self):
        return (Path(__file__).parents[1] / "docs" / "spaces.md").read_text()

    def test_examples_run(self, page, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        assert len(blocks) == 4
        for block in blocks:
            names: dict = {}
            exec(block, names)
            assert names["space"].build(next(iter(names["space"])), (3, 32, 32), 10)
        assert (tmp_path / "cell.png").exists()

    def test_table_is_right(self, page):
        rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\S+) \|", page, re.MULTILINE)
        assert [name for name, _, _ in rows] == search_spaces.names()
        for name, decisions, size in rows:
            space = search_spaces.get(name)
            assert len(space.decisions) == int(decisions)
            assert size in (str(space.size), f"{space.size:.2e}")
