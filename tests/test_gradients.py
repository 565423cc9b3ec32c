"""Differentiable searches in a run: several searches, what they derive, and what becomes of it."""

import io
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch
from journal_lines import read_events
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_faults import kill_at
from torch import nn

import raynas
import search_spaces
from raynas import Asha, Gradients
from raynas.cli.status import status
from raynas.config.description import described
from raynas.config.resolve import resolve
from raynas.drivers.gradients import Searches
from raynas.drivers.search_actor import SearchActor, SearchJob
from raynas.errors import InvalidArgument
from raynas.record.events import Finished, Searched, SearchEnded, Status
from raynas.record.folder import RunFolder
from raynas.record.history import History
from raynas.record.journal import Journal
from raynas.reports import gradients
from raynas.reports.figures import mixtures_figure
from raynas.reports.monitor import Monitor
from raynas.reports.rendering import png
from raynas.reports.tensorboard import TensorBoard
from raynas.search.search import Search
from raynas.searchers import SEARCHERS
from raynas.searchers.gradients import best_of_each_size
from search_spaces import Decision, UserSpace
from search_spaces.naming import construct
from trials.data import DataError, load
from trials.differentiable import GDAS, RULES, Darts, Differentiable, MiLeNAS, SingleLevel
from trials.differentiable.problem import Batch, Problem

NB201 = search_spaces.get("nasbench201:channels=4,cells=1")
#: a rate at which a few epochs decide something
LOOP = "batch_size=32,architecture_learning_rate=0.05"
#: one search at a time, one evaluation at a time
SERIAL = {
    "space": "nasbench201:channels=4,cells=1",
    "data": "digits",
    "search": f"milenas:searches=2,epochs=3,{LOOP}",
    "samples": 2,
    "epochs": 2,
    "max_concurrent": 1,
}


@pytest.fixture(scope="module")
def searched(local_ray, tmp_path_factory):
    """A finished run that tests may read and must not change."""
    folder = tmp_path_factory.mktemp("runs")
    return raynas.run(**SERIAL, ensemble="saep:size=2", storage_path=folder, name="searched")


@pytest.fixture(scope="module")
def digits():
    return load("digits:fraction=0.3")


def without_times(folder):
    """The events of a run but for when they were, and how long something took."""
    events = read_events(folder)
    for event in events:
        event.pop("time")
        for key in ("metrics", "curves"):
            if isinstance(event.get(key), dict):
                event[key] = {k: v for k, v in event[key].items() if not is_time(k)}
    return [e for e in events if e["event"] not in ("session", "ensemble")]


def is_time(name):
    return "seconds" in name or "latency" in name


def mixtures(folder):
    """{(search, epoch): its mixture}, every epoch once."""
    epochs = [e for e in read_events(folder) if e["event"] == "searched"]
    found = {(e["search"], e["epoch"]): (e["architecture"], e["mixture"]) for e in epochs}
    assert len(found) == len(epochs)
    return found


