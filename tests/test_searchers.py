"""Search algorithms: the shared suite, and what each paper's algorithm prescribes."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import search_spaces
from raynas import Area, Auto, Evolution, Fifo, LocalSearch, Naswot, NeighborhoodAware, RandomSearch
from raynas.errors import InvalidArgument, UnknownName
from raynas.record.events import METRIC, Status
from raynas.search.search import Search
from raynas.searchers import SEARCHERS
from raynas.searchers.fidelities import places
from raynas.searchers.prior import LinearPrior
from raynas.searchers.surrogate import Surrogate, _distance_of_counts, description_of
from raynas.testing import SearcherSuite
from search_spaces import Architecture
from search_spaces.naming import construct
from search_spaces.nasbench201 import NASBench201

SPACE = search_spaces.get("nasbench201")

#: with which options they run, where the defaults would only draw at random for long
SMALL = {
    "evolution": "evolution:population=5,sample=3",
    "area": "area:population=5,candidates=10",
    "naswot": "naswot:candidates=30",
    "auto": "auto:initial=3,candidates=10",
    "auto with a prior": "auto:initial=3,candidates=10,prior=counts",
    "auto with another": "auto:initial=3,candidates=10,prior=structure",
    "auto with fidelities": "auto:initial=3,candidates=10,fidelities=true",
}


class TestSearchers(SearcherSuite):
    @pytest.fixture(params=sorted({*SEARCHERS, *SMALL} - {"listed"}))  # test_listed.py
    def searcher(self, request):
        return lambda: construct("search", SMALL.get(request.param, request.param), SEARCHERS)

    @pytest.fixture(autouse=True)
    def of_one(self, request, monkeypatch):
        if "naswot" in request.node.callspec.params["searcher"]:
            monkeypatch.setattr(type(self), "most", 1)


class TestEvolution:
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


class TestArea:
    def test_the_better_half_of_the_candidates_begins(self):
        area = Area(population=4, candidates=8)
        area.start(search_spaces.get("nasbench201"), 0)
        proxy, candidates = area.scoring
        assert proxy == "naswot"
        assert len(candidates) == 8
        scores = dict(zip(candidates, [3.0, -math.inf, 8.0, 1.0, 7.0, 2.0, 6.0, 5.0], strict=True))
        area.tell_scores(scores)
        assert [scores[area.ask()] for _ in range(4)] == [8.0, 7.0, 6.0, 5.0]
        assert area.ask() not in candidates  # the fifth is drawn at random, as no result is known

    def test_a_warm_start_is_a_proxy_or_a_naswot(self):
        evolution = Evolution(population=3, warm_start=Naswot(candidates=40, proxy="synflow"))
        assert (evolution.warm_start, evolution.candidates) == ("synflow", 40)
        with pytest.raises(UnknownName, match="warm_start='nasw0t' is unknown"):
            Evolution(warm_start="nasw0t")


class TestNaswot:
    def test_the_best_score_wins_and_nothing_else_is_evaluated(self):
        naswot = Naswot(candidates=30)
        naswot.start(search_spaces.get("nasbench201"), 0)
        scores = {arch: float(i % 17) for i, arch in enumerate(naswot.scoring.architectures)}
        naswot.tell_scores(scores)
        assert scores[naswot.ask()] == 16.0
        assert naswot.ask() is None

    def test_networks_that_cannot_be_ranked_never_win(self):
        naswot = Naswot(candidates=3)
        naswot.start(search_spaces.get("nasbench201"), 0)
        naswot.tell_scores(dict.fromkeys(naswot.scoring.architectures, -math.inf))
        assert naswot.ask() is None


class TestLocalSearch:
    def start(self):
        local = LocalSearch()
        local.start(search_spaces.get("nasbench201"), 0)
        return local

    def test_the_first_better_neighbor_is_the_next_center(self):
        local = self.start()
        first = local.ask()
        local.tell(first, 0.5, 1)
        worse, better = local.ask(), local.ask()
        local.tell(worse, 0.4, 1)
        local.tell(better, 0.6, 1)
        assert local.center == ((1, 0.6), better)
        assert local.space.distance(better, local.ask()) == 1

    def test_on_a_summit_it_starts_anew(self):
        local = self.start()
        summit = local.ask()
        local.tell(summit, 0.5, 1)
        for _ in range(24):
            neighbor = local.ask()
            assert local.space.distance(summit, neighbor) == 1
            local.tell(neighbor, 0.1, 1)
        restart = local.ask()
        local.tell(restart, 0.2, 1)
        assert local.space.distance(restart, local.ask()) == 1  # worse than the summit, and yet

    def test_idle_workers_evaluate_the_starts_of_coming_climbs(self):
        local = self.start()
        summit = local.ask()
        local.tell(summit, 0.5, 1)
        neighbors = [local.ask() for _ in range(24)]
        starts = [local.ask() for _ in range(2)]
        local.tell(starts[0], 0.3, 1)
        local.tell(starts[1], 0.4, 1)
        for neighbor in neighbors:
            local.tell(neighbor, -math.inf, 0)
        assert local.space.distance(starts[1], local.ask()) == 1  # the better start


class TestAuto:
    def test_asks_for_everything_once_only(self):
        space = search_spaces.get("micro64")
        auto = Auto()
        auto.start(space, 0)
        auto.tell_scores({arch: 0.0 for arch in auto.scoring.architectures})
        forms = {space.canonical(arch) for arch in space}
        asked = []
        for _ in range(len(forms)):
            asked.append(auto.ask())
            auto.tell(asked[-1], SearcherSuite.value(asked[-1]), 1)
        assert len(set(asked)) == len(forms)

    def test_many_workers_get_different_architectures(self):
        auto = Auto(initial=3)
        auto.start(search_spaces.get("darts"), 0)
        auto.tell_scores({arch: 0.0 for arch in auto.scoring.architectures})
        for _ in range(8):
            arch = auto.ask()
            auto.tell(arch, SearcherSuite.value(arch), 1)
        assert len({auto.ask() for _ in range(16)}) == 16

    def test_learns_from_failures_and_from_stopped_trials(self):
        auto = Auto(initial=3)
        auto.start(search_spaces.get("nasbench201"), 0)
        auto.tell_scores({arch: 0.0 for arch in auto.scoring.architectures})
        for _ in range(30):
            arch = auto.ask()
            value = SearcherSuite.value(arch)
            fails = arch.choices[0] == 4
            auto.tell(arch, -math.inf if fails else value, 1 + 3 * (value > 0.3))
        assert max(map(SearcherSuite.value, auto.results)) >= 5 / 6

    def test_a_prior_needs_counts(self):
        space = search_spaces.UserSpace("own", {"width": (8, 16, 32)}, lambda *_: None)
        with pytest.raises(InvalidArgument, match="prior='counts': own does not count"):
            Auto(prior="counts").check(space)
        with pytest.raises(InvalidArgument, match="prior='counts'"):
            Auto(prior="counts").start(space, 0)  # on a table nobody has checked
        with pytest.raises(InvalidArgument, match="in closed form and has no cells; leave"):
            Auto(prior="structure").check(space)
        Auto().check(space)

    def test_cells_are_enough_for_a_prior_of_their_structure(self):
        class Uncounted(NASBench201):
            @property
            def counts_fast(self):
                return False

        Auto(prior="structure").check(Uncounted())
        with pytest.raises(InvalidArgument, match="prior='counts'"):
            Auto(prior="counts").check(Uncounted())

    def test_another_prior_is_unknown(self):
        with pytest.raises(InvalidArgument, match="prior='naswot': Input should be 'counts' or"):
            construct("search", "auto:prior=naswot", SEARCHERS)

    @pytest.mark.parametrize(
        ("cell", "structure"),
        [
            # 0-3, 0-1-3, 0-2-3 and 0-1-2-3, of which the first is a skip connection
            ([3, 3, 3, 1, 3, 3], [math.log(5), 0, 3, (0 + 2 + 2 + 3) / 4, 1]),
            ([3, 0, 0, 4, 2, 0], [math.log(3), 1, 2, 1.5, 0]),
            ([3, 3, 3, 0, 0, 0], [0, 0, 0, 0, 0]),  # nothing arrives
        ],
    )
    def test_structure_of_a_cell(self, cell, structure):
        space = search_spaces.get("nasbench201")
        rows = description_of(space).rows([space.architecture(cell)])
        assert rows["structure"][0] == pytest.approx(structure)

    def test_distances_of_counts_are_exact(self):
        rng = np.random.default_rng(0)
        a, b = rng.poisson(0.5, (30, 128)).astype(float), rng.poisson(0.5, (40, 128)).astype(float)
        a[3], b[5] = 0, 0
        b[7, 2] = 200
        assert np.array_equal(_distance_of_counts(a, b), cdist(a, b, "cityblock"))


class TestFidelities:
    """Values after fewer epochs as observations of lower fidelity."""

    def test_who_gets_further_shares_out_the_places_held_until_then(self):
        archs = [SPACE.architecture((i, 0, 0, 0, 0, 0)) for i in range(4)]
        a, b, c, d = archs
        curves = {a: {1: 0.4, 4: 0.5}, b: {1: 0.3, 4: 0.9}, c: {1: 0.35}, d: {1: 0.1}}
        # after one epoch d b c a; after four b is ahead of a, and a has the place that b had
        assert places(curves) == {b: 3, c: 2, a: 1, d: 0}
        # of one that is known from its fourth epoch on nothing earlier is known
        late = SPACE.architecture((4, 4, 4, 4, 4, 4))
        assert places({**curves, late: {4: 0.95}}) == {late: 4, b: 3, c: 2, a: 1, d: 0}
        assert places({}) == {}

    def test_an_early_value_is_the_less_certain_the_more_epochs_it_lacks(self):
        """All that is different between two fits is how many epochs the values lack."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(20, 2))
        missing = np.where(np.arange(20) < 10, math.log(16), 0.0)
        surrogate = Surrogate(["costs"], rng, drift=True)
        surrogate.fit({"costs": x}, x.sum(axis=1), search=False, missing=missing)
        deviation = surrogate.predict({"costs": x})[1]
        assert deviation[:10].min() > deviation[10:].max()

    def test_the_drift_is_learned(self):
        """Where early values are the final ones it vanishes, where they are noise it grows."""
        drifts = []
        for noise in (0.0, 3.0):
            rng = np.random.default_rng(1)
            x = rng.normal(size=(60, 2))
            missing = np.where(np.arange(60) < 40, math.log(16), 0.0)
            values = x.sum(axis=1) + noise * rng.normal(size=60) * (missing > 0)
            surrogate = Surrogate(["costs"], rng, drift=True)
            for _ in range(5):
                surrogate.fit({"costs": x}, values, search=True, missing=missing)
            drifts.append(surrogate.parameters[-1])
        assert drifts[1] > drifts[0] + 2

    def test_a_search_hears_of_trials_that_still_run(self):
        search = Search(SPACE, Auto(fidelities=True), Fifo(), samples=3, epochs=4, seed=0)
        for arch in list(search.unscored):
            search.score(arch, 0.0)
        first, second = search.suggest(), search.suggest()
        search.report(first.index, {METRIC: 0.5})
        search.report(first.index, {METRIC: 0.6})
        search.report(second.index, {METRIC: 0.7})
        heard = [search.searcher.curves[a] for a in map(SPACE.canonical, search.architectures)]
        assert heard == [{1: 0.5, 2: 0.6}, {1: 0.7}]
        search.finish(second.index, Status.FAILED, "out of memory")
        assert SPACE.canonical(search.architectures[1]) not in search.searcher.curves


