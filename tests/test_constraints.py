"""Limits, quotas and penalties: kept by every searcher, replayed from anywhere, never endless."""

import math
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_lines import read_events
from test_searchers import SMALL

import raynas
import search_spaces
from raynas import Evolution, Fifo, InvalidArgument, Limit, Penalty, Quota, RandomSearch, Searcher
from raynas.config.resolve import resolve
from raynas.record.events import Status
from raynas.record.journal import Journal
from raynas.search.admission import Admission
from raynas.search.search import Search
from raynas.searchers import CONSTRAINTS, SEARCHERS, Listed
from raynas.searchers.constraints import Constraint
from search_spaces import UserSpace
from search_spaces.naming import construct
from search_spaces.properties import measure

SPACE = search_spaces.get("nasbench201")
DEPTH = measure("depth", SPACE)
MACS = measure("macs", SPACE)
#: MACs of about the median architecture
FEW = 5e7
#: those that choose what they ask for by values
FREE = sorted(
    name
    for name in SEARCHERS
    if name not in ("adanet", "gradients", "listed")
    and construct("search", SMALL.get(name, name), SEARCHERS).driver is None
)


def value(arch, epoch=1):
    return round(0.1 + 0.1 * sum(c == 3 for c in arch.choices) + 0.01 * epoch, 3)


def admission(constraint, space=SPACE):
    return Admission(constraint, constraint.measured(space))


def searching(constraint, searcher, samples=40, space=SPACE, journal=None, epochs=1, seed=0):
    if isinstance(searcher, str):
        searcher = construct("search", SMALL.get(searcher, searcher), SEARCHERS)
    search = Search(
        space, searcher, Fifo(), samples, epochs, seed, journal,
        admission=admission(constraint, space),
    )  # fmt: skip
    search.begin()
    for arch in list(search.unscored):
        search.score(arch, float(sum(arch.choices)))
    return search


def drive(search, workers=1, of=value):
    running = []
    while True:
        while len(running) < workers and (evaluation := search.suggest()) is not None:
            running.append(evaluation)
        if not running:
            return search
        evaluation = running.pop(0)
        search.report(
            evaluation.index, {"val_accuracy": of(search.architectures[evaluation.index])}
        )
        search.finish(evaluation.index, Status.COMPLETED)


def story(folder):
    return [{k: v for k, v in e.items() if k != "time"} for e in read_events(folder)]