class TestArguments:
    @pytest.mark.parametrize(
        ("text", "recipe"),
        [
            ("milenas:lambda_=0.5,batch_size=16", Differentiable(MiLeNAS(0.5), batch_size=16)),
            ("darts:second_order=true", Differentiable(Darts(second_order=True))),
            ("gdas:temperature=5", Differentiable(GDAS(temperature=5.0))),
            ("single-level", Differentiable(SingleLevel())),
            ("milenas:expected_size=6/0", Differentiable(expected_size=(6, 0))),
            ("milenas:expected_size=5000", Differentiable(expected_size=(5000,))),
            (
                "gradients:rule=darts,options=architecture_betas=0.5/0.9;checkpoint=true",
                Differentiable(Darts(), architecture_betas=(0.5, 0.9), checkpoint=True),
            ),
        ],
    )
    def test_a_description_is_read_back(self, text, recipe):
        searcher = construct("search", text, SEARCHERS)
        assert searcher.recipes == (recipe,)
        again = construct("search", described(searcher, SEARCHERS), SEARCHERS)
        assert again == searcher
        assert again.recipes == searcher.recipes

    def test_searches_take_several_rules_in_turn(self):
        text = "gradients:rule=milenas:lambda_=0.1;order=a-then-w|darts,searches=3,epochs=7"
        searcher = construct("search", text, SEARCHERS)
        assert searcher == Gradients([MiLeNAS(0.1, order="a-then-w"), Darts()], 3, 7)
        assert [r.rule for r in searcher.recipes] == [MiLeNAS(0.1, order="a-then-w"), Darts()]
        assert (searcher.searches, searcher.epochs_of_search) == (3, 7)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("milenas:lambda_=-1", "lambda_.*greater than or equal to 0"),
            ("milenas:lamda_=1", "Did you mean 'lambda_'"),
            ("darts:lambda_=1", "darts has no option 'lambda_'"),
            ("milenas:searches=0", "searches"),
            ("gradients:rule=dart", "Did you mean 'darts'"),
            ("gradients:rule=milenas:0.5", "option=value"),
            ("gradients:options=rule=darts", "argument of its own"),
            ("gradients:options=batch_sise=3", "Did you mean 'batch_size'"),
            ("milenas:expected_size=large", "expected_size"),
            ("milenas:architecture_betas=0.5/1.5", "architecture_betas"),
        ],
    )
    def test_wrong_options_are_refused(self, text, message):
        with pytest.raises(InvalidArgument, match=message):
            construct("search", text, SEARCHERS)

    def test_a_rule_of_ones_own_goes_by_its_own_name(self):
        """Else a run that is continued by what its folder says would go on with another rule."""
        own = Gradients(FailsAtOnce())
        assert own != Gradients(MiLeNAS())
        with pytest.raises(InvalidArgument, match="rule='FailsAtOnce' is unknown"):
            construct("search", described(own, SEARCHERS), SEARCHERS)

    @pytest.mark.parametrize("rule", [[], [3], [MiLeNAS(), "darts"]])
    def test_rules_are_rules(self, rule):
        with pytest.raises(InvalidArgument, match="rule="):
            Gradients(rule)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"space": "nasbench101"}, "has no supernet"),
            ({"space": UserSpace("u", {"a": (0, 1)}, lambda *_: nn.Identity())}, "no supernet"),
            ({"data": "one class"}, "one class"),
            ({"search": "milenas:batch_size=2000"}, "too few for a batch of 2000"),
            ({"search": "milenas:lambda_=-0.5"}, "lambda_"),
            ({"search": "milenas:expected_size=7"}, "no architecture of .* has params 7"),
            ({"search": "milenas:expected_size=6/0"}, "is 1 number: params"),
            (
                {"space": "darts:channels=4,cells=2", "search": "milenas:expected_size=9/0"},
                "no architecture of 'darts' has normal_convolutions 9",
            ),
            ({"scheduler": "asha:variant=promotion"}, "not promoted"),
            ({"search": "neighborhood:inner=milenas"}, "inner"),
        ],
    )
    def test_bad_input_is_found_before_anything_starts(self, local_ray, tmp_path, changes, message):
        if changes.get("data") == "one class":
            images = torch.zeros(80, 8, 8, dtype=torch.uint8).numpy()
            changes = {"data": (images, torch.zeros(80, dtype=torch.int64).numpy())}
        arguments = {**SERIAL, "storage_path": tmp_path, "name": "bad", **changes}
        with pytest.raises((InvalidArgument, DataError), match=message):
            raynas.run(**arguments)
        assert list(tmp_path.iterdir()) == []

    def test_samples_stay_when_more_was_derived(self, tmp_path):
        """A run that is continued trains as many as it was told, however many there are by now."""
        plan = resolve({**SERIAL, "storage_path": tmp_path, "name": "run"})
        plan.folder.path.mkdir()
        plan.write({}, evaluations=9)
        assert plan.folder.read_configuration()["samples"] == SERIAL["samples"]

    def test_a_table_has_nothing_to_search_by(self):
        with pytest.raises(InvalidArgument, match="trains a supernet"):
            raynas.bench(search="milenas", queries=3, runs=1)