class TestLinearPrior:
    def fitted(self, value, seed=0):
        """Fit one to the values of 40 architectures that differ in their costs only."""
        rng = np.random.default_rng(seed)
        costs = rng.normal((12, 16), (1, 2), (40, 2))
        prior = LinearPrior(["costs"], rng, ["costs"], {"costs": costs})
        values = value(costs, rng)
        for _ in range(5):
            prior.fit({"costs": costs}, values, search=True)
        return prior

    def rise(self, prior):
        """Return by how much more is expected of large networks than of small, far outside."""
        far = np.array([[12.0, 16.0]]) + np.array([[4.0], [-4.0]]) * np.array([[1.0, 2.0]])
        large, small = prior.predict({"costs": far})[0]
        return large - small

    @pytest.mark.parametrize("sign", [1, -1])
    def test_results_say_which_way_the_counts_point(self, sign):
        prior = self.fitted(lambda costs, _: sign * costs.sum(axis=1))
        within = np.ptp(prior.targets)
        assert sign * self.rise(prior) > within  # without a prior mean, less than within

    def test_where_counts_are_noise_their_weight_vanishes(self):
        of_noise, of_signal = [], []
        for seed in range(8):
            noise = self.fitted(lambda costs, rng: rng.normal(size=len(costs)), seed)
            signal = self.fitted(lambda costs, _: costs.sum(axis=1), seed)
            of_noise.append(abs(self.rise(noise)))
            of_signal.append(self.rise(signal))
        assert np.mean(of_noise) < np.mean(of_signal) / 5

    def test_what_is_predicted_is_the_gaussian_process_of_the_kernel(self):
        """Rasmussen, Williams, equations 2.25 and 2.26, by the inverse."""
        prior = self.fitted(lambda costs, rng: costs[:, 0] + rng.normal(size=len(costs)))
        known, new = prior.features["costs"], np.array([[13.0, 15.0], [10.0, 19.0]])

        def kernel(a, b):
            v, length, *_ = np.exp(prior.parameters)
            z_a, z_b = ((x - known.mean(axis=0)) / known.std(axis=0) for x in (a, b))
            # one component, so the sum and the product of all are the same
            return v * z_a @ z_b.T / 2 + np.exp(-cdist(a, b, "cityblock") / length)

        noise = np.exp(prior.parameters[-1]) + 1e-8
        inverse = np.linalg.inv(kernel(known, known) + noise * np.eye(len(known)))
        scale = prior.targets @ inverse @ prior.targets / len(known)
        between = kernel(known, new)
        mean, deviation = prior.predict({"costs": new})
        assert mean == pytest.approx(between.T @ inverse @ prior.targets)
        variance = scale * np.diag(kernel(new, new) - between.T @ inverse @ between)
        assert deviation == pytest.approx(np.sqrt(variance))


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


@pytest.mark.parametrize("name", sorted(SEARCHERS.keys() - {"adanet"}))
def test_a_searcher_grows_no_ensemble_unless_it_says_so(name):
    searcher = SEARCHERS[name]()
    assert not searcher.needs_predictions
    assert (searcher.ensemble, searcher.undecided, searcher.combine) == ((), (), None)
    assert list(searcher.penalties([3, 5])) == [0.0, 0.0]


def test_a_wrapper_needs_what_it_wraps_needs():
    class Demanding(RandomSearch):
        needs_full_training = repeats = True
        fewest_samples = 7

    wrapper = NeighborhoodAware(Demanding())
    assert wrapper.needs_full_training
    assert wrapper.repeats
    assert wrapper.fewest_samples == 7
    assert not NeighborhoodAware("random").needs_full_training
