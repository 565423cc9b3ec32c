"""Cells: width, depth, published cells and variants, DARTS networks (numbers: papers 1 and 4)."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

import search_spaces
from search_spaces import Architecture
from search_spaces.cells.cell import Cell
from search_spaces.cells.genotypes import Genotype, named, published
from search_spaces.cells.operations import OPERATIONS, operation, operation_counts
from search_spaces.counting import Counts, count_macs, count_params
from search_spaces.errors import InvalidArchitecture, InvalidArgument, UnknownName

torch.set_num_threads(1)

#: space, cells: width and depth of the normal and of the reduction cell; parameters in millions
#: with auxiliary head, without, for CIFAR-100, for Tiny-ImageNet (Understanding-NAS)
PUBLISHED = {
    ("nasnet", "NASNet"): ((5, 2), (3.5, 3), (4.289, 3.831, 4.423, 4.572)),
    ("nasnet", "NASNet_ADAPT"): ((5, 2), (5, 2), (4.315, 3.857, 4.449, 4.598)),
    ("amoebanet", "AmoebaNet"): ((4, 4), (4, 3), (3.603, 3.145, 3.711, 3.831)),
    ("amoebanet", "AmoebaNet_ADAPT"): ((5, 2), (5, 2), (3.603, 3.145, 3.711, 3.831)),
    ("enas", "ENAS"): ((5, 2), (4, 4), (4.318, 3.860, 4.452, 4.601)),
    ("enas", "ENAS_ADAPT"): ((5, 2), (5, 2), (4.318, 3.860, 4.452, 4.601)),
    ("darts", "DARTS_V1"): ((3.5, 3), (2.5, 3), (3.646, 3.169, 3.767, 3.902)),
    ("darts", "DARTS_V2"): ((3.5, 3), (2.5, 3), (3.826, 3.349, 3.947, 4.082)),
    ("darts", "SNAS"): ((4, 2), (2.5, 3), (3.138, 2.661, 3.259, 3.394)),
    ("darts", "SNAS_ADAPT"): ((4, 2), (4, 2), (3.191, 2.714, 3.312, 3.446)),
}
#: MiLeNAS: parameters in millions, convolutions of the normal and of the reduction cell
MILENAS = {
    "r101_e50_48_n7r3": (3.874, 7, 3),
    "r118_e100_92_n4r1": (2.866, 4, 1),
    "V2_r2_e100": (2.858, 4, 0),
    "v2_r5_e200": (2.090, 2, 0),
}
#: sources of the adapted cells as published (Understanding-NAS), normal and reduction cell
ADAPTED = {
    "NASNet_ADAPT": ((1, 0) * 5, (1, 0) * 5),
    "AmoebaNet_ADAPT": ((0, 1) * 5, (0, 1) * 5),
    "ENAS_ADAPT": ((0, 1, 0, 0, 0, 1, 0, 1, 0, 1), (0, 1) * 5),
    "SNAS_ADAPT": ((0, 1) * 4, (0, 1) * 4),
}
#: width and depth of the random-connection variants with the seeds 1 to 10
CONN_4 = "2.5,4 2,5 3,3 3.5,3 2.5,4 2.5,3 3,3 2.5,4 3,3 3.5,3"
CONN_5 = "2.5,5 2,6 3,4 3.5,3 3.5,4 3,4 3.5,3 2.5,5 3.5,3 3.5,3"
#: sources of the 4-node ones
SOURCES = (
    "10101342 01201324 01001212 01101014 11200330 01222111 11021200 11103143 00221001 10001121"
)


@pytest.mark.parametrize(("name", "cells"), PUBLISHED)
class TestPublishedCells:
    def test_width_and_depth(self, name, cells):
        space = search_spaces.get(name)
        arch = space.genotype(cells)
        for cell, expected in zip(("normal", "reduction"), PUBLISHED[name, cells], strict=False):
            assert (space.width(arch, cell), space.depth(arch, cell)) == expected

    def test_parameters(self, name, cells):
        expected = PUBLISHED[name, cells][2]
        for (stem, auxiliary, shape, classes), millions in zip(
            [
                ("cifar", True, (3, 32, 32), 10),
                ("cifar", False, (3, 32, 32), 10),
                ("cifar", True, (3, 32, 32), 100),
                ("tiny_imagenet", True, (3, 64, 64), 200),
            ],
            expected,
            strict=True,
        ):
            space = search_spaces.get(name, stem=stem, auxiliary=auxiliary)
            params = space.params(space.genotype(cells), shape, classes)
            assert params / 1e6 == pytest.approx(millions, abs=0.0005)

    def test_built_network_has_the_parameters(self, name, cells):
        """With its dead edges; without them fewer exactly where the output leaves nodes out."""
        space = search_spaces.get(name, dead_edges=True, auxiliary=True)
        arch = space.genotype(cells)
        assert count_params(space.build(arch)) == space.params(arch)
        lean = count_params(search_spaces.get(name, auxiliary=True).build(arch))
        genotype = space.to_genotype(arch)
        whole = all(
            len(cell.triples(dead=False)) == len(cell.edges)
            for cell in (genotype.normal, genotype.reduction)
        )
        assert (lean == space.params(arch)) == whole

    def test_notation_and_json(self, name, cells):
        space = search_spaces.get(name)
        arch = space.genotype(cells)
        assert space.from_string(space.to_string(arch)) == arch
        assert space.from_string(cells) == arch
        assert Architecture.from_json(arch.to_json()) == arch


@pytest.mark.parametrize("name", MILENAS)
def test_milenas_cells(name):
    space = search_spaces.get("darts", channels=36, cells=20, auxiliary=False)
    millions, normal, reduction = MILENAS[name]
    arch = space.genotype(name)
    assert space.params(arch) / 1e6 == pytest.approx(millions, abs=0.0005)
    genotype = space.to_genotype(arch)
    for cell, number in ((genotype.normal, normal), (genotype.reduction, reduction)):
        assert sum("conv" in operation for operation, _ in cell.edges) == number


def test_parameters_on_imagenet():
    space = search_spaces.get("darts", channels=48, cells=14, stem="imagenet")
    for name, millions in (("r101_e50_48_n7r3", 5.380), ("DARTS_V2", 4.719)):
        params = space.params(space.genotype(name), (3, 224, 224), 1000)
        assert params / 1e6 == pytest.approx(millions, abs=0.0005)


def test_adapted_cells_are_the_published_ones():
    for name, sources in ADAPTED.items():
        genotype = named(name)
        original = named(name.removesuffix("_ADAPT"))
        for cell, base, expected in zip(
            (genotype.normal, genotype.reduction),
            (original.normal, original.reduction),
            sources,
            strict=True,
        ):
            assert tuple(source for _, source in cell.edges) == expected
            assert [op for op, _ in cell.edges] == [op for op, _ in base.edges]
            assert cell.concat == base.concat


@pytest.mark.parametrize("name", ["darts", "nasnet", "amoebanet", "pnas", "enas"])
def test_adapt_is_widest_shallowest_and_idempotent(name):
    space = search_spaces.get(name)
    rng = np.random.default_rng(0)
    for _ in range(50):
        arch = space.sample(rng)
        adapted = space.adapt(arch)
        assert space.adapt(adapted) == adapted
        for cell in ("normal", "reduction"):
            assert space.width(adapted, cell) == space.nodes
            assert space.depth(adapted, cell) == 2
        for field in ("normal", "reduction"):
            before, after = (getattr(space.to_genotype(a), field).edges for a in (arch, adapted))
            assert Counter(op for op, _ in before) == Counter(op for op, _ in after)
    assert space.to_string(space.adapt(space.genotype("NASNet_OPS3"))) == "NASNet_OPS3_ADAPT"


def measures(cells: list[Cell]) -> str:
    graphs = [cell.graph() for cell in cells]
    return " ".join(f"{graph.width():g},{graph.depth()}" for graph in graphs)


def test_random_connections_are_the_published_ones():
    for family in ("DARTS", "SNAS"):
        cells = [named(f"{family}_CONN{seed}").normal for seed in range(1, 11)]
        assert measures(cells) == CONN_4
        drawn = ["".join(str(source) for _, source in cell.edges) for cell in cells]
        assert drawn == SOURCES.split()
    for family in ("ENAS", "NASNet", "AmoebaNet"):
        assert measures([named(f"{family}_CONN{seed}").normal for seed in range(1, 11)]) == CONN_5
    assert [source for _, source in named("ENAS_CONN1").normal.edges] == [
        *(1, 0, 1, 0, 1, 3, 4, 2, 5, 4)
    ]


def test_random_operations_are_the_published_ones():
    expected = ["dil3", "sep3", "sep5", "max3", "avg3", "sep3", "dil3", "max3"]
    drawn = [operation for operation, _ in named("DARTS_OPS1").normal.edges]
    assert [f"{op[:3]}{op[-1]}" for op in drawn] == expected


@pytest.mark.parametrize("base", ["NASNet", "AmoebaNet", "ENAS", "DARTS_V1", "DARTS_V2", "SNAS"])
def test_random_variants_keep_the_other_half(base):
    original = named(base)
    for seed in range(1, 30):
        other, wired = named(f"{base}_OPS{seed}"), named(f"{base}_CONN{seed}")
        assert named(f"{base}_CONN{seed}") == wired
        for field in ("normal", "reduction"):
            old, new, moved = (getattr(g, field) for g in (original, other, wired))
            assert [source for _, source in new.edges] == [source for _, source in old.edges]
            assert [op for op, _ in moved.edges] == [op for op, _ in old.edges]
            assert all(source < 2 + i // 2 for i, (_, source) in enumerate(moved.edges))


def shares(wirings) -> Counter:
    counts: Counter = Counter()
    total = 0
    for sources in wirings:
        edges = tuple(("skip_connect", source) for pair in sources for source in pair)
        graph = Cell(edges, (2, 3, 4, 5)).graph()
        counts[graph.width(), graph.depth()] += 1
        total += 1
    return Counter({key: count / total for key, count in counts.items()} | {"cells": total})


def test_population_of_all_wirings():
    """Shares of width and depth over all 4-node cells, to the digits of the paper's table."""
    nodes = (2, 3, 4, 5)
    replaced = shares(itertools.product(*(itertools.product(range(n), repeat=2) for n in nodes)))
    distinct = shares(itertools.product(*(itertools.combinations(range(n), 2) for n in nodes)))
    assert (replaced["cells"], distinct["cells"]) == (14400, 180)
    table = {
        (4, 2): (0.0178, 0.0056), (3.5, 3): (0.1067, 0.0667), (3, 3): (0.1867, 0.1778),
        (3, 4): (0.0711, 0.0889), (2.5, 3): (0.1244, 0.1000), (2.5, 4): (0.1778, 0.2667),
        (2.5, 5): (0.0178, 0.0444), (2, 3): (0.0367, 0.0056), (2, 4): (0.1378, 0.1444),
        (2, 5): (0.0400, 0.0667),
    }  # fmt: skip
    for key, expected in table.items():
        assert (round(replaced[key], 4), round(distinct[key], 4)) == expected
    narrow = [sum(s for key, s in replaced.items() if key[0] == width) for width in (1.5, 1)]
    assert [round(share, 4) for share in narrow] == [0.0733, 0.0100]
    assert [round(distinct[1.5, depth], 4) for depth in (4, 5)] == [0.0111, 0.0222]
    assert not any(key[0] == 1 for key in distinct)


