"""SAEP: the measures, the rules and the combinations, on predictions without networks."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import normalized_mutual_info_score
from torch.nn import functional

import raynas
from benchmarks.ensemble import LiteralPAP
from raynas import InvalidArgument
from raynas.ensemble import information
from raynas.ensemble.combination import (
    KINDS,
    Combination,
    accuracies,
    fit,
    measures,
    mixture_weights,
)
from raynas.ensemble.comep import comep, tdas
from raynas.ensemble.domep import domep
from raynas.ensemble.information import (
    disagreement_matrix,
    mutual_information,
    tdac,
    tdac_matrix,
    variation_of_information,
    vi_matrix,
)
from raynas.ensemble.rules import PAP, RULES, contributions, removal_order
from raynas.ensemble.saep import SAEP
from raynas.testing import RuleSuite
from trials.deployed import Committee

X, Y, Z, LABELS = ([int(c) for c in text] for text in ("001101", "011100", "001001", "001111"))

vectors = st.integers(2, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n)] * 3)
)


def logits_of(predictions, classes=None, sure=3.0):
    """Logits, `members x images x classes`, of members that predict these classes."""
    predictions = np.asarray(predictions)
    classes = classes or int(predictions.max()) + 1
    return (sure * np.eye(classes)[predictions]).astype(np.float32)


def made_up(members=8, images=300, classes=4, seed=0):
    """Logits of members that are right more often than not, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    signal = rng.uniform(0.5, 2.5, (members, 1, 1)) * np.eye(classes)[labels]
    noise = rng.normal(size=(members, images, classes)) + rng.normal(size=(images, classes))
    return (signal + noise).astype(np.float32), labels