class TestRules:
    @given(
        most=st.floats(0.01, 1),
        asked=st.lists(st.integers(0, 4), max_size=60),
    )
    def test_a_quota_holds_at_every_moment(self, most, asked):
        quota, counts = Quota("depth", most), Counter()
        for one in asked:
            if quota.excess(one, counts) <= 0:
                counts[one] += 1
            assert all(n <= math.ceil(most * counts.total() - 1e-9) for n in counts.values())

    @given(most=st.floats(0.01, 1), counts=st.dictionaries(st.integers(0, 9), st.integers(1, 9)))
    def test_a_quota_has_room_for_a_value_that_was_never_there(self, most, counts):
        assert Quota("depth", most).excess(10, counts) == 0

    def test_a_share_that_floats_cannot_write_is_not_rounded_up(self):
        full = {1.0: 3, 2.0: 3, **dict.fromkeys(range(3, 26), 1)}
        assert sum(full.values()) == 29
        assert 0.1 * 30 > 3 or math.ceil(0.1 * 30) == 3
        assert Quota("depth", 0.1).excess(1.0, full) == 1

    def test_limit(self):
        limit = Limit("macs", least=2, most=3)
        assert [limit.excess(v, {}) for v in (1, 2, 2.5, 3, 4)] == [math.inf, 0, 0, 0, math.inf]

    def test_penalty(self):
        penalty = Penalty("macs", above=4, weight=0.5)
        assert [penalty.penalty(v) for v in (1, 4, 6, 8)] == [0, 0, 0.25, 0.5]
        assert penalty.excess(100, {100: 10}) == 0

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("quota:of=depth,most=0", "above 0"),
            ("quota:of=depth,most=1.5", "at most 1"),
            ("quota:of=depth,most=nan", "above 0"),
            ("limit:of=macs", "give one of the two"),
            ("limit:of=macs,least=3,most=2", "least <= most"),
            ("penalty:of=macs,above=3e6", "give both"),
            ("penalty:of=macs,above=-1,weight=1", "positive"),
            ("penalty:of=macs,above=1,weight=inf", "finite"),
            ("qota:of=depth", "Did you mean 'quota'"),
            ("quota:most=0.5", "'of' is missing"),
            ("quota:of=depth,most=half", "valid number"),
        ],
    )
    def test_bad_input(self, text, said):
        with pytest.raises(InvalidArgument, match=said):
            construct("constraint", text, CONSTRAINTS)


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("workers", [1, 3])
class TestEverySearcher:
    """No searcher needs to know of constraints to keep them."""

    def test_keeps_a_quota(self, name, workers):
        search = drive(searching(Quota("depth", 0.5), name), workers)
        counts = Counter(map(DEPTH, search.architectures))
        if name != "naswot":  # which evaluates one
            assert search.finished == 40
        assert max(counts.values()) <= math.ceil(0.5 * counts.total())
        assert search.admission.beyond == 0

    def test_keeps_a_limit(self, name, workers):
        search = drive(searching(Limit("macs", most=FEW), name), workers)
        assert search.architectures
        assert max(map(MACS, search.architectures)) <= FEW
        if name != "naswot":
            assert search.finished == 40

    def test_is_replayed(self, name, workers, tmp_path):
        with Journal(tmp_path) as journal:
            search = drive(searching(Quota("depth", 0.3), name, journal=journal), workers)
        with Journal(tmp_path) as journal:
            again = Search(
                SPACE, construct("search", SMALL.get(name, name), SEARCHERS), Fifo(), 60, 1, 0,
                journal, admission=admission(Quota("depth", 0.3)),
            )  # fmt: skip
            assert again.architectures == search.architectures
            assert again.admission.declined == search.admission.declined
            again.begin()
            drive(again, workers)
        if name != "naswot":
            assert again.finished == 60

    def test_does_not_hang_where_a_quota_cannot_be_kept(self, name, workers):
        search = drive(searching(Quota("depth", 0.05), name, samples=12), workers)
        if name == "naswot":
            return
        assert search.finished == 12
        assert search.admission.beyond > 0
        assert "beyond the quota" in search.admission.note(12, 12)
        counts = Counter(map(DEPTH, search.architectures))
        assert max(counts.values()) <= 12 / len(counts) + 1  # as even as it can be

    def test_a_penalty_reaches_the_searcher(self, name, workers):
        heard = []
        penalty = Penalty("macs", above=FEW, weight=0.5)
        search = searching(penalty, name, samples=20)
        tell = search.searcher.tell
        search.searcher.tell = lambda *result: (heard.append(result), tell(*result))
        drive(search, workers)
        assert heard
        for arch, told, _ in heard:
            evaluated = search.architectures[search.deduplication.evaluation(arch)]
            penalized = value(evaluated) - 0.5 * max(0, MACS(evaluated) / FEW - 1)
            assert told == pytest.approx(penalized)


@settings(max_examples=15, deadline=None)
@given(
    cut=st.integers(0, 120),
    name=st.sampled_from(["auto", "evolution", "local", "na-rs", "neighborhood", "random"]),
    rule=st.sampled_from(
        [Quota("depth", 0.3), Limit("macs", most=FEW), Penalty("macs", above=FEW, weight=0.3)]
    ),
)
def test_killed_anywhere_it_goes_on_as_if_nothing_had_been(tmp_path_factory, cut, name, rule):
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    with Journal(whole) as journal:
        drive(searching(rule, name, 16, journal=journal))
    lines = (whole / "journal" / "events.jsonl").read_bytes().splitlines(keepends=True)
    (killed / "journal").mkdir()
    (killed / "journal" / "events.jsonl").write_bytes(b"".join(lines[: min(cut, len(lines))]))
    with Journal(killed) as journal:
        drive(searching(rule, name, 16, journal=journal))
    assert story(killed) == story(whole)


