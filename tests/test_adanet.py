"""AdaNet: an ensemble that grows during the search, with and without pruning."""

import copy
import itertools
import json
import math
import subprocess
import sys
from collections import defaultdict
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from journal_lines import read_events
from scipy.optimize import minimize
from scipy.special import logsumexp
from test_faults import kill_at

import raynas
import search_spaces
from raynas import AdaNet, Fifo, InvalidArgument
from raynas.ensemble.combination import mixture_weights
from raynas.ensemble.members import ValidationLogits
from raynas.record.events import Status
from raynas.record.folder import RunFolder
from raynas.record.journal import Journal
from raynas.search.search import Search
from raynas.testing import SearcherSuite
from search_spaces import UserSpace
from trials.data import load as load_data

RULES = ["prs", "pap", "pie"]


def no_network(config, input_shape, num_classes):
    raise NotImplementedError


SPACE = UserSpace("mine", {"depth": (0, 1, 2, 3), "width": (8, 16, 32, 64)}, no_network)
STEEP = UserSpace("steep", {"width": (8, 16), "depth": (1, 4, 9, 16)}, no_network)


class Made:
    """Made-up predictions; those of an evaluation are always the same.

    Args:
        skills: {evaluation: what the right class has more than the others}; 1 otherwise.
        replaced: {evaluation: logits}, None for one that has none.
    """

    labels = np.arange(120) % 4

    def __init__(self, skills=None, replaced=None):
        self.skills, self.replaced = skills or {}, replaced or {}

    def logits(self, evaluation):
        if evaluation in self.replaced:
            return self.replaced[evaluation]
        noise = np.random.default_rng(evaluation).normal(size=(120, 4))
        right = np.eye(4)[self.labels]
        return (noise + self.skills.get(evaluation, 1.0) * right).astype(np.float32)


class Deciding(AdaNet):
    """Decides as soon as it can, as in a `Search`."""

    def tell(self, architecture, value, budget):
        super().tell(architecture, value, budget)
        if self.undecided:
            self.grow(self.decide(Made()))


def growing_spaces():
    spaces = [search_spaces.get(name) for name in search_spaces.names()]
    return [space for space in spaces if any(d.name == "depth" for d in space.decisions)]


class TestAdaNet(SearcherSuite):
    part = Deciding

    @pytest.fixture
    def space(self):
        return SPACE


def test_spaces_without_a_depth_are_refused():
    growing = growing_spaces()
    assert {"dense", "convolutional"} <= {space.name for space in growing}
    for space in growing:
        algorithm = Deciding()
        algorithm.check(space)
        algorithm.start(space, 0)
        for _ in range(40):
            arch = algorithm.ask()
            space.check(arch)
            algorithm.tell(arch, 0.5, 1)
        assert algorithm.ensemble
    others = {*search_spaces.names()} - {space.name for space in growing}
    assert others
    for name in others:
        with pytest.raises(InvalidArgument, match="use space='dense'"):
            AdaNet().check(search_spaces.get(name))


@pytest.mark.parametrize(
    "depths", [(2, 1, 0), ("1", "2"), ("shallow", 3), (1, 2.5), (-1, 0, 1), (1, "2")]
)
def test_a_depth_that_does_not_rise_is_refused(depths):
    space = UserSpace("odd", {"depth": depths, "width": (8, 16)}, no_network)
    with pytest.raises(InvalidArgument, match="rising whole numbers"):
        AdaNet().check(space)


def started(space=SPACE, seed=0, tolerance=1.0, **options):
    """Prunes whatever that costs, unless a test says otherwise."""
    searcher = AdaNet(tolerance=tolerance, **options)
    searcher.start(space, seed)
    return searcher


def trained(searcher, value=0.5):
    """The candidates of an iteration, all of them trained."""
    candidates = list(iter(searcher.ask, None))
    for arch in candidates:
        searcher.tell(arch, value, 2)
    return candidates


def grown(searcher, held_out, iterations, value=0.5):
    """(everything that was asked for, what was decided)."""
    asked, decisions = [], []
    for _ in range(iterations):
        asked += trained(searcher, value)
        decisions.append(searcher.decide(held_out))
        searcher.grow(decisions[-1])
    return asked, decisions