class TestMeasures:
    def test_vector(self):
        """The values of the paper's formulas for three members of two classes."""
        relevances = [mutual_information(v, LABELS) for v in (X, Y, Z)]
        assert relevances == pytest.approx([0.4791, 0.0, 0.2740], abs=5e-5)
        pairs = [(X, Y), (X, Z), (Y, Z)]
        vi = [variation_of_information(*pair) for pair in pairs]
        assert vi == pytest.approx([0.9574, 0.6853, 1.0], abs=5e-5)
        for alpha, expected in {
            0: [0.2396, 0.3766, 0.1370],
            0.5: [0.5985, 0.5310, 0.5685],
            1: [0.9574, 0.6853, 1.0],
        }.items():
            found = [tdac(*pair, LABELS, alpha) for pair in pairs]
            assert found == pytest.approx(expected, abs=5e-5)

    @given(vectors)
    def test_properties(self, vectors):
        x, y, labels = vectors
        mi, vi = mutual_information(x, y), variation_of_information(x, y)
        assert 0 <= mi <= 1
        assert 0 <= vi <= 1
        assert mi == pytest.approx(mutual_information(y, x), abs=1e-12)
        assert vi == pytest.approx(variation_of_information(y, x), abs=1e-12)
        assert mutual_information(x, x) == pytest.approx(1)
        assert variation_of_information(x, x) == pytest.approx(0, abs=1e-12)
        assert tdac(x, x, labels) == 0
        assert mi == pytest.approx(
            normalized_mutual_info_score(x, y, average_method="geometric"), abs=1e-9
        )

    @given(vectors, st.permutations(range(4)), st.floats(0, 1))
    def test_do_not_depend_on_how_classes_are_named(self, vectors, names, alpha):
        x, y, labels = vectors
        named_x = [names[c] for c in x]
        named_y = [names[c] for c in y]
        assert mutual_information(named_x, labels) == pytest.approx(mutual_information(x, labels))
        assert variation_of_information(named_x, y) == pytest.approx(
            variation_of_information(x, y), abs=1e-12
        )
        assert tdac(named_x, named_y, labels, alpha) == pytest.approx(
            tdac(x, y, labels, alpha), abs=1e-12
        )

    def test_constant_predictions(self):
        constant = [1] * 6
        assert mutual_information(constant, LABELS) == 0
        assert variation_of_information(constant, X) == 1
        assert variation_of_information(constant, [0] * 6) == 0
        assert mutual_information(constant, constant) == 1
        assert math.isfinite(tdac(constant, X, LABELS))
        matrix = tdac_matrix(np.array([constant, X, [0] * 6]), np.array(LABELS))
        assert np.isfinite(matrix).all()
        assert matrix[0, 1] == pytest.approx(tdac(constant, X, LABELS))

    def test_takes_any_classes(self):
        named = ["cat" if c else "dog" for c in X]
        assert mutual_information(named, LABELS) == pytest.approx(mutual_information(X, LABELS))
        assert mutual_information(torch.tensor(X), LABELS) == mutual_information(X, LABELS)
        assert tdac([1, 2, 1], ["1", "2", "1"], [0, 0, 1]) > 0  # a number is no text

    def test_one_image(self):
        """Where every prediction is constant: TDAC is that of MI 1 and VI 0."""
        assert tdac_matrix(np.array([[1], [1], [2]]), np.array([0])).tolist() == [
            [0, 0, 0.5], [0, 0, 0.5], [0.5, 0.5, 0],
        ]  # fmt: skip

    @given(vectors, st.floats(0, 1))
    def test_both_forms_of_tdas(self, vectors, alpha):
        """Half of all TDAC; lambda/2 of all VI and (1 - lambda)(k - 1)/2 of all MI with labels."""
        members = [list(v) for v in {tuple(v) for v in vectors}]  # pairwise different
        labels = np.array(vectors[2])
        k = len(members)
        matrix = tdac_matrix(np.array(members), labels, alpha)
        diversity = sum(variation_of_information(p, q) for p in members for q in members)
        relevance = sum(mutual_information(p, labels) for p in members)
        other = alpha / 2 * diversity + (1 - alpha) * (k - 1) / 2 * relevance
        assert tdas(matrix, range(k)) == pytest.approx(other, abs=1e-9)

    @pytest.mark.parametrize("way", ["whole numbers", "floating point", "many classes"])
    def test_matrices_say_what_the_functions_say(self, way, monkeypatch):
        if way == "floating point":
            monkeypatch.delattr(torch, "_int_mm")
        classes = 40 if way == "many classes" else 5
        rng = np.random.default_rng(0)
        labels = rng.integers(0, classes, 157)
        predictions = rng.integers(0, classes, (23, 157))
        predictions[:, :90] = labels[:90]
        predictions[7] = predictions[3]
        predictions[11] = 2
        monkeypatch.setattr(information, "_BLOCK_BYTES", 4 * 23 * 25 * 4)  # several blocks
        matrix, vi = tdac_matrix(predictions, labels, 0.3), vi_matrix(predictions)
        for i, p in enumerate(predictions):
            for j, q in enumerate(predictions):
                assert matrix[i, j] == pytest.approx(tdac(p, q, labels, 0.3), abs=1e-12)
                assert vi[i, j] == pytest.approx(variation_of_information(p, q), abs=1e-12)

    def test_disagreement(self):
        binary = np.array([X, X, [1 - c for c in X], Z])
        matrix = disagreement_matrix(binary)
        assert (np.diagonal(matrix) == 0).all()
        assert matrix[0, 1] == 0
        assert matrix[0, 2] == 1
        assert matrix[0, 3] == pytest.approx(1 / 6)

    @pytest.mark.parametrize(
        ("x", "y", "problem"),
        [
            ([0, 1], [0, 1, 1], "y is of shape"),
            ([], [], "shape"),
            ([[0, 1]], [0], "x is of shape"),
            ([0.0, math.nan], [0, 1], "NaN"),
            (5, 5, "x is of shape"),
            ([[0], [0, 1]], [0, 1], "x: .* inhomogeneous"),
            ([0, 1], [None, 1], "None or NaN among them"),
            (torch.ones(2, requires_grad=True), [0, 1], "x: .* requires grad"),
        ],
    )
    def test_refuse_what_is_no_prediction(self, x, y, problem):
        for measure in (mutual_information, variation_of_information):
            with pytest.raises(InvalidArgument, match=problem):
                measure(x, y)

    @pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
    def test_refuse_a_wrong_alpha(self, alpha):
        with pytest.raises(InvalidArgument, match="alpha"):
            tdac(X, Y, LABELS, alpha)


class TestEveryRule(RuleSuite):
    @pytest.fixture(params=RULES)
    def rule(self, request):
        return RULES[request.param]


