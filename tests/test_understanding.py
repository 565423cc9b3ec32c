"""Width and depth, bias, convergence, trust in proxies: on data whose answer is known."""

import itertools
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from histories import history_of
from recorded_runs import unpack
from scipy.stats import binomtest, fisher_exact, kendalltau, multinomial, t

import raynas
import search_spaces
from raynas.errors import InvalidArgument
from raynas.reports.understanding_figures import signals_figure
from raynas.understanding import exact_tests
from raynas.understanding.bias import biases, overall_rows, run_strata
from raynas.understanding.convergence import curves
from raynas.understanding.proxy_trust import proxy_trust, trust
from raynas.understanding.strata import JOINT, _grouped
from raynas.understanding.topology import population, shapes, topology

NB201 = search_spaces.get("nasbench201:channels=4,cells=1")
DARTS = search_spaces.get("darts:channels=4,cells=3")
MACRO = search_spaces.get("nasbench_macro")
IMAGES = ((1, 8, 8), 10)


#: papers: exact enumeration of all 4-node cells, two distinct sources (180 wirings)
DISTINCT = {
    (4.0, 2): 0.0056, (3.5, 3): 0.0667, (3.0, 3): 0.1778, (3.0, 4): 0.0889, (2.5, 3): 0.1000,
    (2.5, 4): 0.2667, (2.5, 5): 0.0444, (2.0, 3): 0.0056, (2.0, 4): 0.1444, (2.0, 5): 0.0667,
    (1.5, 4): 0.0111, (1.5, 5): 0.0222,
}  # fmt: skip
#: the same, sources with replacement (14,400 wirings)
REPLACED = {
    (4.0, 2): 0.0178, (3.5, 3): 0.1067, (3.0, 3): 0.1867, (3.0, 4): 0.0711, (2.5, 3): 0.1244,
    (2.5, 4): 0.1778, (2.5, 5): 0.0178, (2.0, 3): 0.0367, (2.0, 4): 0.1378, (2.0, 5): 0.0400,
}  # fmt: skip


def shares(space, cell="normal"):
    table = population(space).shapes
    mine = table[table["cell"] == cell]
    return dict(zip(zip(mine["width"], mine["depth"], strict=True), mine["share"], strict=True))


def drawn(space, number, seed):
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(number)]


def of_depth(space, depth, number, seed=0):
    rng = np.random.default_rng(seed)
    draws = iter(lambda: space.sample(rng), None)
    return list(itertools.islice((a for a in draws if space.depth(a) == depth), number))


def biases_of(history, space, best=None):
    return biases(history, run_strata(history, space, IMAGES), best, space)


def overall_p(group, evaluations, rungs=()):
    """The last row that `Bias.overall` has of a property."""
    return list(overall_rows(group, evaluations, list(rungs)))[-1][-1]


class TestPopulation:
    @pytest.mark.parametrize("cell", ["normal", "reduction"])
    def test_all_wirings_of_a_darts_cell(self, cell):
        assert {k: round(v, 4) for k, v in shares(DARTS, cell).items()} == DISTINCT
        known = population(DARTS)
        assert (known.drawn, known.enumerated) == (None, 180)

    def test_all_wirings_with_replacement(self):
        space = search_spaces.get("darts:replacement=true")
        found = shares(space)
        assert {k: round(v, 4) for k, v in found.items() if k[0] >= 2} == REPLACED
        by_width = Counter()
        for (width, _), share in found.items():
            by_width[width] += share
        assert (round(by_width[1.5], 4), round(by_width[1.0], 4)) == (0.0733, 0.0100)
        assert population(space).enumerated == 14_400

    @pytest.mark.parametrize("space", [DARTS, NB201], ids=["darts", "nasbench201"])
    def test_what_is_exact_is_what_the_space_draws(self, space):
        number = 3000
        found = Counter(shapes(space, arch)["normal"] for arch in drawn(space, number, seed=1))
        expected = shares(space)
        assert set(found) <= set(expected)
        for shape, share in expected.items():  # 5 sigma: a false alarm in a million
            assert abs(found[shape] - number * share) < 5 * math.sqrt(number * share) + 1

    def test_canonical_forms_have_other_shares(self):
        forms = {NB201.canonical(arch) for arch in NB201}
        depths = Counter(NB201.depth(form) for form in forms)
        raw = population(NB201).shapes.groupby("depth")["share"].sum()
        assert abs(depths[3] / len(forms) - raw[3]) > 0.1

    def test_what_cannot_be_enumerated_is_drawn_and_says_so(self):
        known = population(search_spaces.get("enas"))
        assert (known.drawn, known.enumerated) == (4000, 0)
        assert "estimated from 4,000 uniform draws" in known.source
        assert known.shapes.groupby("cell")["share"].sum().round(9).tolist() == [1.0, 1.0]

    def test_no_cells(self):
        with pytest.raises(InvalidArgument, match=r"nasbench_macro have no cells.*macs or params"):
            population(MACRO)

    def test_a_list_of_architectures(self):
        table = topology(["DARTS_V2", DARTS.genotype("SNAS")], DARTS)
        assert table.drop(columns="architecture").to_dict("list") == {
            "cell": ["normal", "reduction"] * 2,
            "width": [3.5, 2.5, 4.0, 2.5],
            "depth": [3, 3, 2, 3],
        }
        assert DARTS.from_string(table["architecture"][0]) == DARTS.genotype("DARTS_V2")
        with pytest.raises(InvalidArgument, match="give their space"):
            topology(["DARTS_V2"])


