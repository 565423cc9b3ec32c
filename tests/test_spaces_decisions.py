"""What a decision is about, and which architectures are near one another."""

from collections import Counter

import numpy as np
import pytest
from torch import nn

import search_spaces
from search_spaces import Decision, InputChoice, IntegerChoice, LayerChoice, UserSpace, from_module
from search_spaces.cells.cell import Cell
from search_spaces.cells.genotypes import Genotype
from search_spaces.errors import InvalidArchitecture, InvalidArgument
from search_spaces.neighbors import draw_neighbors


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("nasbench101", {"wiring": 21, "operation": 5}),
        ("nasbench201", {"operation": 6}),
        ("natsbench_size", {"size": 5}),
        ("nasbench_macro", {"operation": 8}),
        ("micro64", {"operation": 3}),
        ("darts", {"wiring": 8, "operation": 16}),
        ("darts:replacement=true", {"wiring": 16, "operation": 16}),
        ("enas", {"wiring": 20, "operation": 20}),
        ("resnext_a", {"size": 12}),
        ("mobile", {"size": 20, "operation": 5}),
        ("dense", {"size": 1}),
    ],
)
def test_decisions_say_what_they_are(name, kinds):
    assert Counter(d.kind for d in search_spaces.get(name).decisions) == kinds


def test_kinds_of_a_users_decisions():
    decisions = {
        "channels": (8, 16),
        "bias": (False, True),
        "act": ("relu", "silu"),
        "from": (0, 1),
    }
    space = UserSpace("mine", decisions, lambda *_: nn.Identity(), kinds={"from": "wiring"})
    assert [d.kind for d in space.decisions] == ["size", "operation", "operation", "wiring"]
    with pytest.raises(InvalidArgument, match="kinds: decision='form' is unknown"):
        UserSpace("mine", decisions, lambda *_: nn.Identity(), kinds={"form": "wiring"})
    with pytest.raises(InvalidArgument, match="'act': the choices of a size are numbers"):
        UserSpace("mine", decisions, lambda *_: nn.Identity(), kinds={"act": "size"})


def test_kinds_of_choice_blocks():
    class Net(nn.Module):
        def __init__(self, *_):
            super().__init__()
            self.width = IntegerChoice("width", (4, 8))
            self.layer = LayerChoice("layer", {"a": nn.ReLU, "b": nn.Tanh})
            self.input = InputChoice("input", 2)

    kinds = {d.name: d.kind for d in from_module("net", Net).decisions}
    assert kinds == {"width": "size", "layer": "operation", "input": "wiring"}


def test_what_runs_are_compared_by_does_not_change_with_the_kind():
    assert repr(Decision("a", (1, 2), "wiring")) == "Decision(name='a', choices=(1, 2))"


def test_a_neighborhood_replaces_one_operation_and_keeps_the_wiring():
    space = search_spaces.get("darts")
    arch = space.sample(np.random.default_rng(0))
    near = list(space.neighbors(arch, rewire=False))
    assert len(near) == len(set(near)) == 16 * 6  # papers.md, 5.1: 48 for each of two cells
    cells = space.to_genotype(arch)
    for other in map(space.to_genotype, near):
        assert other.normal.sources == cells.normal.sources
        assert other.reduction.sources == cells.reduction.sources
    rewired = set(space.neighbors(arch)) - set(near)
    # a node's pair of sources can be any other pair: C(n, 2) - 1 for 2, 3, 4, 5 nodes before it
    assert len(rewired) == 2 * (0 + 2 + 5 + 9)


@pytest.mark.parametrize("rewire", [False, True])
def test_what_is_drawn_are_the_neighbors(rewire):
    space = search_spaces.get("nasbench101:vertices=5")
    rng = np.random.default_rng(1)
    arch = space.sample(rng)
    for distance in (1, 2):
        near = set(space.neighbors(arch, distance, rewire))
        assert set(draw_neighbors(space, arch, 10_000, rng, distance, rewire)) == near
        assert {space.distance(arch, other) for other in near} == set(range(1, distance + 1))


def test_where_there_is_only_wiring_it_varies():
    decisions = {"a": (0, 1, 2), "b": (0, 1)}
    kinds = dict.fromkeys(decisions, "wiring")
    space = UserSpace("mine", decisions, lambda *_: nn.Identity(), kinds=kinds)
    assert len(list(space.neighbors(space.architecture([0, 0]), rewire=False))) == 3


def test_a_cell_outside_of_the_decisions_has_no_neighbors():
    space = search_spaces.get("darts")
    with pytest.raises(InvalidArchitecture, match="outside the decisions"):
        list(space.neighbors(space.genotype("ENAS"), rewire=False))


@pytest.mark.parametrize(
    ("cell", "nodes", "expected"),
    [  # the same graph in both spaces: input, two nodes, output
        ("|conv~0|+|none~0|skip~1|+|none~0|none~1|conv~2|", "sep 0 none 1  skip 2 none 0", (1, 3)),
        ("|none~0|+|conv~0|conv~1|+|none~0|none~1|conv~2|", "none 0 none 1  sep 0 sep 2", (1, 2)),
        ("|conv~0|+|conv~0|none~1|+|none~0|conv~1|conv~2|", "sep 0 none 1  sep 0 none 2", (2, 2)),
        ("|conv~0|+|conv~0|skip~1|+|none~0|conv~1|conv~2|", "sep 0 none 1  sep 0 sep 2", (1.5, 3)),
    ],
)
def test_an_edge_with_none_is_no_edge_in_any_space(cell, nodes, expected):
    space = search_spaces.get("nasbench201")
    names = {"conv": "nor_conv_3x3", "skip": "skip_connect"}
    for short, name in names.items():
        cell = cell.replace(short, name)
    arch = space.from_string(cell)
    assert (space.width(arch), space.depth(arch)) == expected
    edges = space.cell_graphs(arch)["normal"].edges
    assert all(edge.operation != "none" for edge in edges)

    space = search_spaces.get("darts:none=true,replacement=true")
    names = {"sep": "sep_conv_3x3", "skip": "skip_connect", "none": "none"}
    words = [*nodes.split(), *["none", "0"] * 4]  # two more nodes that nothing reaches
    pairs = zip(words[::2], map(int, words[1::2]), strict=True)
    drawn = Cell(tuple((names[short], source) for short, source in pairs), (2, 3, 4, 5))
    arch = space.from_genotype(Genotype(drawn, drawn))
    for kind in ("normal", "reduction"):
        assert (space.width(arch, kind), space.depth(arch, kind)) == expected
    assert "none" not in space.to_graphviz(arch)
    assert space.draw(arch).axes
