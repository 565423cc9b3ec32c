"""The search, driven without Ray: duplicates, failures, early stops, and replay from anywhere."""

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_lines import read_events

import search_spaces
from raynas import Asha, Evolution, Fifo, JournalError, RandomSearch, Searcher
from raynas.cluster import reason_of
from raynas.config.description import described
from raynas.drivers.peers import WorkerDied
from raynas.record.events import Status
from raynas.record.journal import Journal
from raynas.schedulers import SCHEDULERS
from raynas.search.faults import of_the_machine
from raynas.search.search import Search
from raynas.searchers import SEARCHERS
from search_spaces.naming import construct

SPACE = search_spaces.get("nasbench201")


def value(arch, epoch):
    return round(0.1 + 0.1 * sum(c == 3 for c in arch.choices) + 0.01 * epoch, 3)


def searching(folder, searcher=None, scheduler=None, samples=12, epochs=4, seed=0, space=SPACE):
    journal = Journal(folder)
    searcher, scheduler = searcher or Evolution(4, 2), scheduler or Asha(reduction=2)
    search = Search(space, searcher, scheduler, samples, epochs, seed, journal)
    search.begin()
    return search


def drive(search, workers=1, max_events=10**9):
    """What Tune does: keep `workers` trials going, one epoch of each in turn."""
    running = []
    while True:
        while len(running) < workers and (evaluation := search.suggest()) is not None:
            running.append(evaluation)
        if not running:
            return search
        evaluation = running.pop(0)
        epoch = evaluation.epochs + 1
        goes_on = search.report(
            evaluation.index,
            {"val_accuracy": value(search.architectures[evaluation.index], epoch)},
        )
        if not goes_on:
            search.finish(evaluation.index, Status.STOPPED)
        elif evaluation.epochs == search.epochs:
            search.finish(evaluation.index, Status.COMPLETED)
        else:
            running.append(evaluation)


def story(folder):
    """The events without their times."""
    return [{k: v for k, v in e.items() if k != "time"} for e in read_events(folder)]


def summary(search):
    return [(e.notation, e.status, e.epochs, search.seed_of(e.index)) for e in search.evaluations]


def test_evaluates_as_many_as_asked_for(tmp_path):
    search = drive(searching(tmp_path), workers=3)
    assert len(search.evaluations) == search.finished == 12
    assert search.exhausted
    assert {e.status for e in search.evaluations} == {Status.COMPLETED, Status.STOPPED}
    assert search.best is max(search.evaluations, key=lambda e: (e.epochs, e.value))


def kernel_only_of_convolutions(config):
    return config if config["layer"] == "conv" else {**config, "kernel": 1}


@pytest.mark.parametrize("canonical", [None, kernel_only_of_convolutions])
def test_what_a_user_calls_equal_is_paid_for_once(tmp_path, canonical):
    decisions = {"layer": ("conv", "pool"), "kernel": (1, 3, 5), "width": (4, 8)}
    space = search_spaces.UserSpace("mine", decisions, lambda *_: None, canonical=canonical)
    search = drive(searching(tmp_path, RandomSearch(), Fifo(), samples=50, space=space))
    assert len(search.evaluations) == (12 if canonical is None else 8)
    told = {space.canonical(arch) for arch in search.architectures}
    assert len(told) == len(search.evaluations)
    text = described(space, search_spaces.SPACES)
    assert ("canonical=function-kernel_only_of_convolutions-" in text) == (canonical is not None)