class TestRun:
    def test_what_is_derived_is_an_evaluation(self, searched):
        trials = searched.trials
        events = [e for e in read_events(searched.path) if e["event"] == "searched"]
        assert [(e["search"], e["epoch"]) for e in events] == [
            (search, epoch) for search in (0, 1) for epoch in (1, 2, 3)
        ]
        first = {}
        for event in events:
            form = NB201.canonical(NB201.from_string(event["architecture"]))
            first.setdefault(form, event)
        rows = [
            (e["architecture"], e["search"], e["epoch"], e["metrics"]["architecture_accuracy"])
            for e in first.values()
        ]
        columns = ["architecture", "search", "search_epoch", "search_accuracy"]
        assert [tuple(row) for row in trials[columns].itertuples(index=False)] == rows

    def test_mixtures_are_distributions(self, searched):
        for _, mixture in mixtures(searched.path).values():
            assert [len(weights) for weights in mixture] == [5] * 6
            assert torch.tensor(mixture).sum(1).tolist() == pytest.approx([1.0] * 6)

    def test_the_best_of_each_size_are_trained_and_no_other(self, searched):
        best = {}
        for event in read_events(searched.path):
            if event["event"] == "searched":
                size, accuracy = (event["metrics"][k] for k in ("params", "architecture_accuracy"))
                if size not in best or accuracy > best[size][0]:
                    best[size] = (accuracy, event["architecture"])
        ordered = sorted(best.values(), key=lambda pair: -pair[0])[: SERIAL["samples"]]
        chosen = {NB201.canonical(NB201.from_string(text)) for _, text in ordered}
        trials = searched.trials
        assert len(trials) > len(chosen), "nothing was left over: this shows nothing"
        for _, row in trials.iterrows():
            taken = NB201.canonical(NB201.from_string(row["architecture"])) in chosen
            assert (row["status"], row["epochs"]) == (("completed", 2) if taken else ("stopped", 0))
            if not taken:
                assert "the best of each size" in row["reason"]
                assert row["curve"] == []
        trained = trials[trials["status"] == "completed"]
        winner = trained.loc[trained["val_accuracy"].idxmax()]
        assert searched.best.architecture == winner["architecture"]

    def test_export_and_ensemble_go_on_as_for_every_search(self, searched):
        images = torch.rand(3, 1, 8, 8)
        assert searched.best.model()(images).shape == (3, 10)
        assert (searched.path / "best" / "model.pt2").exists()
        completed = searched.trials.query("status == 'completed'")["evaluation"]
        assert set(searched.ensemble.members["evaluation"]) == set(completed)

    def test_the_status_counts_what_was_derived(self, searched, capsys):
        status(searched.path)
        derived = len(searched.trials)
        assert f"{derived} derived, at most 2 to be evaluated: " in capsys.readouterr().out

    def test_the_report_says_what_the_searches_did(self, searched):
        report = (searched.path / "report.html").read_text()
        assert "The differentiable searches" in report
        assert "milenas:lambda_=1.0" in report
        assert "&#9733;" in report
        assert "stopped early" not in report  # nothing was, by a scheduler
        for number, epochs in History(raynas_events(searched.path)).searches.items():
            assert f"{epochs[-1].metrics['architecture_accuracy']:.2%}" in report
            figure = searched.path / f"mixtures-{number:03d}.png"
            assert figure.read_bytes().startswith(b"\x89PNG")

    def test_tensorboard_has_epochs_and_mixtures(self, searched):
        history = History(raynas_events(searched.path))
        for number, epochs in history.searches.items():
            folder = searched.path / "tensorboard" / "searches" / f"{number:03d}"
            board = EventAccumulator(str(folder)).Reload()
            for tag, name in (
                ("search/accuracy", "architecture_accuracy"), ("state/entropy", "entropy"),
            ):  # fmt: skip
                shown = [(s.step, s.value) for s in board.Scalars(tag)]
                assert shown == [(e.epoch, pytest.approx(e.metrics[name])) for e in epochs]
            (image,) = board.Images("mixtures")
            assert image.step == 3
            assert image.encoded_image_string.startswith(b"\x89PNG")

    @pytest.mark.slow  # a second run
    def test_same_seed_same_run(self, searched, tmp_path):
        arguments = {**SERIAL, "ensemble": "saep:size=2", "storage_path": tmp_path}
        again = raynas.run(**arguments, name="again")
        other = raynas.run(**{**arguments, "seed": 1}, name="other")
        assert without_times(again.path) == without_times(searched.path)
        assert mixtures(other.path) != mixtures(searched.path)

    @pytest.mark.slow  # a run each
    @pytest.mark.parametrize("rule", sorted(RULES.keys() - {"milenas"}))
    def test_every_rule_runs(self, local_ray, tmp_path, rule):
        search = f"{rule}:searches=1,epochs=2,{LOOP}"
        result = raynas.run(**{**SERIAL, "search": search}, storage_path=tmp_path, name=rule)
        assert len(mixtures(result.path)) == 2
        assert result.finished
        assert result.best.metrics["test_accuracy"] > 0

    @pytest.mark.slow  # a run
    def test_in_cells_of_darts(self, local_ray, tmp_path):
        changes = {
            "space": "darts:channels=2,cells=2",
            "search": f"gdas:searches=1,epochs=2,{LOOP}",
        }
        result = raynas.run(**{**SERIAL, **changes}, storage_path=tmp_path, name="darts")
        report = (result.path / "report.html").read_text()
        assert "normal convolutions and reduction convolutions" in report
        assert all(len(mixture) == 28 for _, mixture in mixtures(result.path).values())