def depths(space, archs):
    return [space.to_config(arch)["depth"] for arch in archs]


def objective(weights, logits, labels, penalties):
    """F(w), by hand."""
    together = np.tensordot(weights, np.asarray(logits, float), axes=1)
    losses = logsumexp(together, axis=1) - together[np.arange(len(labels)), labels]
    return losses.mean() + np.dot(penalties, weights)


class TestCandidates:
    @pytest.mark.parametrize("space", [SPACE, STEEP, search_spaces.get("convolutional")])
    def test_the_first_two_have_the_least_depth_and_the_next(self, space):
        searcher = started(space)
        (decision,) = (d for d in space.decisions if d.name == "depth")
        first = [searcher.ask(), searcher.ask()]
        assert depths(space, first) == list(decision.choices[:2])
        assert searcher.ask() is None

    @pytest.mark.parametrize(
        ("winners", "expected"),
        [([0], [0, 1]), ([1], [1, 2]), ([1, 2], [1, 2]), ([1, 3], [2, 3]), ([0, 3], [1, 2])],
    )
    def test_the_next_two_are_as_deep_as_the_last_that_joined_and_deeper(self, winners, expected):
        searcher = started()
        grown(searcher, Made(dict.fromkeys(range(9), -2.0) | dict.fromkeys(winners, 3.0)),
              iterations=len(winners))  # fmt: skip
        assert list(searcher.ensemble) == winners
        assert depths(SPACE, [searcher.ask(), searcher.ask()]) == expected
        assert searcher.ask() is None

    def test_at_the_largest_depth_there_is_one(self):
        searcher = started(rule="none")
        asked, decisions = grown(searcher, Made({1: 9.0, 3: 9.0, 5: 9.0}), iterations=6)
        assert depths(SPACE, asked) == [0, 1, 1, 2, 2, 3, 3, 3, 3]
        assert [d["joined"] for d in decisions] == [1, 3, 5, 6, 7, 8]

    def test_other_decisions_are_drawn(self):
        asked, _ = grown(started(), Made(), iterations=20)
        assert {SPACE.to_config(arch)["width"] for arch in asked} == {8, 16, 32, 64}

    def test_only_architectures_of_the_space(self):
        odd = UserSpace(
            "odd", {"depth": (0, 1, 2, 3), "width": (8, 16, 32)}, no_network,
            valid=lambda config: (config["depth"] + config["width"] // 8) % 2 == 1,
        )  # fmt: skip
        asked, _ = grown(started(odd), Made(), iterations=20)
        assert len(asked) > 20
        assert all(map(odd.is_valid, asked))

    def test_waits_for_both(self):
        searcher = started()
        first, second = searcher.ask(), searcher.ask()
        searcher.tell(second, 0.5, 2)
        searcher.tell(SPACE.architecture([3, 3]), 0.5, 2)  # nobody asked for it
        assert not searcher.undecided
        assert searcher.ask() is None
        searcher.tell(first, 0.5, 2)
        assert list(searcher.undecided) == [0, 1]


class TestObjective:
    @pytest.mark.parametrize("options", [{}, {"complexity": 0.05, "beta": 0.02}])
    @pytest.mark.parametrize("rule", ["none", "pie"])
    def test_the_candidate_with_the_smaller_one_joins(self, options, rule):
        held_out = Made()
        asked, decisions = grown(started(STEEP, rule=rule, **options), held_out, iterations=12)
        roots = np.sqrt(depths(STEEP, asked))
        assert len(decisions) == 12
        for decision in decisions:
            kept = [i for i in decision["members"] if i != decision["joined"]]
            by_hand = {}
            for candidate in map(int, decision["objectives"]):
                members = [*kept, candidate]
                penalties = options.get("complexity", 0) * roots[members] + options.get("beta", 0)
                weights = np.full(len(members), 1 / len(members))
                logits = [held_out.logits(i) for i in members]
                by_hand[candidate] = objective(weights, logits, held_out.labels, penalties)
            found = {int(i): value for i, value in decision["objectives"].items()}
            assert found == pytest.approx(by_hand, abs=1e-5)
            assert decision["joined"] == min(by_hand, key=by_hand.get)
            assert decision["objective"] == found[decision["joined"]]

    @pytest.mark.parametrize("options", [{}, {"complexity": 0.02, "beta": 0.01}])
    def test_learnt_weights_make_it_least(self, options):
        held_out = Made({i: (0.0, 2.0)[i % 3 == 0] for i in range(30)})
        searcher = started(STEEP, rule="none", mixture="learnt", **options)
        asked, decisions = grown(searcher, held_out, iterations=6)
        roots = np.sqrt(depths(STEEP, asked))
        gains = []
        for decision in decisions:
            for candidate, found in decision["objectives"].items():
                members = [*decision["members"][:-1], int(candidate)]
                logits = [held_out.logits(i) for i in members]
                penalties = options.get("complexity", 0) * roots[members] + options.get("beta", 0)
                given = (logits, held_out.labels, penalties)
                uniform = np.full(len(members), 1 / len(members))
                bounds = [(0, None)] * len(members)
                least = minimize(objective, uniform, given, method="SLSQP", bounds=bounds).fun
                assert found == pytest.approx(least, abs=1e-3)
                assert found <= objective(uniform, *given) + 1e-6
                gains.append(objective(uniform, *given) - found)
        assert max(gains) > 0.05

    def test_a_large_complexity_keeps_the_ensemble_shallow(self):
        deeper_is_better = Made({i: 1.0 + i % 2 for i in range(40)})
        shallow, deep = (
            grown(started(rule="none", complexity=c), deeper_is_better, iterations=3)[1]
            for c in (10.0, 0.0)
        )
        assert [d["joined"] for d in shallow] == [0, 2, 4]
        assert [d["joined"] for d in deep] == [1, 3, 5]

    def test_learnt_weights_are_combined_as_a_mixture(self):
        assert AdaNet(mixture="learnt").combine == "mixture"
        assert AdaNet().combine == "average-logits"


class TestPruning:
    @pytest.mark.parametrize("rule", RULES)
    def test_nothing_goes_while_there_are_two(self, rule):
        """Whatever the members are worth; and with three, something may."""
        pruned = defaultdict(set)
        for seed in range(8):
            held_out = Made({i: float(i % 3 - 1) for i in range(40)})
            _, decisions = grown(started(seed=seed, rule=rule), held_out, iterations=12)
            before = 0
            for decision in decisions:
                pruned[before].add(len(decision["pruned"]))
                before = len(decision["members"])
        assert pruned[0] == pruned[1] == pruned[2] == {0}
        assert max(pruned[3]) > 0

    def test_pie_drops_one_of_three(self):
        _, decisions = grown(started(rule="pie"), Made(), iterations=10)
        assert [len(d["pruned"]) for d in decisions] == [0, 0, 0, *[1] * 7]
        assert [len(d["members"]) for d in decisions] == [1, 2, *[3] * 8]

    def test_prs_drops_one_half_of_the_time(self):
        """Of 200 prunings 6 sigma are 42: a false alarm in 5e8 runs."""
        _, decisions = grown(started(rule="prs"), Made(), iterations=203)
        pruned = [len(d["pruned"]) for d in decisions[3:]]
        assert set(pruned) == {0, 1}
        assert abs(sum(pruned) - 100) < 42

    def test_one_that_is_always_wrong_goes(self):
        _, decisions = grown(started(rule="pap"), Made({4: -3.0, 5: -3.0}), iterations=4)
        wrong = decisions[2]["joined"]
        assert wrong in (4, 5)
        assert wrong in decisions[3]["pruned"]

    def test_alpha_weighs_diversity_against_relevance(self):
        """Members: one that knows nothing, and two that are good and nearly the same."""
        good = Made({2: 3.0}).logits(2)
        twin = good.copy()
        twin[:6] = twin[:6, ::-1]
        dull = np.random.default_rng(0).normal(size=good.shape).astype(np.float32)
        held_out = Made(replaced={0: dull, 1: None, 2: good, 3: None, 4: twin, 5: None})
        gone = defaultdict(set)
        for alpha in (0.0, 1.0):
            for seed in range(20):  # COMEP begins with a member that is drawn
                searcher = started(seed=seed, rule="pie", alpha=alpha)
                gone[alpha].update(grown(searcher, held_out, iterations=4)[1][3]["pruned"])
        assert gone[1.0] <= {2, 4}
        assert 0 in gone[0.0]

    @pytest.mark.parametrize("tolerance", [0.0, 0.02])
    @pytest.mark.parametrize("mixture", ["uniform", "learnt"])
    def test_what_would_cost_more_than_the_tolerance_stays(self, tolerance, mixture):
        """Accuracies by hand; what the rule wants, from a searcher without a tolerance."""

        def accuracy(members):
            logits = np.stack([held_out.logits(i) for i in members])
            weights = np.full(len(members), 1 / len(members))
            if mixture == "learnt":
                weights = mixture_weights(logits, held_out.labels)
            together = np.tensordot(weights, logits, axes=1)
            return (together.argmax(axis=1) == held_out.labels).mean()

        held_out = Made({i: 1.0 + i % 3 for i in range(60)})
        searcher = started(rule="pie", mixture=mixture, tolerance=tolerance)
        outcomes = set()
        for _ in range(10):
            trained(searcher)
            without = copy.deepcopy(searcher)
            without.tolerance = 1.0
            before, wanted = list(searcher.ensemble), without.decide(held_out)["pruned"]
            decision = searcher.decide(held_out)
            searcher.grow(decision)
            if wanted:
                rest = [i for i in before if i not in wanted]
                fits = accuracy(before) - accuracy(rest) <= tolerance
                assert decision["pruned"] == (wanted if fits else [])
                outcomes.add(fits)
        assert outcomes == {True, False}

    @pytest.mark.parametrize(("tolerance", "pruned"), [(0.0, []), (1.0, [4])])
    def test_a_pruning_is_tested_by_the_mean_of_the_logits(self, tolerance, pruned):
        """The third member turns no vote of probabilities, so PAP would let it go; but on an
        eighth of the images it is so sure that the mean of the logits is right by it alone.
        """
        right, part = np.eye(4)[Made.labels], np.arange(120)[:, None] % 8
        wrong = np.roll(right, 1, axis=1)
        first, second, third = (
            np.select([part == 0, part == 1, part == 2], on, 9 * right).astype(np.float32)
            for on in (
                [4 * wrong, 9 * right, wrong],
                [4 * wrong, wrong, 9 * right],
                [9 * right, wrong, wrong],
            )
        )
        held_out = Made(replaced={0: first, 1: None, 2: second, 3: None, 4: third, 5: None})
        _, decisions = grown(started(rule="pap", tolerance=tolerance), held_out, iterations=4)
        assert decisions[2]["members"] == [0, 2, 4]
        assert decisions[3]["pruned"] == pruned

    @pytest.mark.parametrize("rule", RULES)
    def test_pruned_members_never_come_back(self, rule):
        gone = set()
        for decision in grown(started(rule=rule), Made(), iterations=30)[1]:
            gone.update(decision["pruned"])
            assert not gone & set(decision["members"])
        assert gone

    def test_without_a_rule_it_grows_by_one(self):
        searcher = started(rule="none")
        _, decisions = grown(searcher, Made(), iterations=15)
        for before, after in zip([[], *[d["members"] for d in decisions]], decisions, strict=False):
            assert after["members"] == [*before, after["joined"]]
            assert after["pruned"] == []
        assert len(searcher.ensemble) == 15

    @pytest.mark.parametrize("mixture", ["uniform", "learnt"])
    @pytest.mark.parametrize("rule", RULES)
    def test_with_a_rule_the_ensemble_is_smaller(self, rule, mixture):
        searcher = started(rule=rule, mixture=mixture)
        _, decisions = grown(searcher, Made(), iterations=12)
        assert 1 <= len(searcher.ensemble) < 12
        assert [d["iteration"] for d in decisions] == list(range(12))


class TestFailures:
    def without(self, missing):
        return Made(replaced=dict.fromkeys(missing))

    @pytest.mark.parametrize("missing", [{4}, {5}])
    def test_the_other_candidate_joins(self, missing):
        _, decisions = grown(started(), self.without(missing), iterations=3)
        assert decisions[2]["joined"] == 9 - missing.pop()

    def test_when_both_failed_the_ensemble_stays_and_the_search_goes_on(self):
        searcher = started(rule="none")
        grown(searcher, Made({1: 9.0, 3: 9.0}), iterations=2)
        failed, (decision,) = grown(searcher, self.without({4, 5}), 1, value=-math.inf)
        assert decision["members"] == list(searcher.ensemble) == [1, 3]
        assert (decision["joined"], decision["objective"]) == (None, None)
        assert json.loads(json.dumps(decision)) == decision
        again, (decision,) = grown(searcher, Made(), iterations=1)
        assert depths(SPACE, again) == depths(SPACE, failed) == [2, 3]
        assert decision["members"] == [1, 3, decision["joined"]]
        assert decision["joined"] in (6, 7)

    def test_from_the_very_first_on(self):
        searcher = started()
        _, decisions = grown(searcher, self.without(range(8)), iterations=5, value=-math.inf)
        assert [d["members"] for d in decisions[:4]] == [[]] * 4
        assert len(decisions[4]["members"]) == 0  # it has predictions, but it failed

    def test_a_failed_candidate_does_not_join_by_what_it_predicted_before(self):
        searcher = started()
        good, failed = searcher.ask(), searcher.ask()
        searcher.tell(good, 0.5, 2)
        searcher.tell(failed, -math.inf, 1)
        decision = searcher.decide(Made({0: 0.0, 1: 9.0}))
        assert decision["members"] == [0]


class TestDeciding:
    def test_deciding_changes_nothing(self):
        searcher = started(rule="prs")
        for _ in range(6):
            trained(searcher)
            before = copy.deepcopy(searcher)
            decision = searcher.decide(Made())
            assert searcher == before
            assert searcher.rng.bit_generator.state == before.rng.bit_generator.state
            assert searcher.decide(Made()) == decision
            searcher.grow(decision)

    def test_seeds_prune_otherwise(self):
        runs = [grown(started(seed=seed, rule="prs"), Made(), iterations=12) for seed in range(5)]
        assert len({tuple(len(d["pruned"]) for d in decisions) for _, decisions in runs}) > 1


def searching(folder, held_out=None, samples=14, **options):
    searcher = AdaNet(**{"rule": "prs", "tolerance": 1.0, **options})
    search = Search(
        SPACE, searcher, Fifo(), samples, 2, 0, Journal(folder), held_out=held_out or Made()
    )
    search.begin()
    return search


def drive(search, workers=1):
    """What Tune does: keep `workers` trials going, one epoch of each in turn."""
    running = []
    while True:
        while len(running) < workers and (evaluation := search.suggest()) is not None:
            running.append(evaluation)
        if not running:
            search.journal.close()
            return search
        evaluation = running.pop(0)
        search.report(evaluation.index, {"val_accuracy": 0.5})
        if evaluation.epochs == search.epochs:
            search.finish(evaluation.index, Status.COMPLETED)
        else:
            running.append(evaluation)


def story(folder):
    """The events without their times."""
    return [{k: v for k, v in e.items() if k != "time"} for e in read_events(folder)]


def cut(whole, folder, events):
    """A folder with the first events of another one."""
    lines = (whole / "journal" / "events.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal").mkdir(parents=True)
    (folder / "journal" / "events.jsonl").write_bytes(b"".join(lines[:events]))


def growths(folder):
    return [event for event in story(folder) if event["event"] == "grown"]


class Deaf(Made):
    """Has no predictions any more."""

    def logits(self, evaluation):
        raise AssertionError(f"the predictions of #{evaluation} are asked for again")


class TestInASearch:
    @pytest.mark.parametrize("workers", [1, 2, 3])
    def test_every_architecture_is_paid_for(self, tmp_path, workers):
        """Also what was trained before: with another seed it is another member."""
        search = drive(searching(tmp_path, samples=40), workers)
        assert len(search.evaluations) == search.finished == 40
        assert len(set(search.architectures)) <= 16
        grown = growths(tmp_path)
        assert [event["iteration"] for event in grown] == list(range(len(grown)))
        assert list(search.searcher.ensemble) == grown[-1]["members"]

    def test_workers_make_no_difference(self, tmp_path):
        drive(searching(tmp_path / "one", samples=24))
        drive(searching(tmp_path / "four", samples=24), workers=4)
        assert growths(tmp_path / "one") == growths(tmp_path / "four")

    def test_cut_anywhere_the_journal_tells_the_same_story(self, tmp_path):
        whole = tmp_path / "whole"
        members = drive(searching(whole)).searcher.ensemble
        expected = story(whole)
        assert any(event["pruned"] for event in growths(whole))
        for events in range(len(expected) + 1):
            folder = tmp_path / f"cut-{events}"
            cut(whole, folder, events)
            assert drive(searching(folder)).searcher.ensemble == members
            assert story(folder) == expected

    def test_killed_before_the_decision_was_recorded_it_is_made_again(self, tmp_path):
        drive(searching(tmp_path / "whole"))
        expected = story(tmp_path / "whole")
        places = [i for i, event in enumerate(expected) if event["event"] == "grown"]
        assert len(places) >= 5
        for place in places:
            assert expected[place - 1]["event"] == "finished"
            folder = tmp_path / f"cut-{place}"
            cut(tmp_path / "whole", folder, place)
            searching(folder).journal.close()
            assert story(folder) == expected[: place + 1]

    def test_what_was_decided_is_not_decided_again(self, tmp_path):
        members = drive(searching(tmp_path)).searcher.ensemble
        search = searching(tmp_path, Deaf())
        assert search.searcher.ensemble == members
        assert search.suggest() is None

    def test_more_samples_let_it_grow_on(self, tmp_path):
        drive(searching(tmp_path / "long", samples=23))
        for samples in (5, 6, 11, 23):  # also half an iteration
            drive(searching(tmp_path / "more", samples=samples))
        assert growths(tmp_path / "more") == growths(tmp_path / "long")

    def test_failures_do_not_end_it(self, tmp_path):
        search = searching(tmp_path, rule="none")
        for _ in range(4):
            search.finish(search.suggest().index, Status.FAILED, "RuntimeError: no")
        drive(search)
        grown = growths(tmp_path)
        assert [len(event["members"]) for event in grown] == [0, 0, *range(1, len(grown) - 1)]
        assert len(grown) >= 7

    def test_refused_without_predictions(self, tmp_path):
        with Journal(tmp_path) as journal, pytest.raises(InvalidArgument, match="evaluate='train'"):
            Search(SPACE, AdaNet(), Fifo(), 4, 2, 0, journal)
        space = search_spaces.get("dense:max_depth=3")
        table = pd.DataFrame({"architecture": map(space.to_string, space), "accuracy": 0.5})
        bench = partial(raynas.bench, table, "architecture", metric="accuracy", queries=3, runs=1)
        assert len(bench(search="random", space=space)) == 1
        with pytest.raises(InvalidArgument, match="grows an ensemble"):
            bench(search="adanet", space=space)


GROWING = {
    "space": "dense:units=16",
    "data": "digits:fraction=0.3",
    "search": "adanet:rule=pie,tolerance=1",
    "samples": 8,
    "epochs": 2,
    "max_concurrent": 1,
}


@pytest.fixture(scope="module")
def start(local_ray):
    """`run()` with changes."""

    def start(folder, **changes):
        return raynas.run(**{**GROWING, "storage_path": folder, "name": "run", **changes})

    return start


@pytest.fixture(scope="module")
def dense(start, tmp_path_factory):
    """A finished run that tests may read and must not change."""
    return start(tmp_path_factory.mktemp("grown"))


def without_times(table):
    return table.drop(columns=["latency_ms", "train_seconds"], errors="ignore").to_dict("records")


class TestRuns:
    def test_the_ensemble_is_what_had_grown(self, dense):
        grown = growths(dense.path)
        assert len(grown) == 4
        assert grown[-1]["pruned"]
        members = dense.ensemble.members.set_index("evaluation")
        assert sorted(members.index) == sorted(grown[-1]["members"])
        assert not dense.ensemble.excluded
        assert dense.ensemble.summary["rule"] is None
        assert dense.ensemble.summary["combination"] == "average-logits"
        trials = dense.trials.set_index("evaluation")
        for evaluation, member in members.iterrows():
            assert member["architecture"] == trials.loc[evaluation, "architecture"]
            assert member["val_accuracy"] == trials.loc[evaluation, "val_accuracy"]
        assert set(trials["status"]) == {"completed"}
        assert len(trials) == 8

    def test_its_objective_is_that_of_the_stored_predictions(self, dense):
        labels = load_data(GROWING["data"]).validation.labels
        events = growths(dense.path)
        assert len(events) == 4
        for event in events:
            logits = [
                torch.load(dense.path / "checkpoints" / f"{i:05d}.pt", weights_only=True)["trial"][
                    "validation_logits"
                ].numpy()
                for i in event["members"]
            ]
            n = len(logits)
            by_hand = objective(np.full(n, 1 / n), logits, labels, np.zeros(n))
            assert event["objective"] == pytest.approx(by_hand, abs=1e-5)

    def test_what_chose_the_members_is_what_is_reported_and_exported(self, dense):
        """The mean of the logits: by it F, the accuracies, and the exported program."""
        data, ensemble = load_data(GROWING["data"]), dense.ensemble
        stored = ValidationLogits(dense.folder, search_spaces.get(GROWING["space"]), data)
        logits = np.stack([stored.logits(i) for i in ensemble.members["evaluation"]])
        labels, together = data.validation.labels, logits.mean(axis=0)
        assert ensemble.metrics["val_accuracy"] == (together.argmax(1) == labels).mean()
        images, _ = next(data.validation.raw(len(data.validation), torch.device("cpu")))
        said = ensemble.model()(images).detach() * ensemble.summary["temperature"]
        loss = torch.nn.functional.cross_entropy(said, torch.from_numpy(labels))
        last = growths(dense.path)[-1]
        assert sorted(last["members"]) == sorted(ensemble.members["evaluation"])
        assert float(loss) == pytest.approx(last["objective"], abs=1e-4)

    def test_predictions_that_no_trial_stored_come_from_the_weights(self, dense, tmp_path):
        """As for a trial of the user's own that keeps its network alone."""
        data, space = load_data(GROWING["data"]), search_spaces.get(GROWING["space"])
        (tmp_path / "checkpoints").mkdir()
        for path in sorted(dense.path.glob("checkpoints/0000[0-2].pt")):
            state = torch.load(path, weights_only=True)
            del state["trial"]["validation_logits"]
            if path.stem == "00002":
                del state["trial"]["network"]
            torch.save(state, tmp_path / "checkpoints" / path.name)
        stored = ValidationLogits(dense.folder, space, data)
        computed = ValidationLogits(RunFolder(tmp_path), space, data)
        for evaluation in (0, 1):
            np.testing.assert_allclose(
                computed.logits(evaluation), stored.logits(evaluation), atol=1e-5
            )
        assert computed.logits(2) is None
        assert stored.logits(2) is not None
        assert computed.logits(3) is None

    @pytest.mark.slow
    def test_same_seed_same_ensemble(self, dense, start, tmp_path):
        again = start(tmp_path)
        assert growths(again.path) == growths(dense.path)
        assert without_times(again.ensemble.members) == without_times(dense.ensemble.members)

    def test_run_again_when_finished_changes_nothing(self, dense, start):
        def content():
            kept = (p for p in sorted(dense.path.rglob("*")) if p.is_file())
            return {
                str(p): p.read_bytes() for p in kept if p.suffix != ".lock" and p.name != "run.yaml"
            }

        before = content()
        again = start(dense.path.parent)
        assert content() == before
        assert again.finished

    def test_the_scheduler_is_fifo(self, dense):
        assert dense.config["scheduler"] == "fifo"

    def test_convolutional_members_with_learnt_weights(self, start, tmp_path):
        result = start(
            tmp_path,
            space="convolutional:channels=2,units=8", samples=4, epochs=1,
            search="adanet:mixture=learnt,complexity=0.02,beta=0.01",
        )  # fmt: skip
        (_, last) = growths(result.path)
        assert sorted(result.ensemble.members["evaluation"]) == sorted(last["members"])
        assert result.ensemble.summary["combination"] == "mixture"
        data = load_data(GROWING["data"])
        weights, logits = [], []
        for member in result.ensemble.members.itertuples():
            weights.append(member.weight)
            state = torch.load(result.path / "checkpoints" / f"{member.evaluation:05d}.pt")
            logits.append(state["trial"]["validation_logits"].numpy())
        depths = [
            int(text.split("depth=")[1].split(",")[0])
            for text in result.ensemble.members["architecture"]
        ]
        penalties = [0.02 * depth**0.5 + 0.01 for depth in depths]
        learnt = mixture_weights(np.stack(logits), data.validation.labels, penalties)
        assert weights == pytest.approx(learnt.tolist(), abs=1e-3)
        images, labels = next(data.test.raw(len(data.test), torch.device("cpu")))
        accuracy = (result.ensemble.model()(images).argmax(1) == labels).double().mean()
        assert float(accuracy) == pytest.approx(result.ensemble.metrics["test_accuracy"])


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"scheduler": "asha"}, "use scheduler='fifo'"),
        ({"scheduler": raynas.Asha()}, "use scheduler='fifo'"),
        ({"space": "nasbench201"}, "use space='dense'"),
        ({"evaluate": "proxy"}, "use evaluate='train'"),
        ({"evaluate": "supernet"}, "use evaluate='train'"),
        ({"search": "adanet:rule=pi"}, "Known: greedy, none, pap, pie, prs"),
        ({"search": "adanet:alpha=1.5"}, "alpha"),
        ({"search": "adanet:complexity=-1"}, "complexity"),
    ],
)
def test_refused_before_anything_starts(tmp_path, changes, remedy):
    with pytest.raises(InvalidArgument, match=remedy):
        raynas.run(**{**GROWING, "storage_path": tmp_path, "name": "run", **changes})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # the command is started four times