@pytest.mark.parametrize("searcher", [Evolution(4, 2), RandomSearch()])
def test_no_structure_is_paid_for_twice(tmp_path, searcher):
    search = drive(searching(tmp_path, searcher, samples=150), workers=2)
    forms = [SPACE.canonical(arch) for arch in search.architectures]
    assert len(set(forms)) == 150


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 200), workers=st.integers(1, 4))
def test_killed_anywhere_it_goes_on_as_if_nothing_had_been(tmp_path_factory, cut, workers):
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    uncut = drive(searching(whole), workers=workers)
    uncut.journal.close()
    lines = (whole / "journal" / "events.jsonl").read_bytes().splitlines(keepends=True)
    cut %= len(lines) + 1
    (killed / "journal").mkdir()
    (killed / "journal" / "events.jsonl").write_bytes(b"".join(lines[:cut]))
    resumed = searching(killed)
    assert story(killed)[:cut] == story(whole)[:cut]
    drive(resumed, workers=workers)
    resumed.journal.close()
    assert len(resumed.evaluations) == 12
    reported = [e["evaluation"] for e in story(killed) if e["event"] == "reported"]
    assert all(reported.count(e.index) == e.epochs <= 4 for e in resumed.evaluations)
    finished = [e["evaluation"] for e in story(killed) if e["event"] == "finished"]
    assert sorted(finished) == list(range(12))
    if workers == 1:  # in series, order is the same too
        assert story(killed) == story(whole)
        assert resumed.scheduler.rungs == uncut.scheduler.rungs


def test_an_early_stop_that_was_decided_but_not_recorded_still_holds(tmp_path):
    search = searching(tmp_path, scheduler=Asha(reduction=2))
    first, second = search.suggest(), search.suggest()
    values = {first.index: 0.9, second.index: 0.1}
    assert search.report(first.index, {"val_accuracy": values[first.index]})
    assert not search.report(second.index, {"val_accuracy": values[second.index]})
    search.journal.close()  # the driver dies before it records the stop
    resumed = searching(tmp_path, scheduler=Asha(reduction=2))
    assert resumed.evaluations[second.index].status is Status.STOPPED
    assert resumed.suggest().index == first.index


def test_more_samples_extend_a_finished_search(tmp_path):
    search = drive(searching(tmp_path, samples=6))
    before = summary(search)
    search.journal.close()
    extended = drive(searching(tmp_path, samples=10))
    assert summary(extended)[:6] == before
    assert len(extended.evaluations) == extended.finished == 10


def test_another_searcher_is_not_taken_for_the_same(tmp_path):
    drive(searching(tmp_path, RandomSearch())).journal.close()
    with pytest.raises(JournalError, match="asked for"):
        searching(tmp_path, RandomSearch(), seed=1)


def test_a_failed_evaluation_does_not_end_the_search(tmp_path):
    search = searching(tmp_path, scheduler=Fifo())
    bad = search.suggest()
    search.finish(bad.index, Status.FAILED, "RuntimeError: no")
    drive(search)
    assert search.finished == 12
    assert search.best.index != bad.index
    assert search.failure is None


def fail_all(search, reasons):
    for reason in reasons:
        evaluation = search.suggest()
        if evaluation is None:
            break
        search.finish(evaluation.index, Status.FAILED, reason)


def test_ten_failures_for_one_reason_end_it(tmp_path):
    search = searching(tmp_path)
    fail_all(search, [f"RuntimeError: shape {i}" for i in range(12)])
    assert search.failure == "RuntimeError: shape 0"
    assert search.finished == 10
    assert search.suggest() is None
    assert search.exhausted


@pytest.mark.parametrize("odd", [0, 9])
def test_ten_failures_for_two_reasons_do_not(tmp_path, odd):
    search = searching(tmp_path)
    fail_all(search, ["KeyError: x" if i == odd else "RuntimeError: y" for i in range(10)])
    assert search.failure is None
    assert search.suggest() is not None


def test_a_small_space_is_gone_through_whole(tmp_path):
    """Also by a searcher that only ever asks for the same."""

    class Stubborn(Searcher):
        def ask(self):
            return self.space.architecture([0] * 8)

        def tell(self, architecture, value, budget):
            pass

    space = search_spaces.get("nasbench_macro")
    search = searching(tmp_path, Stubborn(), Fifo(), samples=30, epochs=1, space=space)
    drive(search)
    assert len(set(search.architectures)) == 30