class TestExactTests:
    def test_multinomial_against_enumeration(self):
        expected, observed, n = np.array([0.5, 0.3, 0.2]), np.array([2, 1, 5]), 8
        outcomes = [
            (i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)
        ]  # fmt: skip
        chances = multinomial.pmf(outcomes, n, expected)
        p = chances[chances <= multinomial.pmf(observed, n, expected) * (1 + 1e-9)].sum()
        # 4 standard errors of 10,000 draws: a false alarm in 16,000
        assert abs(exact_tests.shares_p(observed, expected) - p) < 4 * math.sqrt(p / 10_000)

    def test_one_share_is_the_binomial_test(self):
        assert exact_tests.share_p(7, 10, 0.3) == binomtest(7, 10, 0.3).pvalue
        assert exact_tests.share_p(3, 10, 0.0) == 0.0
        assert exact_tests.share_p(0, 0, 0.5) == 1.0

    def test_subset_of_two_strata_is_fishers(self):
        for counts, totals in (([9, 1], [12, 12]), ([4, 6], [10, 14])):
            table = [counts, [n - k for k, n in zip(counts, totals, strict=True)]]
            p = fisher_exact(table)[1]
            error = 4 * math.sqrt(p * (1 - p) / 10_000) + 2e-4
            assert abs(exact_tests.subset_p(counts, totals) - p) < error

    def test_subset_that_tells_nothing(self):
        assert exact_tests.subset_p([3, 4], [3, 4]) == 1.0
        assert exact_tests.subset_p([0, 0], [3, 4]) == 1.0
        assert exact_tests.subset_p([2, 0], [5, 0]) == 1.0

    def test_mean_ranks_against_all_subsets(self):
        changes, strata = np.array([4.0, 3.0, -1.0, -2.0, -3.0, -1.0]), np.array([0, 0, 1, 1, 1, 1])
        means = [np.mean(pair) for pair in itertools.combinations(changes, 2)]
        p = np.mean([abs(mean) >= 3.5 for mean in means])
        found = exact_tests.mean_ranks_p(changes, strata)
        assert found == pytest.approx([p, p], abs=4 * math.sqrt(p / 10_000))

    def test_holm(self):
        assert exact_tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
            [0.03, 0.06, 0.06, 0.02]
        )