def raynas_events(folder):
    with Journal(folder) as journal:
        return journal.events


class TestEarlyStop:
    @pytest.fixture
    def begin(self, local_ray, digits, tmp_path):
        """What makes an actor, without Tune, for a search that any architecture ends."""
        largest = max(NB201.params(arch, (1, 8, 8), 10) for arch in [every(NB201, "nor_conv_3x3")])
        recipe = Differentiable(batch_size=32, expected_size=(largest,))
        folder = RunFolder(tmp_path)
        folder.searches.mkdir()
        job = SearchJob(NB201, [recipe], ray.put(digits), 4, folder, 1)

        def make(reported):
            actor = SearchActor.__new__(SearchActor)
            actor.setup({"search": 0, "seed": 3, "reported": reported}, job)
            return actor

        return make

    def test_the_first_epoch_that_reaches_the_size_is_the_last(self, begin):
        result = begin(reported=0).step()
        assert (result["epoch"], result["done"]) == (1, True)
        assert result["of_epoch"][0]["metrics"]["params"] > 0

    def test_started_anew_it_does_not_go_on(self, begin):
        """The driver died after the epoch was recorded, and before the end was."""
        first = begin(reported=0).step()
        again = begin(reported=1).step()
        assert again == first

    @pytest.mark.slow  # a run
    def test_in_a_run(self, local_ray, tmp_path):
        largest = NB201.params(every(NB201, "nor_conv_3x3"), (1, 8, 8), 10)
        search = f"milenas:searches=2,epochs=5,expected_size={largest},{LOOP}"
        result = raynas.run(**{**SERIAL, "search": search}, storage_path=tmp_path, name="early")
        ends = [e for e in read_events(result.path) if e["event"] == "search_ended"]
        assert [(e["search"], e["status"]) for e in ends] == [(0, "completed"), (1, "completed")]
        assert mixtures(result.path).keys() == {(0, 1), (1, 1)}


def every(space, operation):
    """The architecture with one operation everywhere."""
    return space.architecture([d.choices.index(operation) for d in space.decisions])


def made_up(search, epoch, accuracy, choices=(3,) * 6, **metrics):
    """An epoch of a search in NB201; its size is the sum of its choices."""
    values = {
        "train_loss": 1.0, "train_accuracy": 0.75, "architecture_loss": 1.0,
        "architecture_accuracy": accuracy, "val_accuracy": 0.5, "entropy": 0.9, "skip_share": 0.0,
        "none_share": 0.0, "params": float(sum(choices)),
    }  # fmt: skip
    arch = NB201.to_string(NB201.architecture(choices))
    return Searched(search, epoch, arch, {**values, **metrics}, [[0.1, 0.2, 0.3, 0.2, 0.2]] * 6)