class TestRules:
    def rule(self, name, predictions, labels, seed=0, alpha=0.5):
        rng, rules = np.random.default_rng(seed), {**RULES, "pap-literal": LiteralPAP}
        return rules[name](logits_of(predictions), np.array(labels), rng, alpha)

    @pytest.mark.parametrize("name", [name for name in RULES if name != "greedy"])
    def test_prune_nothing_of_two(self, name):
        rule = self.rule(name, [X, Z], LABELS)
        assert all(rule.keep([0, 1]) == [0, 1] for _ in range(50))

    def test_prs_drops_one_half_of_the_time(self):
        rule = self.rule("prs", [X, Y, Z, LABELS], LABELS)
        among = [0, 1, 2, 3]
        gone = Counter(next(iter(set(among) - set(rule.keep(among))), None) for _ in range(10_000))
        assert gone[None] / 10_000 == pytest.approx(0.5, abs=0.02)
        dropped = [gone[member] for member in among]
        expected = sum(dropped) / 4
        chi_squared = sum((count - expected) ** 2 / expected for count in dropped)
        assert chi_squared < 16.3  # 99.9 % of 3 degrees of freedom

    def test_pap_drops_who_is_always_wrong(self):
        """And the literal sign of the authors' code, which a benchmark compares, keeps it."""
        labels = np.array([0, 1, 2, 0, 1, 2, 0, 1])
        good = np.array([labels, labels, labels])
        for member, at in enumerate((0, 3, 6)):  # each errs once, where the two others do not
            good[member, at] = (labels[at] + 1) % 3
        bad = (labels + 1) % 3
        predictions = np.array([*good, bad])
        among = [0, 1, 2, 3]
        assert self.rule("pap", predictions, labels).keep(among) == [0, 1, 2]
        assert self.rule("pap", predictions, labels).goes(among) == 3
        assert self.rule("pap-literal", predictions, labels).keep(among)[-1] == 3
        assert self.rule("pap-literal", predictions, labels).goes(among) != 3

    @pytest.mark.parametrize("kind", [PAP, LiteralPAP])
    def test_pap_treats_duplicates_alike(self, kind):
        """Unless there is only room for two."""
        compared = 0
        for seed in range(10):
            logits, labels = made_up(5, seed=seed)
            logits[4] = logits[1]
            rule = kind(logits, labels, np.random.default_rng(0))
            kept = rule.keep(range(5))
            contribution = rule.contributions(range(5))
            assert contribution[1] == contribution[4]
            if len(kept) > 2:
                assert (1 in kept) == (4 in kept)
                compared += 1
        assert compared > 0

    def test_pap_keeps_the_two_best_where_nobody_matters(self):
        """Of members that all agree, removal never hurts."""
        rule = self.rule("pap", [LABELS] * 4, LABELS)
        assert len(rule.keep(range(4))) == 2

    @given(st.integers(0, 1000), st.integers(2, 6))
    @settings(max_examples=30)
    def test_contributions_are_the_difference_of_errors(self, seed, members):
        logits, labels = made_up(members, images=40, seed=seed)
        shares = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)

        def error(some):
            return np.mean(shares[some].sum(axis=0).argmax(1) != labels)

        every = list(range(members))
        expected = [error([i for i in every if i != j]) - error(every) for j in every]
        found = contributions(shares, shares.max(), shares.sum(axis=0), labels)
        assert found == pytest.approx(np.array(expected))

    def test_pie_on_the_vector(self):
        """From X on, lambda = .5 keeps X and Y, lambda = 0 keeps X and Z."""
        seeds = [s for s in range(20) if np.random.default_rng(s).integers(3) == 0]  # start: X
        assert seeds
        for alpha, kept in ((0.5, [0, 1]), (0, [0, 2])):
            for seed in seeds:
                assert self.rule("pie", [X, Y, Z], LABELS, seed, alpha).keep([0, 1, 2]) == kept

    def test_pie_drops_exactly_one(self):
        logits, labels = made_up()
        rule = RULES["pie"](logits, labels, np.random.default_rng(0))
        assert len(rule.keep(range(8))) == 7

    def test_pie_without_diversity_drops_the_least_relevant(self):
        """Unless the draw starts with it."""
        logits, labels = made_up(6)
        relevance = [mutual_information(own.argmax(1), labels) for own in logits]
        least = int(np.argmin(relevance))
        for seed in range(20):
            start = int(np.random.default_rng(seed).integers(6))
            rule = RULES["pie"](logits, labels, np.random.default_rng(seed), alpha=0)
            assert (rule.goes(range(6)) == least) == (start != least)

    def test_pie_for_diversity_alone_drops_one_of_two_near_duplicates(self):
        logits, labels = made_up(6)
        logits[5] = logits[2]
        logits[5, 0] = np.roll(logits[2, 0], 1)  # one image differs
        for seed in range(10):
            rule = RULES["pie"](logits, labels, np.random.default_rng(seed), alpha=1)
            assert rule.goes(range(6)) in (2, 5)

    @given(st.integers(0, 10_000), st.integers(3, 9), st.floats(0, 1))
    @settings(max_examples=30)
    def test_comep_is_the_greedy_procedure(self, seed, members, alpha):
        """Against the paper's procedure, pair by pair."""
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 3, 60)
        predictions = np.where(rng.random((members, 60)) < 0.6, labels, rng.integers(0, 3, 60))
        size = int(rng.integers(1, members))
        matrix = tdac_matrix(predictions, labels, alpha)
        chosen = comep(matrix, size, np.random.default_rng(seed))
        expected = [int(np.random.default_rng(seed).integers(members))]
        while len(expected) < size:
            gains = {
                p: round(sum(tdac(predictions[p], predictions[q], labels, alpha)
                             for q in expected), 9)
                for p in range(members) if p not in expected
            }  # fmt: skip
            expected.append(max(gains, key=lambda p: (gains[p], -p)))
        assert chosen == expected

    def test_greedy_begins_with_the_least_loss(self):
        logits, labels = made_up()
        losses = functional.cross_entropy(
            torch.tensor(logits).flatten(0, 1), torch.tensor(labels).repeat(8), reduction="none"
        )
        order = removal_order("greedy", logits, labels, seed=0)
        assert order[-1] == int(losses.view(8, -1).mean(1).argmin())