class TestPenalty:
    def test_moves_the_outcome_and_leaves_the_metric(self):
        free = drive(searching(Penalty("macs", above=1e12, weight=1), "random", 60))
        penalized = drive(searching(Penalty("macs", above=FEW, weight=1), "random", 60))
        assert free.architectures == penalized.architectures
        assert MACS(free.architectures[free.best.index]) > FEW
        best = penalized.best
        assert best.index != free.best.index
        assert best.value == value(penalized.architectures[best.index])  # the metric itself
        worths = {e.index: penalized.worth(e) for e in penalized.evaluations}
        assert worths[best.index] == max(worths.values())
        assert penalized.ranked[0] is penalized.finalists[0] is best
        assert penalized.merits == pytest.approx(worths)

    def test_goes_with_a_searcher_that_has_merits_of_its_own(self):
        search = drive(searching(Penalty("macs", above=FEW, weight=1), "na-rs", 60))
        merits = search.searcher.merits()
        assert merits
        assert set(search.merits) <= {search.deduplication.evaluation(arch) for arch in merits}
        best = search.architectures[search.best.index]
        assert merits[best] == max(merits.values())

    def test_early_stops_go_by_what_counts(self):
        class Recorder(Fifo):
            def report(self, evaluation, epochs, value):
                seen.append(value)
                return True

        seen = []

        search = Search(
            SPACE, RandomSearch(), Recorder(), 5, 1, 0,
            admission=admission(Penalty("macs", above=1, weight=1e-9)),
        )  # fmt: skip
        drive(search)
        assert seen == [search.worth(e) for e in search.evaluations]


class TestEnds:
    def test_a_limit_ends_a_search_that_has_all_within_it(self):
        space = UserSpace("sizes", {"width": (1, 2, 3, 4, 5, 6), "a": ("x", "y")}, lambda *_: None)

        def wide(space, arch):
            return arch.choices[0] + 1

        for name in ("random", "evolution", "local", "auto"):
            search = drive(searching(Limit(wide, most=2), name, 30, space))
            assert sorted(arch.choices for arch in search.architectures) == [
                (0, 0), (0, 1), (1, 0), (1, 1),
            ]  # fmt: skip
            assert search.exhausted
            assert "ended after 4 of 30" in search.admission.note(4, 30)

    def test_waiting_for_the_last_within_a_limit_costs_nothing(self, tmp_path):
        space = UserSpace("sizes", {"width": (1, 2, 3, 4, 5, 6)}, lambda *_: None)
        measured = []

        def wide(space, arch):
            measured.append(arch)
            return arch.choices[0]

        with Journal(tmp_path) as journal:
            search = searching(Limit(wide, most=0), "evolution", 5, space, journal)
            assert search.suggest() is not None
            assert search.suggest() is None
            recorded, counted = len(read_events(tmp_path)), len(measured)
            for _ in range(50):
                assert search.suggest() is None
            assert (len(read_events(tmp_path)), len(measured)) == (recorded, counted)

    def test_a_searcher_that_only_ever_asks_for_what_is_declined(self):
        @dataclass
        class Stubborn(Searcher):
            heard: list = field(default_factory=list)

            def ask(self):
                return self.space.architecture([3] * 6)

            def tell(self, architecture, value, budget):
                self.heard.append((value, budget))

        search = drive(searching(Limit("macs", most=FEW), Stubborn(), 8))
        assert len(search.architectures) == 8
        assert (-math.inf, 0) in search.searcher.heard  # nobody waits for what is declined

    def test_of_a_list_nothing_but_the_list_is_evaluated(self):
        archs = [arch for arch in SPACE if SPACE.canonical(arch) == arch][::20]
        archs.sort(key=MACS, reverse=True)  # hundreds beyond the limit come first
        listed = Listed([SPACE.to_string(arch) for arch in archs])
        few = sorted(map(MACS, archs))[5]
        search = drive(searching(Limit("macs", most=few), listed, len(archs)))
        within = [arch for arch in archs if MACS(arch) <= few]
        assert search.architectures == within
        assert f"ended after {len(within)} of" in search.admission.note(len(within), len(archs))

    @pytest.mark.parametrize("workers", [1, 3])
    def test_what_a_quota_puts_off_of_a_list_comes_later(self, workers):
        once = [arch for arch in SPACE if SPACE.canonical(arch) == arch]
        of_depth = {depth: [a for a in once if DEPTH(a) == depth] for depth in (1, 2, 3)}
        archs = [arch for depth in (1, 2, 3) for arch in of_depth[depth][:2]]
        listed = Listed([SPACE.to_string(arch) for arch in archs])
        search = drive(searching(Quota("depth", 0.5), listed, len(archs)), workers)
        assert sorted(search.architectures, key=archs.index) == archs
        assert search.admission.beyond == search.admission.declined == 0

    def test_scores_of_what_may_never_be_evaluated_rank_last(self):
        search = drive(searching(Limit("macs", most=FEW), "naswot:candidates=40", 5))
        (arch,) = search.architectures
        assert MACS(arch) <= FEW