class TestSearchWithoutRay:
    """A `Search` driven by made-up epochs of two searches."""

    CHOICES = ((3, 3, 3, 3, 3, 3), (1, 3, 3, 3, 3, 3), (3, 1, 3, 3, 3, 3), (2, 3, 3, 3, 3, 3))

    def search(self, journal=None, scheduler=None):
        searcher = Gradients(searches=2, epochs=4)
        scheduler = scheduler or Asha(reduction=2)
        search = Search(NB201, searcher, scheduler, 2, 1, 0, journal)
        search.begin()
        return search

    def test_asha_stops_searches_by_search_accuracy(self):
        search = self.search()
        assert search.derive(made_up(0, 1, 0.6))
        assert not search.derive(made_up(1, 1, 0.5, self.CHOICES[1]))
        assert search.derive(made_up(0, 2, 0.1, self.CHOICES[2]))  # the only one at its rung
        assert search.derive(made_up(0, 3, 0.0, self.CHOICES[3]))  # no rung
        assert search.searches_stopping == {1}
        assert search._over_searches.rungs == {1: [0.5, 0.6], 2: [0.1]}

    def test_evaluations_run_to_their_end(self):
        search = self.search()
        search.derive(made_up(0, 1, 0.6))
        search.derive(made_up(0, 2, 0.5, self.CHOICES[1]))
        search.choose([e.notation for e in search.evaluations])
        for value in (0.9, 0.1):
            evaluation = search.suggest()
            assert search.report(evaluation.index, {"val_accuracy": value})
            search.finish(evaluation.index, Status.COMPLETED)
        assert search.suggest() is None
        assert search.exhausted

    def test_the_same_architecture_is_one_evaluation(self):
        search = self.search()
        search.derive(made_up(0, 1, 0.6))
        search.derive(made_up(0, 2, 0.9))
        search.derive(made_up(1, 1, 0.7))
        assert [e.origin.metrics["architecture_accuracy"] for e in search.evaluations] == [0.6]

    def test_chosen_in_their_order_and_the_rest_ended(self):
        search = self.search()
        epochs = [made_up(0, i + 1, 0.1 * i, c) for i, c in enumerate(self.CHOICES)]
        for event in epochs:
            search.derive(event)
        best = best_of_each_size(NB201, epochs)
        # of the sizes 18, 16, 16, 17, rising in accuracy
        assert [event.epoch for event in best] == [4, 3, 1]
        search.choose([event.architecture for event in best[:2]])
        assert [e.index for e in search.history.running] == [2, 3]
        assert [search.suggest().index for _ in range(2)] == [3, 2]
        assert search.suggest() is None

    def test_what_computes_the_same_is_chosen_once(self):
        """Edges that lead nowhere count as parameters, so one function can have several sizes."""
        search = self.search()
        dead = [(choice, 0, 0, 3, 0, 0) for choice in (0, 2, 3)]
        epochs = [made_up(0, i + 1, 0.9 - 0.1 * i, c) for i, c in enumerate([*dead, (3,) * 6])]
        for event in epochs:
            search.derive(event)
        assert [e.index for e in search.evaluations] == [0, 1]
        search.choose([e.architecture for e in best_of_each_size(NB201, epochs)], most=2)
        assert [search.suggest().index for _ in range(2)] == [0, 1]

    def test_nothing_comes_after_what_was_chosen(self, tmp_path):
        """Also with more samples, and also for a run that is continued."""
        with Journal(tmp_path) as journal:
            search = self.search(journal)
            search.derive(made_up(0, 1, 0.6))  # one, and two samples
            search.choose([search.evaluations[0].notation])
            assert search.samples == 1
            assert not search.exhausted
            search.suggest()
            assert search.exhausted
            search.finish(0, Status.COMPLETED)
        with Journal(tmp_path) as journal:
            assert self.search(journal).exhausted

    def test_going_on_it_first_ends_what_only_lacked_the_word(self):
        """Killed between the last epoch of a search, or the scheduler's decision, and the end."""
        search = self.search()
        for epoch in range(1, 5):
            search.derive(made_up(0, epoch, 0.6))
        assert not search.derive(made_up(1, 1, 0.5))
        session = SimpleNamespace(search=search, history=search.history, say=lambda *_, **__: None)
        assert Searches(session, search.searcher).left == []
        ended = search.history.searches_ended
        assert {n: e.status for n, e in ended.items()} == {0: Status.COMPLETED, 1: Status.STOPPED}

    def test_of_equals_the_first_counts(self):
        first, second = made_up(0, 1, 0.5), made_up(1, 1, 0.5)
        assert best_of_each_size(NB201, [first, second]) == [first]

    @pytest.mark.parametrize("epochs", range(5))
    @pytest.mark.parametrize("suggested", [False, True])
    def test_a_replay_restores_it(self, tmp_path, epochs, suggested):
        """Killed after any epoch, also before what it derived is an evaluation."""
        events = [
            made_up(0, 1, 0.6), made_up(1, 1, 0.5, self.CHOICES[1]),
            made_up(0, 2, 0.4, self.CHOICES[2]), made_up(0, 3, 0.4, self.CHOICES[3]),
        ]  # fmt: skip
        with Journal(tmp_path) as journal:
            killed = self.search(journal)
            for event in events[:epochs]:
                killed.derive(event)
        if epochs and not suggested:
            path = RunFolder(tmp_path).events
            lines = path.read_text().splitlines(keepends=True)
            assert '"suggested"' in lines[-1]
            path.write_text("".join(lines[:-1]))
        whole = self.search()
        for event in events[:epochs]:
            whole.derive(event)
        with Journal(tmp_path) as journal:
            again = self.search(journal)
            for both in (again, whole):
                for event in events[epochs:]:
                    both.derive(event)
                both.choose([events[3].architecture, events[0].architecture])
            assert again.evaluations == whole.evaluations
            assert again.searches_stopping == whole.searches_stopping
            assert again._over_searches.rungs == whole._over_searches.rungs
            assert [again.suggest().index for _ in range(2)] == [3, 0]