class TestProposed:
    def test_a_search_of_one_stratum_is_flagged(self):
        archs = of_depth(DARTS, 3, 40)
        bias = biases_of(history_of(DARTS, archs, [[0.5]] * 40, 1), DARTS)
        rows = bias.steps[(bias.steps["of"] == "depth") & (bias.steps["step"] == "proposed")]
        three = rows[rows["stratum"] == "3"].iloc[0]
        expected = sum(share for (_, depth), share in shares(DARTS).items() if depth == 3)
        assert (three["count"], three["share"]) == (40, 1.0)
        assert three["expected"] == pytest.approx(expected)
        assert three["p"] == pytest.approx(binomtest(40, 40, expected).pvalue)
        assert three["p_holm"] < 1e-6
        overall = bias.overall.set_index(["of", "step"])["p"]
        assert overall["depth", "proposed"] < 0.001
        text = str(bias)
        assert "depth 3 made up 100 % of the evaluations, 35 % of the space (p < .001)" in text
        assert "reduction cell depth: no evidence against uniform draws" in text

    @pytest.mark.parametrize("space", [NB201, search_spaces.get("enas")], ids=["exact", "drawn"])
    def test_uniform_draws_are_flagged_at_the_nominal_rate(self, space):
        flagged = 0
        for seed in range(100):
            history = history_of(space, drawn(space, 25, 1000 + seed), [[]] * 25, 1)
            (group,) = (g for g in run_strata(history, space, IMAGES) if g.of == "depth")
            flagged += overall_p(group, history.evaluations) < 0.05
        # 5 on average; more than 14 come about in one of 4,000 such tests
        assert flagged <= 14

    def test_shares_add_up(self):
        bias = biases_of(history_of(DARTS, drawn(DARTS, 20, 2), [[0.5]] * 20, 1), DARTS)
        for step in ("population", "proposed"):
            mine = bias.steps[bias.steps["step"] == step]
            assert mine.groupby("of")["share"].sum().round(9).eq(1.0).all()
        assert set(bias.overall["of"]) == {
            "width", "depth", JOINT, "reduction_width", "reduction_depth",
        }  # fmt: skip

    def test_what_was_never_drawn_of_a_sampled_space_has_its_stratum(self):
        space = search_spaces.get("nasnet")
        arch = space.genotype("NASNet_ADAPT")
        bias = biases_of(history_of(space, [arch] * 12, [[0.5]] * 12, 1), space)
        row = bias.steps[(bias.steps["of"] == "width") & (bias.steps["step"] == "proposed")]
        assert row[row["stratum"] == "5c"]["count"].tolist() == [12]

    def test_it_is_said_where_random_search_differs_as_it_repeats_no_function(self):
        rng = np.random.default_rng(3)
        forms = {}
        while len(forms) < 300:
            arch = NB201.sample(rng)
            forms.setdefault(NB201.canonical(arch), arch)
        archs = list(forms.values())
        few, much = (
            biases_of(history_of(NB201, some, [[]] * len(some), 1), NB201)
            for some in (archs[:32], archs)
        )
        assert much.overall.set_index("of")["p"]["depth"] < 0.05
        assert "shares drift away" in str(much)
        assert few.overall.set_index("of")["p"]["depth"] > 0.05
        assert "shares drift away" not in str(few)
        wide = drawn(DARTS, 300, 3)
        assert "drift" not in str(biases_of(history_of(DARTS, wide, [[]] * 300, 1), DARTS))

    def test_without_cells_by_macs_and_parameters(self):
        archs = sorted(MACRO, key=lambda a: MACRO.macs(a, *IMAGES))[:30]
        bias = biases_of(history_of(MACRO, archs, [[0.5]] * 30, 1), MACRO)
        assert set(bias.overall["of"]) == {"macs", "params"}
        assert bias.overall.set_index("of")["p"]["macs"] < 0.001
        assert "MACs below" in str(bias)
        known = bias.steps[(bias.steps["of"] == "macs") & (bias.steps["step"] == "population")]
        assert known["share"].between(0.15, 0.35).all()
        with pytest.raises(InvalidArgument, match="not finished"):
            run_strata(history_of(MACRO, archs, [[0.5]] * 30, 1), MACRO, None)

    def test_of_a_given_list_no_proposals_are_told(self):
        archs = of_depth(NB201, 3, 12)
        history = history_of(NB201, archs, [[0.4]] * 6 + [[0.5, 0.6]] * 6, 2)
        groups = run_strata(history, NB201, IMAGES)
        bias = biases(history, groups, None, NB201, given=True)
        assert bias.given
        assert bias.sentences[0] == (
            "Architectures given: 12, as a list; no search has proposed any."
        )
        assert not any(s.startswith("Proposed") or "the space" in s for s in bias.sentences)
        assert any(s.startswith("Survived epoch 1, by depth") for s in bias.sentences)

    def test_a_class_of_a_single_value_is_not_named_as_a_range(self):
        shares = {(1.0,): 0.9, **{(2.0 + i,): 0.1 / 15 for i in range(15)}}  # too many values
        group = _grouped("depth", shares, [(1.0,), (16.0,)], population(DARTS))
        assert group.labels == ("1", "2 to 16")
        assert group.members.tolist() == [0, 1]

    def test_nothing_evaluated(self):
        with pytest.raises(InvalidArgument, match="nothing has been evaluated"):
            run_strata(history_of(NB201, [], [], 1), NB201, IMAGES)


