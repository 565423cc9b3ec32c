"""Search algorithms: the shared suite, and what each paper's algorithm prescribes."""

import math
from collections import Counter

import numpy as np
import pytest
from conformance import SearcherSuite

import search_spaces
from raynas import Evolution, RandomSearch
from search_spaces import Architecture


class TestRandomSearch(SearcherSuite):
    @pytest.fixture
    def searcher(self):
        return RandomSearch


class TestEvolution(SearcherSuite):
    @pytest.fixture
    def searcher(self):
        return lambda: Evolution(population=5, sample=3)

    def start(self, **options):
        evolution = Evolution(**options)
        evolution.start(search_spaces.get("nasbench201"), 0)
        return evolution

    def test_population_is_constant_and_the_oldest_leaves(self):
        evolution = self.start(population=4, sample=2)
        asked = []
        for step in range(20):
            arch = evolution.ask()
            asked.append(arch)
            evolution.tell(arch, value=1.0 - step / 100, budget=1)  # the newest is the worst
            assert len(evolution.members) == min(step + 1, 4)
            young = [evolution.members[birth].architecture for birth in sorted(evolution.members)]
            assert young == asked[-4:]

    def test_age_counts_from_birth_not_from_the_result(self):
        evolution = self.start(population=3, sample=2)
        slow, *others = [evolution.ask() for _ in range(4)]
        for arch in others:
            evolution.tell(arch, 0.5, 1)
        evolution.tell(slow, 0.9, 1)  # the oldest of four: it has outlived its place already
        assert [m.architecture for m in evolution.members.values()] == others

    def test_child_is_one_mutation_of_the_tournament_winner(self):
        evolution = self.start(population=5, sample=200)  # a tournament of nearly all
        for value in (0.1, 0.5, 0.9, 0.3, 0.2):
            evolution.tell(evolution.ask(), value, 1)
        best = max(evolution.members.values(), key=lambda m: m.value).architecture
        for _ in range(10):
            assert evolution.space.distance(best, evolution.ask()) == 1

    def test_tournament_draws_with_replacement(self):
        """With P = S = 2, each of the two wins unless only the other is drawn: 3/4 and 1/4."""
        evolution = self.start(population=2, sample=2)
        good, bad = evolution.ask(), evolution.ask()
        evolution.tell(good, 0.9, 1)
        evolution.tell(bad, 0.1, 1)
        near = Counter(
            evolution.space.distance(good, child) == 1
            for child in (evolution.ask() for _ in range(2000))
        )
        # 6 sigma of a binomial with p = .75 are 116: a false alarm in 1e9 runs
        assert abs(near[True] - 1500) < 116

    def test_fewer_epochs_lose_against_more(self):
        evolution = self.start(population=2, sample=50)
        stopped, full = evolution.ask(), evolution.ask()
        evolution.tell(stopped, 0.9, 1)
        evolution.tell(full, 0.2, 4)
        assert evolution.space.distance(full, evolution.ask()) == 1

    def test_failed_architectures_have_no_children(self):
        evolution = self.start(population=2, sample=50)
        failed, good = evolution.ask(), evolution.ask()
        evolution.tell(failed, -math.inf, 0)
        evolution.tell(good, 0.1, 1)
        assert [m.architecture for m in evolution.members.values()] == [good]

    def test_climbs(self):
        evolution = self.start()
        values = []
        for _ in range(300):
            arch = evolution.ask()
            values.append(SearcherSuite.value(arch))
            evolution.tell(arch, values[-1], 1)
        assert np.mean(values[-50:]) > np.mean(values[:10]) + 0.3


def test_mutation_of_nasbench201_picks_nodes_uniformly():
    """papers: 1/3; 1/6, 1/6; 1/9, 1/9, 1/9 for the edges of nodes 1, 2 and 3."""
    space = search_spaces.get("nasbench201")
    rng = np.random.default_rng(0)
    arch = Architecture("nasbench201", (0,) * 6)
    changed = np.zeros(6)
    operations: Counter[int] = Counter()
    for _ in range(18_000):
        child = space.mutate(arch, rng)
        (edge,) = np.flatnonzero(np.array(child.choices) != 0)
        changed[edge] += 1
        operations[child.choices[edge]] += 1
    expected = 18_000 * np.array([1 / 3, 1 / 6, 1 / 6, 1 / 9, 1 / 9, 1 / 9])
    assert np.all(np.abs(changed - expected) < 6 * np.sqrt(expected))  # 6 sigma
    assert all(abs(operations[op] - 4500) < 6 * math.sqrt(4500) for op in (1, 2, 3, 4))