class TestViews:
    """Monitor, TensorBoard and report of made-up searches."""

    COLLAPSED = made_up(0, 2, 0.8, (1,) * 6, skip_share=1.0, entropy=0.5)

    def test_the_display_shows_searches_while_they_run(self):
        search = TestSearchWithoutRay().search()
        output = io.StringIO()
        console = Console(file=output, force_terminal=True, width=160)
        with Monitor(search, console):
            search.derive(made_up(0, 1, 0.625))
            search.derive(made_up(1, 1, 0.5))
            search.commit(SearchEnded(1, Status.COMPLETED))
        shown = output.getvalue().splitlines()[-3:]
        assert "1 running, 1 ended" in shown[0]
        assert re.search(r"search 0 .*epoch 1/4, search accuracy 62.50%", shown[1])

    def test_plain_lines_count_what_is_trained(self):
        search = TestSearchWithoutRay().search()
        monitor = Monitor(search, Console(file=(output := io.StringIO()), width=160))
        for i, choices in enumerate(TestSearchWithoutRay.CHOICES):
            search.derive(made_up(0, i + 1, 0.5, choices))
        search.choose([search.evaluations[0].notation])
        search.report(0, {"val_accuracy": 0.9})
        search.finish(0, Status.COMPLETED)
        monitor(Finished(0, Status.COMPLETED))
        assert output.getvalue().startswith("1/1 evaluations  best: 90.00% val_accuracy")

    def test_a_collapse_is_said_in_tensorboard(self, tmp_path, digits):
        board = TensorBoard(tmp_path, NB201, digits)
        for event in (made_up(0, 1, 0.5), self.COLLAPSED, SearchEnded(0, Status.COMPLETED)):
            board(event)
        written = EventAccumulator(str(tmp_path / "searches" / "000")).Reload()
        (said,) = written.Tensors("collapse/text_summary")
        assert b"looks collapsed: 100% of the derived" in said.tensor_proto.string_val[0]

    def test_a_search_without_epochs_has_no_files(self, tmp_path, digits):
        TensorBoard(tmp_path, NB201, digits)(SearchEnded(0, Status.FAILED, "why"))
        assert not (tmp_path / "searches").exists()

    def section(self, folder, digits, history):
        config = resolve({**SERIAL, "search": "gradients:rule=darts|milenas", "name": "x"}).config
        return gradients.section(RunFolder(folder), config, NB201, history, digits)

    def test_a_collapse_is_said_in_the_report(self, tmp_path, digits):
        end = SearchEnded(0, Status.COMPLETED)
        history = History([made_up(0, 1, 0.5), self.COLLAPSED, end])
        history.apply(SearchEnded(1, Status.FAILED, "RuntimeError: <why>"))
        section = self.section(tmp_path, digits, history)
        assert "This search looks collapsed: 100% of the derived operations" in section
        assert "failed: RuntimeError: &lt;why&gt;" in section
        assert "darts:second_order=False" in section
        assert "milenas:lambda_=1.0, second_order=False" in section
        assert "-5.0 points" in section  # 75 % in training, 80 % in the search
        assert (tmp_path / "mixtures-000.png").exists()
        assert not (tmp_path / "mixtures-001.png").exists()

    def test_the_pareto_set(self, digits):
        search = TestSearchWithoutRay().search()
        choices = ((3,) * 6, (2,) * 6, (1, 2, 2, 2, 2, 2), (1,) * 6)
        for i, (accuracy, chosen) in enumerate(zip((0.6, 0.7, 0.8, 0.5), choices, strict=True)):
            search.derive(made_up(0, i + 1, accuracy, chosen))
        search.choose([e.notation for e in search.evaluations[:3]])
        for index, value in enumerate((0.9, 0.7, 0.8)):
            search.report(index, {"val_accuracy": value, "params": 1000.0 * index})
            search.finish(index, Status.COMPLETED)
        found = gradients.best_derived(NB201, search.history)
        assert [one.size for one in found] == [(6,), (11,), (12,), (18,)]
        assert [one.value for one in found] == [None, 0.8, 0.7, 0.9]
        assert [one.params for one in found] == [6.0, 2000.0, 1000.0, 0.0]
        pairs = [(i, j) for i, a in enumerate(found) for j, b in enumerate(found) if a.dominates(b)]
        assert pairs == [(1, 2)]  # 11 and 80 % are better than 12 and 70 %

    def test_no_section_without_searches(self, tmp_path, digits):
        assert self.section(tmp_path, digits, History()) == ""
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("slots", [1, 6, 28, 40])
    @pytest.mark.parametrize("epochs", [1, 5])
    def test_any_number_of_slots_can_be_drawn(self, slots, epochs):
        decisions = [Decision(f"slot{i}", ("conv", "skip", "none")) for i in range(slots)]
        mixture = [[0.5, 0.3, 0.2]] * slots
        events = [Searched(0, epoch + 1, "", {}, mixture) for epoch in range(epochs)]
        assert png(mixtures_figure(events, decisions)).startswith(b"\x89PNG")