def direct_tdac(predictions, labels, alpha=0.5):
    """{pair: TDAC} by the paper's formulas, from tables of counts; no code of the project."""

    def entropies(x, y):
        joint = np.histogram2d(x, y, bins=[range(6), range(6)])[0]
        return entropy(joint.ravel()), entropy(joint.sum(axis=1)), entropy(joint.sum(axis=0))

    def relevance(x):
        joint, of_x, of_labels = entropies(x, labels)
        return (of_x + of_labels - joint) / math.sqrt(of_x * of_labels)

    def diversity(x, y):
        joint, of_x, of_y = entropies(x, y)
        return 1 - (of_x + of_y - joint) / joint

    own = [relevance(x) for x in predictions]
    return {
        (i, j): alpha * diversity(x, y) + (1 - alpha) * (own[i] + own[j]) / 2
        for i, x in enumerate(predictions) for j, y in enumerate(predictions) if i != j
    }  # fmt: skip


def direct_tdas(gain, chosen):
    """Half the sum over all ordered pairs."""
    return sum(gain[int(i), int(j)] for i in chosen for j in chosen if i != j) / 2


def direct_comep(gain, among, size, rng):
    """(members, TDAS) of the greedy choice that begins with a draw."""
    chosen = [among[int(rng.integers(len(among)))]]
    while len(chosen) < size:
        rest = [member for member in among if member not in chosen]
        chosen.append(max(rest, key=lambda member: sum(gain[member, other] for other in chosen)))
    return chosen, direct_tdas(gain, chosen)