def test_asking_for_more_than_there_is_ends_quietly(tmp_path):
    @dataclass(frozen=True)
    class Tiny(search_spaces.SearchSpace):
        name = "tiny"

        @property
        def decisions(self):
            return (search_spaces.Decision("bit", (0, 1)), search_spaces.Decision("bit2", (0, 1)))

        def build(self, arch, input_shape=(3, 32, 32), num_classes=10):
            raise NotImplementedError

    search = drive(searching(tmp_path, RandomSearch(), samples=50, space=Tiny()), workers=3)
    assert len(search.evaluations) == search.finished == 4
    assert search.exhausted


def test_asked_for_again_while_it_runs_the_searcher_hears_twice(tmp_path):
    @dataclass
    class Recorder(Searcher):
        script: list = field(default_factory=list)
        heard: list = field(default_factory=list)

        def ask(self):
            return self.script.pop(0) if self.script else None

        def tell(self, architecture, value, budget):
            self.heard.append((architecture, value, budget))

    a, b = SPACE.architecture([3] * 6), SPACE.architecture([2] * 6)
    search = searching(tmp_path, Recorder([a, a, b]), Fifo(), epochs=1)
    first, second = search.suggest(), search.suggest()
    assert search.architectures == [a, b]
    assert (first.index, second.index) == (0, 1)
    search.report(first.index, {"val_accuracy": 0.7})
    search.finish(first.index, Status.COMPLETED)
    assert search.searcher.heard == [(a, 0.7, 1), (a, 0.7, 1)]