class TestSurvived:
    def test_a_stratum_that_is_cut_is_flagged(self):
        archs = of_depth(NB201, 2, 15) + of_depth(NB201, 3, 15)
        curves_ = [[0.4]] * 15 + [[0.5, 0.6]] * 15
        bias = biases_of(history_of(NB201, archs, curves_, 2), NB201)
        rows = bias.steps[(bias.steps["of"] == "depth") & (bias.steps["step"] == "survived")]
        two = rows[rows["stratum"] == "2"].iloc[0]
        assert (two["epoch"], two["count"], two["out_of"], two["expected"]) == (1, 0, 15, 0.5)
        assert two["p"] == pytest.approx(fisher_exact([[0, 15], [15, 0]])[1])
        said = "of depth 2 0 of 15 went on, where the rate of all is 50 % (p < .001)"
        assert said in str(bias)

    def test_survival_at_random_is_flagged_at_the_nominal_rate(self):
        flagged = 0
        for seed in range(100):
            kept = set(np.random.default_rng(seed).permutation(30)[:10].tolist())
            told = [[0.5, 0.5] if i in kept else [0.5] for i in range(30)]
            history = history_of(NB201, drawn(NB201, 30, seed), told, 2)
            (group,) = (g for g in run_strata(history, NB201, IMAGES) if g.of == "depth")
            flagged += overall_p(group, history.evaluations, rungs=[1]) < 0.05
        assert flagged <= 14  # as above

    def test_who_failed_was_not_stopped(self):
        archs = drawn(NB201, 4, 0)
        history = history_of(NB201, archs, [[0.4], [0.5, 0.6], [0.3], [0.2, 0.3]], 2)
        history.evaluations[0].status = type(history.evaluations[0].status)("diverged")
        row = biases_of(history, NB201).overall.set_index(["of", "step"])
        assert row["architectures"]["depth", "survived"] == 3


class TestAgreement:
    def slow(self):
        """Depth 4 is last after epoch 1 and first after epoch 2."""
        deep, shallow = of_depth(DARTS, 4, 8), of_depth(DARTS, 3, 8)
        told = [[0.1 + i / 100, 0.8 + i / 100] for i in range(8)]
        return deep + shallow, told + [[0.3 + i / 100, 0.5 + i / 100] for i in range(8)]

    def test_a_stratum_that_converges_slowly_is_found(self):
        bias = biases_of(history_of(DARTS, *self.slow(), 2), DARTS)
        rows = bias.agreement[bias.agreement["of"] == "depth"].set_index("stratum")
        assert rows["rank_change"].to_dict() == {"all": 0.0, "3": -8.0, "4": 8.0}
        assert rows["tau"][["3", "4"]].tolist() == pytest.approx([1.0, 1.0])
        early, final = zip(*self.slow()[1], strict=True)
        assert rows["tau"]["all"] == pytest.approx(kendalltau(early, final).statistic)
        assert "depth 4 rose by 8.0 places on average" in str(bias)
        assert "an early ranking underrates it" in str(bias)

    def test_noise_is_no_slow_convergence(self):
        rng = np.random.default_rng(0)
        archs = drawn(NB201, 30, 5)
        told = [[q + rng.normal(0, 0.1), q] for q in rng.random(30)]
        bias = biases_of(history_of(NB201, archs, told, 2), NB201)
        assert "no evidence that some converge more slowly" in str(bias)

    def test_too_few_are_said(self):
        bias = biases_of(history_of(NB201, drawn(NB201, 2, 0), [[0.1, 0.2]] * 2, 2), NB201)
        assert bias.agreement.empty
        assert "No early ranking can be compared" in str(bias)
        assert "With 2, nothing but a very strong preference could be seen." in str(bias)

    def test_one_table(self):
        archs, told = self.slow()
        frame = biases_of(history_of(DARTS, archs, told, 2), DARTS).to_frame()
        assert set(frame["step"]) == {"population", "proposed", "agreement"}
        assert (frame["stratum"] == "overall").sum() == 5


