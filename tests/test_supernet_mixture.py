"""Mixtures of a supernet: the architecture derived, shared work, one sampled choice, memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import search_spaces
from raynas.errors import InvalidArgument
from search_spaces import InputChoice, IntegerChoice, LayerChoice, from_module

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
