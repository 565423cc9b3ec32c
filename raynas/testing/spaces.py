"""What every search space must do."""

import dataclasses
import io
import itertools
import json
import math
import pickle
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from raynas.testing.suite import Suite
from search_spaces import Architecture, SearchSpace
from search_spaces.counting import count_macs, count_params
from search_spaces.errors import InvalidArchitecture, InvalidArgument
from search_spaces.graph import CellGraph


class SpaceSuite(Suite):
    """Tests of a search space; `part` is a small one.

    Attributes:
        classes: that networks are built for.
        shapes: of images, likewise.
    """

    classes: ClassVar[int] = 5
    shapes: ClassVar[Sequence[tuple[int, int, int]]] = ((3, 8, 8), (1, 28, 28), (1, 9, 7))

    @pytest.fixture
    def space(self) -> SearchSpace:
        """The space."""
        space: SearchSpace = self.given()
        return space

    @pytest.fixture
    def archs(self, space: SearchSpace) -> list[Architecture]:
        """Some architectures, drawn at random, the cheapest first."""
        rng = np.random.default_rng(1)
        archs = [space.sample(rng) for _ in range(40)]
        return sorted(archs, key=lambda arch: space.macs(arch, self.shapes[0]))

    def test_decisions_have_names_and_choices(self, space: SearchSpace) -> None:
        names = [decision.name for decision in space.decisions]
        assert len(set(names)) == len(names)
        assert space.size == math.prod(len(decision.choices) for decision in space.decisions)
        assert space.name
        assert space.notation

    def test_stays_in_the_space(self, space: SearchSpace, archs: list[Architecture]) -> None:
        for arch in archs:
            assert space.check(arch) is arch
            assert space.check(space.canonical(arch))

    def test_same_seed_same_sample_sequence(self, space: SearchSpace) -> None:
        runs = []
        for seed in (5, 5, 6):
            rng = np.random.default_rng(seed)
            runs.append([space.sample(rng) for _ in range(20)])
        assert runs[0] == runs[1]
        assert runs[0] != runs[2]

    def test_samples_uniformly(self, space: SearchSpace) -> None:
        """Chi-square; a right sampler fails with probability 1e-6 for each statistic."""
        rng = np.random.default_rng(0)
        if space.size <= 4096:
            valid = list(space)
            counts = Counter(space.sample(rng) for _ in range(10 * len(valid)))
            assert set(counts) <= set(valid)
            assert len(valid) == 1 or chisquare([counts[a] for a in valid]).pvalue > 1e-6
        if not all(space.is_valid(self.random_point(space, rng)) for _ in range(300)):
            return  # no decision is uniform by itself; a small space of the kind shows it
        drawn = np.array([space.sample(rng).choices for _ in range(40_000)])
        for column, decision in zip(drawn.T, space.decisions, strict=True):
            frequencies = np.bincount(column, minlength=len(decision.choices))
            assert len(frequencies) == 1 or chisquare(frequencies).pvalue > 1e-6

    @staticmethod
    def random_point(space: SearchSpace, rng: np.random.Generator) -> Architecture:
        choices = tuple(int(rng.integers(len(d.choices))) for d in space.decisions)
        return Architecture(space.name, choices)

    def test_mutate_changes_one_decision_and_not_the_parent(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        rng = np.random.default_rng(2)
        for arch in archs[:10]:
            choices = arch.choices
            around = set(space.neighbors(arch))
            children = {space.mutate(arch, rng) for _ in range(20)}
            assert arch.choices is choices
            assert children <= around
            assert len(children) > 1 or len(around) == 1

    def test_neighbors_are_all_that_differ_in_one_decision(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        for arch in archs[:6]:
            around = list(space.neighbors(arch))
            assert len(set(around)) == len(around)
            assert all(space.distance(arch, other) == 1 for other in around)
            assert all(arch in space.neighbors(other) for other in around[::7])
            expected = {
                Architecture(space.name, (*arch.choices[:i], choice, *arch.choices[i + 1 :]))
                for i, decision in enumerate(space.decisions)
                for choice in range(len(decision.choices))
                if choice != arch.choices[i]
            }
            assert set(around) == set(filter(space.is_valid, expected))

    def test_round_trips(self, space: SearchSpace, archs: list[Architecture]) -> None:
        for arch in archs:
            assert space.from_string(space.to_string(arch)) == arch
            assert space.from_string(f" {space.to_string(arch)}\n") == arch
            assert Architecture.from_json(json.loads(json.dumps(arch.to_json()))) == arch
            assert space.from_config(space.to_config(arch)) == arch
            assert pickle.loads(pickle.dumps(arch)) == arch
            code = space.encode(arch)
            assert set(code.tolist()) <= {0.0, 1.0}
            assert code.sum() == len(space.decisions)
            assert len(code) == sum(len(decision.choices) for decision in space.decisions)

    def test_one_text_for_each_architecture(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        assert len({space.to_string(arch) for arch in archs}) == len(set(archs))
        assert len({space.encode(arch).tobytes() for arch in archs}) == len(set(archs))

    def test_pickles(self, space: SearchSpace) -> None:
        copy = pickle.loads(pickle.dumps(space))
        assert copy.decisions == space.decisions
        assert copy.sample(np.random.default_rng(0)) == space.sample(np.random.default_rng(0))

    def test_canonical_is_idempotent(self, space: SearchSpace, archs: list[Architecture]) -> None:
        for arch in archs:
            form = space.canonical(arch)
            assert space.canonical(form) == form

    def test_canonical_form_computes_the_same(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        images = torch.rand(2, *self.shapes[0])
        for arch in archs[::3]:
            form = space.canonical(arch)
            if form != arch:
                outputs = [self.with_equal_weights(space, a)(images) for a in (arch, form)]
                torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)

    def with_equal_weights(self, space: SearchSpace, arch: Architecture) -> nn.Module:
        """Every convolution of a kernel size computes the same, whatever its channels' order."""
        network = space.build(arch, self.shapes[0], self.classes).eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                taps = torch.linspace(0.3, 1.0, module.weight[0, 0].numel())
                taps = taps.view_as(module.weight[0, 0]) / taps.sum() / module.weight.shape[1]
                module.weight.data[:] = taps
                if module.bias is not None:
                    module.bias.data.zero_()
            elif isinstance(module, nn.Linear):
                module.weight.data.fill_(1 / module.in_features)
                module.bias.data.zero_()
        return network

    @pytest.mark.parametrize(
        "text", ["", " ", "?", "0", "|", ":", "-", "9" * 30, "a=b", "\x00", "é"]
    )
    def test_garbage_is_refused(self, space: SearchSpace, text: str) -> None:
        with pytest.raises(InvalidArchitecture, match=r"position|not"):
            space.from_string(text)

    def test_wrong_notation_points_at_the_position(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        """Every text that differs in a character is read as what it says, or refused."""
        rng = np.random.default_rng(3)
        for arch in archs[:20]:
            text = space.to_string(arch)
            i = int(rng.integers(len(text)))
            wrong = text[:i] + "\x01" + text[i + 1 :]
            with pytest.raises(InvalidArchitecture, match=r"at position [0-9]+, wanted") as error:
                space.from_string(wrong)
            position = re.search("at position ([0-9]+)", str(error.value))
            assert position is not None
            assert i - 24 < int(position[1]) <= i  # within one word of the notation
            with pytest.raises(InvalidArchitecture, match="at position"):
                space.from_string(f"{text}!")

    @hypothesis.given(data=st.data())
    @settings(
        max_examples=30,
        deadline=None,
        database=None,
        # a fixture gives the space, and every subclass is of another one
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )
    def test_any_text_is_read_back_or_refused(
        self, space: SearchSpace, data: st.DataObject
    ) -> None:
        text = space.to_string(space.sample(np.random.default_rng(0)))
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, len(text)))
        text = text[:start] + data.draw(st.text(max_size=8)) + text[end:]
        try:
            arch = space.from_string(text)
        except InvalidArchitecture:
            return
        assert space.from_string(space.to_string(arch)) == arch

    def test_refuses_what_is_not_its_own(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        arch = archs[0]
        for other in (
            Architecture("another", arch.choices),
            Architecture(space.name, arch.choices[1:]),
            Architecture(space.name, (99, *arch.choices[1:])),
            Architecture(space.name, (-1, *arch.choices[1:])),
            Architecture(space.name, (), "nonsense"),
        ):
            with pytest.raises(InvalidArgument):
                space.check(other)
        config = space.to_config(arch)
        with pytest.raises(InvalidArchitecture, match=re.escape(space.decisions[0].name)):
            space.from_config(config | {space.decisions[0].name: "nonsense"})
        with pytest.raises(InvalidArchitecture):
            space.from_config({})

    def test_networks_learn_with_all_parameters(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        for shape in self.shapes:
            for arch in archs[:3]:
                network = space.build(arch, shape, self.classes)
                logits = network(torch.rand(2, *shape))
                assert logits.shape == (2, self.classes)
                logits.square().sum().backward()
                idle = [name for name, p in network.named_parameters() if p.grad is None]
                assert not idle, space.to_string(arch)
                assert network.eval()(torch.rand(1, *shape)).shape == (1, self.classes)

    def test_counts_equal_those_of_the_built_network(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        """Tables with dead edges count them; two count the classifier's bias as MACs."""
        complete: Any = space
        if hasattr(space, "dead_edges"):
            complete = dataclasses.replace(complete, dead_edges=True)
        for shape in self.shapes:
            for arch in archs[:4]:
                network = complete.build(arch, shape, self.classes)
                assert space.params(arch, shape, self.classes) == count_params(network)
                extra = space.macs(arch, shape, self.classes) - count_macs(network, shape)
                assert extra in (0, self.classes)

    def test_draws(self, space: SearchSpace, archs: list[Architecture]) -> None:
        picture = space.draw(archs[0])
        picture.savefig(io.BytesIO())
        words = {text.get_text() for axes in picture.axes for text in axes.texts}
        text = space.to_graphviz(archs[0])
        assert text.startswith("digraph")
        assert all(word in text for word in words)

    def test_depth_and_width_are_those_of_the_cells(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        """Worked out along every path, and edge by edge."""
        for arch in archs:
            for name, graph in space.cell_graphs(arch).items():
                assert space.depth(arch, name) == longest(graph, graph.output)
                assert space.width(arch, name) == pytest.approx(from_inputs(graph))

    def test_iterates_over_all(self, space: SearchSpace) -> None:
        some = list(itertools.islice(space, 200))
        assert some == sorted(set(some))
        assert all(map(space.is_valid, some))


def longest(graph: CellGraph, node: str) -> int:
    """Count the edges of the longest path from an input to a node; 0 where there is none."""
    lengths = [0]
    for edge in graph.edges:
        if edge.target == node:
            behind = longest(graph, edge.source)
            if behind or edge.source in graph.inputs:
                lengths.append(behind + 1)
    return max(lengths)


def from_inputs(graph: CellGraph) -> float:
    """Add up, over the nodes between, the share of a node's edges that come from an input."""
    counts: dict[str, list[bool]] = {}
    for edge in graph.edges:
        if edge.target != graph.output:
            counts.setdefault(edge.target, []).append(edge.source in graph.inputs)
    return sum(sum(own) / len(own) for own in counts.values())