class TestDomep:
    @pytest.fixture
    def predictions(self):
        logits, labels = made_up(60, images=200)
        return logits.argmax(2).astype(np.uint8), labels

    def test_few_members_are_chosen_at_once(self, local_ray, predictions):
        members, labels = predictions
        gain = direct_tdac(members, labels)
        expected, _ = direct_comep(gain, list(range(60)), 10, np.random.default_rng([4]))
        assert domep(members, labels, 10, seed=4) == sorted(expected)

    def test_is_better_than_chance(self, local_ray, predictions, monkeypatch):
        members, labels = predictions
        monkeypatch.setattr("raynas.ensemble.domep._PART", 15)
        chosen = domep(members, labels, 5, seed=1)
        assert len(set(chosen)) == 5
        gain = direct_tdac(members, labels)
        rng = np.random.default_rng(0)
        at_random = [direct_tdas(gain, rng.choice(60, 5, replace=False)) for _ in range(200)]
        assert direct_tdas(gain, chosen) > np.quantile(at_random, 0.95)

    def test_is_the_best_of_the_parts_and_of_their_union(self, local_ray, predictions, monkeypatch):
        """By the paper's formulas, one pair after the other; both outcomes occur."""
        members, labels = predictions
        monkeypatch.setattr("raynas.ensemble.domep._PART", 20)
        gain = direct_tdac(members, labels)
        outcomes = set()
        for seed in range(9):
            shuffled = np.random.default_rng([seed]).permutation(60).tolist()
            parts = [shuffled[:20], shuffled[20:40], shuffled[40:]]
            sets = [
                direct_comep(gain, part, 4, np.random.default_rng([seed, i]))
                for i, part in enumerate(parts)
            ]
            union = [member for chosen, _ in sets for member in chosen]
            together = direct_comep(gain, union, 4, np.random.default_rng([seed, 3]))
            best, value = max(sets, key=lambda found: found[1])
            outcomes.add(together[1] > value)
            expected = together[0] if together[1] > value - 1e-9 else best
            assert domep(members, labels, 4, seed=seed) == sorted(expected)
        assert outcomes == {True, False}

    @pytest.mark.parametrize("wrong", [[0, 1], [[0] * 200]])
    def test_refuses_labels_of_other_images(self, predictions, wrong):
        with pytest.raises(InvalidArgument, match="labels of shape"):
            domep(predictions[0], wrong, 4)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda p: p.astype(int) - 1, "predictions hold int64"),
            (lambda p: p + 0.5, "predictions hold float64"),
            (lambda p: p.astype(str), "predictions hold <U"),
            (lambda p: p.astype(int) + 10**12, "outside 0..65535"),
            (lambda p: p[:, :0], "labels of shape"),
        ],
    )
    def test_refuses_what_are_no_classes(self, predictions, change, problem):
        members, labels = predictions
        with pytest.raises(InvalidArgument, match=problem):
            domep(change(members), labels[: change(members).shape[1]], 4)

    @pytest.mark.parametrize("seed", [-1, 0.5])
    def test_refuses_a_wrong_seed(self, predictions, seed):
        with pytest.raises(InvalidArgument, match="seed="):
            domep(*predictions, 4, seed=seed)

    @pytest.mark.parametrize("size", [1, 2.5, 61])
    def test_refuses_a_wrong_size(self, predictions, size):
        with pytest.raises(InvalidArgument, match="size"):
            domep(*predictions, size)