@pytest.mark.timeout(600)
def test_killed_twice_it_ends_with_the_same_ensemble(tmp_path):
    def command(folder):
        options = {
            **GROWING,
            "samples": 12,
            "seed": 3,
            "storage_path": tmp_path,
            "name": folder.name,
        }
        flags = [(f"--{key.replace('_', '-')}", str(value)) for key, value in options.items()]
        return [sys.executable, "-m", "raynas", "run", *itertools.chain(*flags)]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), capture_output=True, check=True)
    kill_at(killed, command(killed), "grown", 2)
    kill_at(killed, command(killed), "finished", 7)
    seen = growths(killed)
    assert len(seen) < len(growths(whole)) == 6, "killed too late to show anything"
    again = subprocess.run(command(killed), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert growths(killed) == growths(whole)
    assert growths(killed)[: len(seen)] == seen
    first, second = (raynas.load(folder).ensemble for folder in (whole, killed))
    assert without_times(first.members) == without_times(second.members)
    same = {name for name in first.metrics if name != "latency_ms"}
    assert {n: first.metrics[n] for n in same} == {n: second.metrics[n] for n in same}


def test_cannot_be_wrapped():
    with pytest.raises(InvalidArgument, match="grows an ensemble"):
        raynas.NeighborhoodAware(AdaNet())


def test_needs_two_iterations(tmp_path):
    with pytest.raises(InvalidArgument, match="samples=3"):
        raynas.run(**{**GROWING, "samples": 3, "storage_path": tmp_path})
    assert not list(tmp_path.iterdir())