def test_sizes_of_the_spaces():
    """Cells of each kind: DARTS, section 3; NDS, the table of NAS design spaces."""
    sources = (2 * 3 * 4 * 5 * 6) ** 2
    for name, operations in (("nasnet", 13), ("amoebanet", 8), ("pnas", 8), ("enas", 5)):
        space = search_spaces.get(name)
        assert len(space.operations) == operations
        assert space.size == (sources * operations**10) ** 2
    assert search_spaces.get("darts").size == (180 * 7**8) ** 2
    assert search_spaces.get("darts:replacement=true,none=true").size == (14400 * 8**8) ** 2
    for name, size in (("resnet", 1259712), ("resnext_a", 11390625), ("resnext_b", 52734375)):
        assert search_spaces.get(name).size == size


def test_notation_of_darts_as_its_code_prints_it():
    space = search_spaces.get("darts")
    text = (
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0),"
        " ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0),"
        " ('dil_conv_3x3', 2)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0),"
        " ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0),"
        " ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],"
        " reduce_concat=range(2, 6))"
    )
    assert space.from_string(text) == space.genotype("DARTS_V2")
    assert space.from_string(text.replace("'", '"').replace(" ", "")) == space.genotype("DARTS")
    for wrong, position, wanted in (
        (text.replace("dil_conv", "dill_conv"), text.index("dil_conv"), "'dil_conv_3x3'"),
        (text.replace("range(2, 6),", "range(2, 7),", 1), text.index("6)"), "3..6"),
        (text.replace(", 2)], n", ", 7)], n"), text.index("2)], n"), "0..4"),
    ):
        with pytest.raises(InvalidArchitecture) as error:
            space.from_string(wrong)
        assert wanted in str(error.value)
        assert f"position {position}" in str(error.value)
    with pytest.raises(InvalidArchitecture, match="replacement=true"):
        space.from_string(text.replace("3x3', 1)", "3x3', 0)", 1))