class TestEvolution:
    def test_a_birth_that_is_declined_is_given_back(self):
        evolution = Evolution(population=4, sample=2)
        evolution.start(SPACE, 0)
        kept = []
        for step in range(12):
            arch = evolution.ask()
            if step % 3:
                evolution.decline(arch)
            else:
                kept.append(arch)
        assert len(evolution._pending) == len(set(kept))
        for arch in kept:
            evolution.tell(arch, 0.5, 1)
        assert sorted(evolution.members) == [0, 1, 2, 3]

    def test_a_child_may_lie_on_the_other_side_of_what_is_forbidden(self):
        space = UserSpace("islands", {"a": ("x", "y"), "b": ("x", "y")}, lambda *_: None)
        evolution = Evolution(population=1, sample=1)
        evolution.admits = lambda arch: arch.choices[0] == arch.choices[1]
        evolution.start(space, 0)
        evolution.ask()
        evolution.tell(space.architecture([0, 0]), 0.5, 1)
        children = {evolution.ask().choices for _ in range(20)}
        assert children == {(0, 0), (1, 1)}


class TestArguments:
    def small(self, **changes):
        return {"space": "nasbench201:channels=4,cells=1", "data": "digits:fraction=0.1", **changes}

    def test_the_default_name_is_what_it_was(self):
        plain = resolve({"space": "nasbench201:channels=4,cells=1"}).config
        assert plain.name == "nasbench201-digits-evolution-5b6374"
        selecting = resolve({"space": "nasbench201:channels=4,cells=1", "select": 3}).config
        assert selecting.name == plain.name
        limited = resolve(
            {"space": "nasbench201:channels=4,cells=1", "constraint": "quota:of=depth,most=0.5"}
        ).config
        assert limited.name != plain.name

    def test_objects_and_names_are_one(self):
        named = resolve(self.small(constraint="quota:of=depth,most=0.5"))
        given = resolve(self.small(constraint=Quota("depth", 0.5)))
        assert named.config == given.config
        assert named.constraint == Quota("depth", 0.5)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"constraint": "quota:of=dept,most=0.5"}, "Did you mean 'depth'"),
            ({"constraint": "limit:of=macs,most=10"}, "none is within it; macs of theirs is"),
            ({"constraint": Limit(lambda space, arch: math.nan, most=1)}, "is nan"),
            (
                {"constraint": Quota(lambda space, arch: math.nan if arch.choices[1] == 2 else 1)},
                "is nan",
            ),
            ({"constraint": 3}, "neither a name nor a Constraint"),
            (
                {"constraint": "quota:of=depth,most=0.5", "space": "resnet"},
                "no cells as graphs, so no depth",
            ),
            (
                {"constraint": "quota:of=depth,most=0.5", "search": "darts"},
                "derives architectures by gradients",
            ),
            (
                {"constraint": "limit:of=macs,most=1e9", "search": "adanet", "space": "dense"},
                "grows an ensemble",
            ),
            (
                {
                    "constraint": "penalty:of=macs,above=1e6,weight=50",
                    "evaluate": "proxy",
                    "select": 2,
                },
                "in units of naswot",
            ),
            ({"select": 0}, "select=0"),
            ({"select": 40}, "select=40: only samples=32"),
        ],
    )
    def test_bad_input_is_found_before_anything_starts(self, changes, said):
        with pytest.raises(InvalidArgument, match=said):
            resolve(self.small(**changes))

    def test_users_own(self):
        @dataclass(frozen=True)
        class Even(Constraint):
            def excess(self, value, counts):
                return 0.0 if value % 2 == 0 else math.inf

        search = drive(searching(Even("depth"), "evolution", 20))
        assert {DEPTH(arch) % 2 for arch in search.architectures} == {0}


class TestBench:
    def test_on_the_table_that_comes_along(self):
        options = {"search": "random,evolution,auto", "queries": 20, "runs": 3}
        free = raynas.bench(**options)
        limited = raynas.bench(**options, constraint="limit:of=macs,most=1.1e6", jobs=2)
        assert list(limited["queries"]) == [20] * 9
        assert list(free["report"]) != list(limited["report"])
        with pytest.raises(InvalidArgument, match="none is within it"):
            raynas.bench(**options, constraint="limit:of=macs,most=1")
        with pytest.raises(InvalidArgument, match="neither a name"):
            raynas.bench(**options, constraint=7)