@dataclass(frozen=True)
class KillsItself(MiLeNAS):
    """MiLeNAS, whose process dies in the second epoch unless it has done so before."""

    marker: str = ""

    def step(self, problem: Problem, train: Batch, validation: Batch) -> None:
        if problem.epoch == 1 and not os.path.exists(self.marker):
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().step(problem, train, validation)


@pytest.mark.slow  # two runs
@pytest.mark.timeout(600)
def test_a_killed_worker_changes_nothing(searched, tmp_path):
    rule = KillsItself(marker=str(tmp_path / "died"))
    options = {"batch_size": 32, "architecture_learning_rate": 0.05}
    search = Gradients(rule, searches=2, epochs=3, options=options)
    result = raynas.run(**{**SERIAL, "search": search}, storage_path=tmp_path, name="killed")
    assert (tmp_path / "died").exists()
    assert mixtures(result.path) == mixtures(searched.path)


COMMAND = [
    sys.executable, "-m", "raynas", "run", "--space", "nasbench201:channels=4,cells=1",
    "--data", "digits:fraction=0.3", "--search", f"milenas:searches=2,epochs=6,{LOOP}",
    "--samples", "2", "--epochs", "1", "--max-concurrent", "1",
]  # fmt: skip


@pytest.mark.slow  # four runs
@pytest.mark.timeout(900)
def test_a_killed_driver_changes_nothing(tmp_path):
    def command(name):
        return [*COMMAND, "--storage-path", tmp_path, "--name", name]

    subprocess.run(command("whole"), capture_output=True, check=True)
    folder = tmp_path / "killed"
    for epochs in (2, 8):  # in the first search, and in the second
        kill_at(folder, command("killed"), "searched", epochs)
    seen = read_events(folder)
    assert not any(e["event"] == "reported" for e in seen), "killed too late"
    last = subprocess.run(command("killed"), capture_output=True, text=True)
    assert last.returncode == 0, last.stderr[-3000:]
    assert read_events(folder)[: len(seen)] == seen
    assert mixtures(folder) == mixtures(tmp_path / "whole")
    killed, whole = raynas.load(folder), raynas.load(tmp_path / "whole")
    assert killed.best.architecture == whole.best.architecture
    assert killed.best.metrics["test_accuracy"] == whole.best.metrics["test_accuracy"]
    columns = ["architecture", "status", "search", "search_epoch", "val_accuracy"]
    assert killed.trials[columns].equals(whole.trials[columns])