def test_cells_of_other_spaces_can_be_built_but_not_varied():
    space = search_spaces.get("darts", channels=4, cells=3)
    arch = space.genotype("NASNet_CONN4")
    assert space.build(arch, (1, 8, 8), 5)(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    assert space.canonical(arch) == arch
    for act in (
        space.encode,
        space.to_config,
        lambda a: list(space.neighbors(a)),
        lambda a: space.mutate(a, np.random.default_rng(0)),
    ):
        with pytest.raises(InvalidArchitecture, match="NASNet_CONN4 lies outside"):
            act(arch)
    with pytest.raises(UnknownName, match="Did you mean 'DARTS_V2'"):
        space.genotype("DARTS_V3")
    with pytest.raises(UnknownName, match="cell='normall'"):
        space.width(arch, "normall")
    assert space.width(arch, "reduce") == space.width(arch, "reduction")


def test_every_published_cell_can_be_had_from_every_cell_space():
    for name in ("darts", "nasnet", "amoebanet", "pnas", "enas"):
        space = search_spaces.get(name)
        for cells in published():
            for suffix in ("", "_ADAPT", "_OPS1", "_CONN1"):
                arch = space.genotype(cells + suffix)
                if arch.name:
                    assert arch.name == cells + suffix
                else:
                    genotype, other = named(cells + suffix), space.to_genotype(arch)
                    assert genotype.normal.canonical() == other.normal.canonical()
                    assert genotype.reduction.canonical() == other.reduction.canonical()


def relabelled(cell: Cell, order: tuple[int, ...]) -> Cell | None:
    """`cell` with its nodes in `order`; None where a node would come before its source."""
    place = {0: 0, 1: 1} | {node: 2 + i for i, node in enumerate(order)}
    edges = []
    for node in order:
        for op, source in cell.edges[2 * node - 4 : 2 * node - 2][::-1]:
            if place[source] >= place[node]:
                return None
            edges.append((op, place[source]))
    return Cell(tuple(edges), tuple(sorted(place[node] for node in cell.concat)))


@pytest.mark.parametrize("name", ["darts", "enas"])
def test_order_of_nodes_and_edges_does_not_matter(name):
    space = search_spaces.get(name)
    rng = np.random.default_rng(2)
    for _ in range(40):
        arch = space.sample(rng)
        genotype = space.to_genotype(arch)
        for order in itertools.permutations(range(2, 2 + space.nodes)):
            normal = relabelled(genotype.normal, order)
            if normal is not None:
                other = space.from_genotype(Genotype(normal, genotype.reduction))
                assert space.canonical(other) == space.canonical(arch)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name, stride):
    """Shape, parameters and MACs, at even and odd sizes."""
    for height, width in ((8, 8), (7, 9), (1, 1), (2, 5)):
        module = operation(name, 6, stride)
        x = torch.rand(2, 6, height, width, requires_grad=True)
        y = module.eval()(x)
        assert y.shape == (2, 6, -(-height // stride), -(-width // stride))
        counts = Counts(count_params(module), macs_of(module, x))
        assert operation_counts(name, 6, stride, height, width) == counts


def macs_of(module, x):
    return count_macs(torch.nn.Sequential(module), x.shape[1:])


def test_auxiliary_head_gives_logits_in_training_only():
    for stem, size in (("cifar", 32), ("cifar", 28), ("imagenet", 64)):
        space = search_spaces.get("darts", channels=4, cells=3, auxiliary=True, stem=stem)
        arch = space.sample(np.random.default_rng(0))
        network = space.build(arch, (3, size, size), 7)
        logits = network(torch.rand(2, 3, size, size))
        assert network.auxiliary_logits.shape == logits.shape == (2, 7)
        (logits + network.auxiliary_logits).square().sum().backward()
        assert all(p.grad is not None for p in network.parameters())
        assert count_params(network) == space.params(arch, (3, size, size), 7)
        macs = count_macs(network, (3, size, size))
        assert macs == space.macs(arch, (3, size, size), 7)


def test_drop_path_acts_in_training_only():
    torch.manual_seed(0)
    space = search_spaces.get("darts", channels=4, cells=3)
    network = space.build(space.genotype("DARTS_V2"), (3, 8, 8), 5)
    images = torch.rand(4, 3, 8, 8)
    whole = network(images)
    network.drop_path = 0.5
    assert not torch.equal(network(images), whole)
    network.eval()
    assert torch.equal(network(images), network(images))


def test_cells_that_nothing_reads_are_left_out():
    """Reading only the cell before the last, every second cell is without effect."""
    space = search_spaces.get("enas", channels=4, cells=6)
    one_input = Cell((("sep_conv_3x3", 0),) * 10, (2, 3, 4, 5, 6))
    arch = space.from_genotype(Genotype(one_input, one_input))
    network = space.build(arch, (3, 8, 8), 5)
    assert list(network.cells) == ["1", "3", "5"]
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("reading", "joined"), [("code", 2), ("paper", 1)])
def test_both_readings_of_micro64(reading, joined):
    space = search_spaces.get("micro64", reading=reading)
    assert [space.to_string(arch) for arch in space][:5] == ["111", "112", "113", "114", "121"]
    assert len(list(space)) == 64
    network = space.build(space.from_string("434"))
    assert network[-1].linear.in_features == 16 * joined
    kernels = {m.kernel_size[0] for m in network.modules() if getattr(m, "dilation", 0) == (2, 2)}
    assert kernels == {5 if reading == "code" else 3}
    assert (space.width(space.from_string("434")), space.depth(space.from_string("434"))) == (
        *(1.5, 3),
    )


@pytest.mark.parametrize("options", ["none=true,replacement=true", "none=true"])
def test_where_an_edge_without_operation_starts_does_not_matter(options):
    space = search_spaces.get(f"darts:{options}")
    rng, compared = np.random.default_rng(0), 0
    for _ in range(60):
        arch = space.sample(rng)
        edges = list(space.to_genotype(arch).normal.edges)
        for i, (operation_, source) in enumerate(edges):
            if operation_ != "none":
                continue
            partner = edges[i ^ 1][1]
            for other in range(2 + i // 2):
                if other == source or (other == partner and space.distinct):
                    continue
                moved = Cell((*edges[:i], ("none", other), *edges[i + 1 :]), (2, 3, 4, 5))
                changed = Genotype(moved, space.to_genotype(arch).reduction)
                assert space.canonical(space.from_genotype(changed)) == space.canonical(arch)
                compared += 1
        assert space.canonical(space.canonical(arch)) == space.canonical(arch)
    assert compared > 50


def test_too_few_channels_are_refused():
    for text in ("darts:channels=1,stem=imagenet", "nasbench101:channels=3"):
        with pytest.raises(InvalidArgument, match="give at least"):
            search_spaces.get(text)
    space = search_spaces.get("nasbench101:channels=4,modules=1")
    rng = np.random.default_rng(0)
    for _ in range(30):
        assert space.build(space.sample(rng), (3, 8, 8), 4)(torch.rand(2, 3, 8, 8)).shape == (2, 4)


def test_texts_that_denote_nothing():
    space = search_spaces.get("darts")
    text = space.to_string(space.sample(np.random.default_rng(0)))
    with pytest.raises(InvalidArchitecture, match="wanted an integer"):
        space.from_string(text.replace(", 1)", f", {'1' * 5000})", 1))
    adapted = space.genotype("DARTS_V2_ADAPT")
    assert space.genotype("DARTS_V2" + "_ADAPT" * 3000) == adapted
    with pytest.raises(UnknownName, match="genotype='DARTS_V9_ADAPT"):
        space.genotype("DARTS_V9" + "_ADAPT" * 3000)
    for name in search_spaces.names():
        for wrong in (5, None, ["DARTS_V2"]):
            with pytest.raises(InvalidArchitecture, match="is no text"):
                search_spaces.get(name).from_string(wrong)