class TestConvergence:
    def test_means_of_what_still_runs(self):
        archs = of_depth(NB201, 2, 3) + of_depth(NB201, 3, 1)
        told = [[0.2, 0.6], [0.4], [0.6, 0.8], [0.1, 0.2]]
        losses = [[2.0, 1.0], [1.0], [3.0, 2.0], [4.0, 3.0]]
        history = history_of(NB201, archs, told, 2, losses)
        table = curves(history, run_strata(history, NB201, IMAGES))
        mine = table[(table["of"] == "depth") & (table["stratum"] == "2")]
        accuracy = mine[mine["metric"] == "val_accuracy"]
        assert accuracy["architectures"].tolist() == [3, 2]
        assert accuracy["mean"].tolist() == pytest.approx([0.4, 0.7])
        half = t.ppf(0.975, 2) * 0.2 / math.sqrt(3)
        assert accuracy["high"].iloc[0] == pytest.approx(0.4 + half)
        loss = mine[mine["metric"] == "train_loss"]
        assert loss["mean"].tolist() == pytest.approx([2.0, 1.5])
        alone = table[(table["of"] == "depth") & (table["stratum"] == "3")]
        assert alone["low"].isna().all()
        assert set(table["of"]) == {"width", "depth"}


class TestProxyTrust:
    def many(self, number=30, noise=0.0, seed=0):
        """Final accuracies, and early ones that are the same but for noise."""
        rng = np.random.default_rng(seed)
        archs = [*{NB201.canonical(a): a for a in drawn(NB201, 2 * number, seed)}.values()][:number]
        final = rng.permutation(number) / number
        early = final + noise * rng.normal(size=number)
        return archs, [[float(a), float(b)] for a, b in zip(early, final, strict=True)]

    def row(self, found, signal, epoch=2):
        table = found.signals
        return table[(table["signal"] == signal) & (table["epoch"] == epoch)].iloc[0]

    def test_tau_and_advice(self):
        for noise, word in ((0.0, "about as good as one training"), (100.0, "not distinguishable")):
            archs, told = self.many(noise=noise)
            found = trust(history_of(NB201, archs, told, 2), NB201, "train")
            row = self.row(found, "accuracy after epoch 1")
            assert row["tau"] == pytest.approx(kendalltau(*zip(*told, strict=True)).statistic)
            assert row["low"] <= row["tau"] <= row["high"]
            assert row["architectures"] == 30
            assert word in row["advice"]
            assert found.caveat == ""

    @pytest.mark.parametrize(
        ("number", "words"),
        [(4, "not distinguishable"), (8, "discard the worst half"), (15, "for a shortlist")],
    )
    def test_a_perfect_order_of_few_is_not_trusted_far(self, number, words):
        archs, told = self.many(number)
        found = trust(history_of(NB201, archs, told, 2), NB201, "train")
        assert words in self.row(found, "accuracy after epoch 1")["advice"]

    def test_the_wrong_way_round(self):
        archs, told = self.many()
        scores = {
            "upside-down": {NB201.to_string(a): -c[-1] for a, c in zip(archs, told, strict=True)}
        }
        found = trust(history_of(NB201, archs, told, 2), NB201, "train", scores=scores)
        row = self.row(found, "upside-down")
        assert row["tau"] == pytest.approx(-1.0)
        assert "wrong way round" in row["advice"]

    def test_scores_of_the_warm_start_by_canonical_form(self):
        archs, told = self.many()
        equal = {NB201.canonical(a): c[-1] for a, c in zip(archs, told, strict=True)}
        found = trust(history_of(NB201, archs, told, 2, scores=equal), NB201, "train")
        assert self.row(found, "warm start's score")["tau"] == pytest.approx(1.0)

    def test_params_and_macs_are_counted_where_they_were_not_measured(self):
        archs, told = self.many()
        found = trust(history_of(NB201, archs, told, 2), NB201, "train", IMAGES)
        expected = kendalltau([NB201.macs(a, *IMAGES) for a in archs], [c[-1] for c in told])
        assert self.row(found, "macs")["tau"] == pytest.approx(expected.statistic)
        found = trust(history_of(NB201, archs, told, 2), NB201, "train")
        assert "macs" not in set(found.signals["signal"])

    def test_selection_is_said_and_the_rung_has_all(self):
        archs, told = self.many(noise=0.3)
        told = [curve if i < 12 else curve[:1] for i, curve in enumerate(told)]
        found = trust(history_of(NB201, archs, told, 2), NB201, "train", IMAGES)
        assert found.architectures == self.row(found, "macs")["architectures"] == 12
        assert self.row(found, "macs", epoch=1)["architectures"] == 30
        expected = kendalltau([NB201.macs(a, *IMAGES) for a in archs], [c[0] for c in told])
        assert self.row(found, "macs", epoch=1)["tau"] == pytest.approx(expected.statistic)
        assert "18 evaluations were stopped early" in found.caveat
        assert found.sentences[-1] == found.caveat

    def test_the_mean_of_the_neighbors_leaves_the_center_out(self):
        center = NB201.architecture([1, 2, 3, 1, 2, 3])
        archs = [center, *list(NB201.neighbors(center))[:3]]
        told = [[0.1], [0.2], [0.4], [0.6]]
        found = trust(history_of(NB201, archs, told, 1), NB201, "train")
        row = found.values.set_index("evaluation")["mean of the neighbors"]
        assert row[0] == pytest.approx(0.4)

    def test_fewer_than_three(self):
        archs, told = self.many(2)
        found = trust(history_of(NB201, archs, told, 2), NB201, "train")
        assert found.signals.empty
        (sentence,) = found.sentences
        assert "nothing can be said of any signal" in sentence

    def test_shared_weights_against_the_retrained(self):
        archs, told = self.many(6)
        told = [[curve[-1]] for curve in told]
        best = {i: {"val_accuracy": told[i][0], "test_accuracy": 1 - told[i][0]} for i in range(4)}
        history = history_of(NB201, archs, told, 1, retrained=best)
        history.supernet[0, 1] = {}
        found = trust(history, NB201, "supernet:epochs=2")
        row = found.signals[found.signals["signal"] == "supernet accuracy"].iloc[0]
        assert row["architectures"] == 4
        assert row["tau"] == pytest.approx(-1.0)
        assert "with the final accuracy of 4 architectures" in row["advice"]
        assert "Only the 4 that were retrained" in found.caveat

    def test_what_is_final_without_training_is_drawn_as_an_accuracy(self):
        archs = drawn(NB201, 5, 0)
        retrained = {i: {"test_accuracy": 0.5 + i / 10} for i in range(5)}
        curves_ = [[float(i)] for i in range(5)]
        history = history_of(NB201, archs, curves_, 1, retrained=retrained)
        figure = signals_figure(trust(history, NB201, "proxy:naswot", IMAGES), "naswot")
        axes = figure.axes[0]
        assert axes.get_ylabel() == "final accuracy in %"
        assert max(axes.collections[0].get_offsets()[:, 1]) == pytest.approx(90)

    def test_scores_of_another_form(self):
        with pytest.raises(InvalidArgument, match="architecture: score"):
            proxy_trust("anywhere", scores={"naswot": pd.Series([1.0])})


class TestRuns:
    """Of recorded runs; none of it needs Ray."""

    def test_topology_has_the_evaluations(self, tmp_path):
        run = unpack("evolution", tmp_path)
        table, trials = raynas.topology(run), raynas.load(run).trials
        assert table["evaluation"].tolist() == trials["evaluation"].tolist()
        assert table["epochs"].tolist() == trials["epochs"].tolist()

    def test_a_table_is_its_own_population(self, tmp_path):
        found = raynas.bias(unpack("table", tmp_path))  # of 729 cells without `none`, all 1.5c, 3
        assert set(found.overall["of"]) == {"macs", "params"}

    def test_an_unfinished_run_has_no_winner(self, tmp_path):
        run = unpack("killed", tmp_path)
        assert "won" not in set(raynas.bias(run).steps["step"])
        assert not raynas.convergence(run).empty
        assert raynas.proxy_trust(run).architectures == 1