def test_journal_is_written_before_anything_else(tmp_path):
    search = searching(tmp_path)
    evaluation = search.suggest()
    search.report(evaluation.index, {"val_accuracy": 0.5})
    lines = (tmp_path / "journal" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["suggested", "reported"]


PROMOTION = {"reduction": 2, "variant": "promotion"}


@given(
    cut=st.integers(0, 60),
    searcher=st.sampled_from(
        ["area:population=3,candidates=6", "auto:initial=2", "local", "na-rs"]
    ),
    scheduler=st.sampled_from(["asha", "asha-stratified"]),
    variant=st.sampled_from(["stopping", "promotion"]),
)
@settings(max_examples=12, deadline=None)
def test_every_searcher_goes_on_from_where_it_was_killed(
    tmp_path_factory, cut, searcher, scheduler, variant
):
    """Scores, promotions and races are replayed like everything else."""

    def started(folder):
        search = searching(
            folder,
            construct("search", searcher, SEARCHERS),
            construct("scheduler", f"{scheduler}:reduction=2,variant={variant}", SCHEDULERS),
        )
        for arch in list(search.unscored):
            search.score(arch, float(sum(arch.choices)))
        return search

    folder = tmp_path_factory.mktemp("uncut")
    drive(started(folder))
    events = story(folder)
    cut = min(cut, len(events))
    other = tmp_path_factory.mktemp("cut")
    (other / "journal").mkdir()
    lines = (folder / "journal" / "events.jsonl").read_bytes().splitlines(keepends=True)
    (other / "journal" / "events.jsonl").write_bytes(b"".join(lines[:cut]))
    drive(started(other))
    assert story(other) == events


def test_one_that_was_promoted_and_failed_is_not_the_best(tmp_path):
    search = searching(tmp_path, RandomSearch(), Asha(**PROMOTION), samples=2)
    for result in (0.9, 0.5):
        index = search.suggest().index
        assert not search.report(index, {"val_accuracy": result})
        search.finish(index, Status.STOPPED)
    promoted = search.suggest()
    assert promoted.index == 0
    search.finish(0, Status.FAILED, "no reason")
    assert search.best.index == 1
    assert [e.index for e in search.ranked] == [1]


@pytest.mark.parametrize("searcher", ["auto:initial=2", "local", "evolution", "random"])
def test_waiting_for_the_last_of_a_small_space_costs_nothing(tmp_path, searcher):
    space = search_spaces.UserSpace("tiny", {"a": (1, 2, 3, 4), "b": ("x", "y")}, lambda *_: None)
    algorithm = construct("search", searcher, SEARCHERS)
    search = searching(tmp_path, algorithm, Fifo(), samples=32, epochs=1, space=space)
    for arch in list(search.unscored):
        search.score(arch, 0.0)
    running = [search.suggest() for _ in range(8)]
    assert None not in running
    for evaluation in running[1:]:
        search.report(evaluation.index, {"val_accuracy": 0.5})
        search.finish(evaluation.index, Status.COMPLETED)
    assert search.suggest() is None
    recorded = len(read_events(tmp_path))
    for _ in range(100):
        assert search.suggest() is None  # one is still running
    assert len(read_events(tmp_path)) == recorded
    assert not search.exhausted
    search.report(running[0].index, {"val_accuracy": 0.5})
    search.finish(running[0].index, Status.COMPLETED)
    assert search.suggest() is None
    assert search.exhausted


NO_DRIVER = "RuntimeError: Found no NVIDIA driver on your system."


def failing(search, reason):
    """What Tune does where every trial fails."""
    while (evaluation := search.suggest()) is not None:
        search.finish(evaluation.index, Status.FAILED, reason)
    return search


class TestAFaultThatEndedTheSearch:
    @pytest.mark.parametrize("samples", [4, 12])
    @pytest.mark.parametrize("searcher", ["random", "evolution", "local", "auto"])
    def test_of_the_machine_is_tried_again(self, tmp_path, samples, searcher):
        """Ten for a common reason, or all of fewer; and again, until it is mended."""
        begun = min(samples, 10)
        for attempt in range(3):
            search = searching(tmp_path, construct("search", searcher, SEARCHERS), samples=samples)
            assert search.failure is None
            assert len(search.history.running) == (begun if attempt else 0)
            assert not search.exhausted
            failing(search, NO_DRIVER)
            assert (search.failure is not None) == (samples > 10)
            assert len(search.evaluations) == begun
            search.journal.close()
        search = searching(tmp_path, construct("search", searcher, SEARCHERS), samples=samples)
        drive(search)
        assert len(search.evaluations) == samples
        assert search.best is not None
        assert all(e.status in (Status.COMPLETED, Status.STOPPED) for e in search.evaluations)
        search.journal.close()
        again = searching(tmp_path, construct("search", searcher, SEARCHERS), samples=samples)
        assert again.exhausted  # a replay of all that
        assert [e.value for e in again.evaluations] == [e.value for e in search.evaluations]
        again.journal.close()

    def test_of_the_network_stands(self, tmp_path):
        failing(searching(tmp_path), "ValueError: cannot be built").journal.close()
        search = searching(tmp_path)
        assert search.failure == "ValueError: cannot be built"
        assert search.exhausted
        assert not any(e["event"] == "retried" for e in story(tmp_path))
        search.journal.close()

    @pytest.mark.parametrize(
        "reason",
        [
            NO_DRIVER, "worker died: The actor died", "out of memory: CUDA out of memory.",
            "AcceleratorError: CUDA error: no kernel image is available",
            "RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
            "OSError: [Errno 28] No space left on device", "StorageError: /runs is not visible",
            "AssertionError: Torch not compiled with CUDA enabled",
            reason_of(WorkerDied("a worker of the trial is gone (the connection was lost)")),
        ],
    )  # fmt: skip
    def test_reasons_of_the_machine(self, reason):
        assert of_the_machine(reason)

    @pytest.mark.parametrize(
        "reason",
        [
            None, "", "ValueError: out of range", "RuntimeError: mat1 and mat2 do not match",
            "RuntimeError: CUDA error: device-side assert triggered",
            "Diverged: training loss is nan",
        ],
    )  # fmt: skip
    def test_reasons_of_the_network(self, reason):
        assert not of_the_machine(reason)