def test_the_ten_lines_of_the_docs(local_ray, tmp_path, monkeypatch):
    """A network of the user's own, with fewer epochs than in the docs."""
    page = (Path(__file__).parents[1] / "docs" / "differentiable.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Mine" in b)
    for text, tiny in (("epochs=10", "epochs=2"), ("samples=4, epochs=4", "samples=1, epochs=1")):
        assert block.count(text) == 1
        block = block.replace(text, tiny)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}  # as in a script, whose classes workers get by value
    exec(block, names)
    result = names["result"]
    assert len(mixtures(result.path)) == 4
    assert all(len(mixture) == 3 for _, mixture in mixtures(result.path).values())
    assert result.best.model()(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@dataclass(frozen=True)
class Fails(MiLeNAS):
    """A rule that fails in the second epoch."""

    def step(self, problem: Problem, train: Batch, validation: Batch) -> None:
        if problem.epoch == 1:
            raise RuntimeError("made to fail")
        super().step(problem, train, validation)


@pytest.mark.slow  # a run
def test_a_search_that_fails_leaves_what_it_has_derived(local_ray, tmp_path):
    options = {"batch_size": 32}
    search = Gradients([Fails(), MiLeNAS()], searches=2, epochs=2, options=options)
    result = raynas.run(**{**SERIAL, "search": search}, storage_path=tmp_path, name="failed")
    history = History(raynas_events(result.path))
    assert {n: (len(history.searches[n]), e.status) for n, e in history.searches_ended.items()} == {
        0: (1, Status.FAILED),
        1: (2, Status.COMPLETED),
    }
    assert "failed: RuntimeError: made to fail" in (result.path / "report.html").read_text()
    assert "made to fail" in RunFolder(result.path).search_error(0).read_text()


@dataclass(frozen=True)
class FailsAtOnce(MiLeNAS):
    """A rule that never works."""

    def step(self, problem: Problem, train: Batch, validation: Batch) -> None:
        raise RuntimeError("made to fail")


def test_a_run_whose_searches_all_fail_says_why(local_ray, tmp_path):
    search = Gradients(FailsAtOnce(), searches=1, epochs=2, options={"batch_size": 32})
    with pytest.raises(raynas.SearchFailed, match=r"failed: .*made to fail.* another name"):
        raynas.run(**{**SERIAL, "search": search}, storage_path=tmp_path, name="failed")