class TestCombination:
    def test_average(self):
        logits, labels = made_up(3)
        expected = functional.softmax(torch.tensor(logits), 2).mean(0).argmax(1)
        assert (fit("average", logits, labels).predict(logits) == expected.numpy()).all()

    def test_vote(self):
        """Two against one, however sure the one is; ties go by probability."""
        logits = np.array([[[1.0, 0, 0]], [[1.0, 0, 0]], [[0, 50.0, 0]]], np.float32)
        labels = np.array([0])
        assert fit("average", logits, labels).predict(logits) == [1]
        assert fit("vote", logits, labels).predict(logits) == [0]
        assert fit("vote", logits[1:], labels).predict(logits[1:]) == [1]

    def test_weighted_vote_listens_to_who_is_right(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 4, 400)
        guesses = rng.integers(0, 4, (2, 400))
        logits = logits_of([labels, *guesses], 4)
        together = fit("weighted-vote", logits, labels)
        assert together.weights[0] > 0.8
        assert together.measure(logits, labels)["accuracy"] == 1

    def test_weighted_vote_is_a_vote(self):
        """The class with the most weight wins, however sure the others are."""
        logits, labels = made_up(6, images=3000)
        together = fit("weighted-vote", logits, labels)
        votes = np.einsum("m,mic->ic", together.weights, np.eye(4)[logits.argmax(2)])
        assert (together.predict(logits) == votes.argmax(1)).all()

    def test_a_member_without_numbers_is_measured_too(self):
        logits, labels = made_up(3)
        logits[1, 5] = np.nan
        found = Combination("average", (0.5, 0.3, 0.2)).measure(logits, labels)
        assert 0 <= found["accuracy"] <= 1

    def test_mixture_minimizes_the_objective(self):
        """No small step that stays at w >= 0 makes it less; penalties make weights smaller."""
        logits, labels = made_up(5)
        h, y = torch.tensor(logits).double(), torch.tensor(labels)

        def objective(w, penalty):
            mixed = torch.tensordot(torch.tensor(w), h, 1)
            return float(functional.cross_entropy(mixed, y)) + penalty * w.sum()

        for penalty in (0.0, 0.05):
            found = mixture_weights(logits, labels, [penalty] * 5)
            assert (found >= 0).all()
            rng = np.random.default_rng(0)
            for _ in range(100):
                other = np.maximum(found + rng.normal(0, 0.02, 5), 0)
                assert objective(found, penalty) <= objective(other, penalty) + 1e-6
        assert (
            mixture_weights(logits, labels, [0.05] * 5).sum()
            < mixture_weights(logits, labels).sum()
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_temperature_changes_no_decision_and_lowers_the_loss(self, kind):
        logits, labels = made_up()
        logits = logits * 8  # far too sure
        plain = fit(kind, logits, labels, temperature=False)
        tempered = fit(kind, logits, labels)
        assert plain.temperature == 1
        assert (plain.predict(logits) == tempered.predict(logits)).mean() > 0.99
        before, after = plain.measure(logits, labels), tempered.measure(logits, labels)
        assert after["loss"] <= before["loss"] + 1e-6

    def test_temperature_calibrates_who_is_too_sure(self):
        logits, labels = made_up(1)
        logits = np.repeat(logits * 8, 2, axis=0)
        plain = fit("average", logits, labels, temperature=False).measure(logits, labels)
        tempered = fit("average", logits, labels)
        assert tempered.temperature > 2
        assert tempered.measure(logits, labels)["ece"] < plain["ece"] / 2

    @pytest.mark.parametrize("kind", KINDS)
    def test_is_what_the_network_computes(self, kind):
        logits, labels = made_up()
        together = fit(kind, logits, labels)

        class Replay(torch.nn.Module):
            def __init__(self, own):
                super().__init__()
                self.own = own

            def forward(self, images):
                return self.own

        members = [Replay(torch.tensor(own)) for own in logits]
        network = Committee(members, kind, together.weights, together.temperature)
        said = network(torch.zeros(1)).numpy()
        assert np.allclose(np.exp(said).sum(axis=1), 1, atol=1e-5)
        assert (said.argmax(axis=1) == together.predict(logits)).all()

    def test_calibration_error(self):
        """Ten images at 80 %: eight right is calibrated, five right is .3 off."""
        sure = np.log(np.array([[0.8, 0.2]] * 10, np.float32))
        for right, ece in ((8, 0.0), (5, 0.3)):
            labels = np.array([0] * right + [1] * (10 - right))
            found = measures(sure, labels)
            assert found["ece"] == pytest.approx(ece, abs=1e-6)
            assert found["accuracy"] == right / 10

    def test_unfitted(self):
        logits, labels = made_up(2)
        only = Combination("average", (1.0, 0.0))
        assert (only.predict(logits) == logits[0].argmax(1)).all()
        assert only.measure(logits, labels)["accuracy"] == (logits[0].argmax(1) == labels).mean()


class TestSAEP:
    @pytest.mark.parametrize("rule", RULES)
    def test_size(self, rule):
        logits, labels = made_up()
        kept = SAEP(rule=rule, size=3).prune(logits, labels)
        assert len(kept) == 3
        assert kept == sorted(set(kept))

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("tolerance", [0.0, 0.02, 1.0])
    def test_tolerance(self, rule, tolerance):
        """As few members as keep the accuracy; all sizes above keep it too."""
        logits, labels = made_up(10, seed=2)
        saep = SAEP(rule=rule, tolerance=tolerance)
        kept = saep.prune(logits, labels, seed=5)

        def accuracy(some):
            return fit("average", logits[some], labels).measure(logits[some], labels)["accuracy"]

        whole = accuracy(list(range(10)))
        assert accuracy(kept) >= whole - tolerance - 1e-9
        order = removal_order(rule, logits, labels, seed=5)
        assert sorted(order[-len(kept) :]) == kept
        if len(kept) > 2:
            assert accuracy(order[-len(kept) + 1 :]) < whole - tolerance
        if tolerance == 1.0:
            assert len(kept) == 2

    @pytest.mark.parametrize("kind", KINDS)
    def test_accuracies_while_members_go(self, kind):
        """Those of the members that are left, combined anew."""
        logits, labels = made_up(7, seed=4)
        logits[3] = logits[5] = -logits[3]  # no better than chance
        order = [3, 5, 0, 6, 2, 1, 4]
        found = list(accuracies(kind, logits, labels, order))
        assert [size for size, _ in found] == list(range(7, 0, -1))
        for size, accuracy in found:
            left = logits[sorted(order[-size:])]
            together = fit(kind, left, labels)
            assert accuracy == together.measure(left, labels)["accuracy"]

    @pytest.mark.parametrize("rule", [PAP, LiteralPAP])
    def test_pap_step_by_step_is_pap_anew(self, rule):
        logits, labels = made_up(9, seed=6)
        logits[2] = logits[7]
        order = rule(logits, labels, np.random.default_rng(0)).removals()
        among = list(range(9))
        for gone in order[:-1]:
            anew = rule(logits[among], labels, np.random.default_rng(0))
            assert among[anew.goes(range(len(among)))] == gone
            among.remove(gone)

    def test_a_fall_of_just_the_tolerance_is_allowed(self):
        for images in range(100, 400, 7):
            for wrong in range(1, 10):
                accuracies = [(3, 1.0), (2, (images - wrong) / images)]
                assert SAEP(tolerance=wrong / images).settled_size(accuracies) == 2

    @pytest.mark.parametrize(
        "options",
        [{"size": 0}, {"alpha": 2.0}, {"alpha": math.nan}, {"rule": "pi"}, {"combine": "x"}],
    )
    def test_wrong_options_are_refused_when_arrays_are_pruned(self, options):
        logits, labels = made_up(3)
        with pytest.raises(InvalidArgument, match=next(iter(options))):
            SAEP(**options).prune(logits, labels)

    def test_more_than_there_are(self):
        logits, labels = made_up(3)
        assert SAEP(size=7).prune(logits, labels) == [0, 1, 2]

    def test_bad_members(self):
        logits, labels = made_up(4)
        nan, constant = logits.copy(), logits.copy()
        nan[2, 5, 0] = np.nan
        constant[1, :, 3] = 99
        for given_logits, given_labels, problem in (
            (logits[:1], labels, "at least 2"),
            (nan, labels, "member 2 has logits that are not finite"),
            (constant, labels, "member 1 predicts class 3 for every image"),
            (logits, labels[:-1], "the same images"),
            (logits, labels + 1, "other labels"),
            (logits, labels + 0.5, "labels are float64"),
            (logits[0], labels, "members x images x classes"),
            (logits[:, :0], labels[:0], "members x images x classes"),
            (logits, 3, "with 1 labels"),
            (logits, ["a"] * len(labels), "labels are <U1"),
            ([["a"]], labels, "arrays of numbers: could not convert"),
        ):
            with pytest.raises(InvalidArgument, match=problem):
                SAEP().prune(given_logits, given_labels)

    @pytest.mark.parametrize("seed", [-1, 0.5, None])
    def test_bad_seed(self, seed):
        with pytest.raises(InvalidArgument, match="seed="):
            SAEP().prune(*made_up(4), seed)

    @pytest.mark.parametrize(
        "text", ["saep:rule=pi", "saep:size=1", "saep:alpha=2", "saep:tolerance=-1", "sap"]
    )
    def test_wrong_options_are_refused_before_anything_starts(self, text, tmp_path):
        with pytest.raises(InvalidArgument, match="ensemble"):
            raynas.run(ensemble=text, storage_path=tmp_path)
        with pytest.raises(InvalidArgument):
            raynas.run(ensemble="saep", evaluate="proxy", storage_path=tmp_path)
        with pytest.raises(InvalidArgument, match="samples=3"):
            raynas.run(ensemble="saep:size=4", samples=3, storage_path=tmp_path)
        assert not list(tmp_path.iterdir())
