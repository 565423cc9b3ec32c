"""The ensemble of a run: what the stage leaves behind, whom it excludes, and when it runs anew."""

import itertools
import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

import raynas
from raynas import SAEP, InvalidArgument, StorageError
from raynas.cli import app
from raynas.ensemble.combination import fit
from raynas.ensemble.information import disagreement_matrix
from raynas.ensemble.rules import RULES
from raynas.record.folder import RunFolder
from raynas.record.history import History
from raynas.record.journal import read_events
from raynas.reports.ensemble import section, warning
from trials.data import load
from trials.trial import Role, derived_seed

ARGUMENTS = {
    **SMALL, "data": "digits", "search": "random", "scheduler": "fifo", "samples": 6, "epochs": 3
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(local_ray, tmp_path_factory):
    """A finished run without an ensemble; not to be changed."""
    return raynas.run(**ARGUMENTS, storage_path=tmp_path_factory.mktemp("trained"), name="run")


@pytest.fixture(scope="module")
def ensembled(trained, tmp_path_factory):
    """The same with an ensemble; not to be changed."""
    folder = tmp_path_factory.mktemp("ensembled") / "run"
    shutil.copytree(trained.path, folder)
    return raynas.resume(folder, ensemble=SAEP(rule="pie", size=3))


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run, to be changed."""
    shutil.copytree(trained.path, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def digits():
    return load(ARGUMENTS["data"])


def changed(run, evaluation, change):
    """Change the checkpoint of an evaluation."""
    path = RunFolder(run).checkpoint(evaluation)
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


class TestResult:
    def test_members(self, ensembled):
        members = ensembled.ensemble.members
        trials = ensembled.trials.set_index("evaluation")
        assert len(members) == ensembled.ensemble.metrics["members"] == 3
        assert members["weight"].sum() == pytest.approx(1)
        for member in members.itertuples():
            row = trials.loc[member.evaluation]
            assert member.architecture == row["architecture"]
            assert member.val_accuracy == pytest.approx(row["val_accuracy"])
            assert (member.params, member.macs) == (row["params"], row["macs"])
        assert ensembled.ensemble.metrics["params"] == members["params"].sum()

    def test_is_decided_on_the_validation_part(self, ensembled, digits):
        """By the stored logits alone, the same members follow."""
        stored = [
            torch.load(RunFolder(ensembled.path).checkpoint(i), weights_only=True)["trial"]
            for i in range(6)
        ]
        logits = np.stack([trial["validation_logits"].numpy() for trial in stored])
        seed = derived_seed(0, Role.PRUNING, zlib.crc32(b"pie"))
        kept = SAEP(rule="pie", size=3).prune(logits, digits.validation.labels, seed)
        assert kept == sorted(ensembled.ensemble.members["evaluation"])
        together = fit("average", logits[kept], digits.validation.labels)
        measured = together.measure(logits[kept], digits.validation.labels)
        assert ensembled.ensemble.metrics["val_loss"] == pytest.approx(measured["loss"])
        assert ensembled.ensemble.summary["temperature"] == pytest.approx(together.temperature)

    def test_contribution(self, ensembled, digits):
        members = ensembled.ensemble.members
        logits = np.stack(
            [
                torch.load(RunFolder(ensembled.path).checkpoint(i), weights_only=True)["trial"][
                    "validation_logits"
                ].numpy()
                for i in members["evaluation"]
            ]
        )
        labels = digits.validation.labels

        def accuracy(some):
            return fit("average", some, labels).measure(some, labels)["accuracy"]

        for place, contribution in enumerate(members["contribution"]):
            left = accuracy(np.delete(logits, place, axis=0))
            assert contribution == pytest.approx(accuracy(logits) - left)

    def test_curves_of_every_rule(self, ensembled):
        curves = ensembled.ensemble.curves
        unpruned = ensembled.ensemble.summary["unpruned"]
        assert set(curves["rule"]) == set(RULES)
        for _, points in curves.groupby("rule"):
            assert sorted(points["members"]) == [1, 2, 3, 4, 5, 6]
            whole = points[points["members"] == 6].iloc[0]
            for name in ("val_accuracy", "val_loss", "test_accuracy", "test_ece", "macs"):
                assert whole[name] == pytest.approx(unpruned[name])
            for cost in ("params", "macs", "latency_ms"):
                assert points.sort_values("members")[cost].is_monotonic_increasing
        own = curves[(curves["rule"] == "pie") & (curves["members"] == 3)].iloc[0]
        assert own["test_accuracy"] == ensembled.ensemble.metrics["test_accuracy"]

    def test_diversity(self, ensembled):
        diversity = ensembled.ensemble.diversity
        assert len(diversity) == 15
        predicted = np.stack(
            [
                torch.load(RunFolder(ensembled.path).checkpoint(i), weights_only=True)["trial"][
                    "validation_logits"
                ].argmax(1)
                for i in range(6)
            ]
        )
        matrix = disagreement_matrix(predicted)
        for pair in diversity.itertuples():
            assert pair.disagreement == matrix[pair.first, pair.second]
            assert 0 <= pair.vi <= 1

    def test_exported_model_is_the_ensemble(self, ensembled, digits):
        images, labels = next(digits.test.raw(len(digits.test)))
        said = ensembled.ensemble.model()(images)
        assert torch.allclose(said.exp().sum(1), torch.ones(len(images)), atol=1e-4)
        accuracy = (said.argmax(1) == labels).double().mean()
        assert float(accuracy) == pytest.approx(ensembled.ensemble.metrics["test_accuracy"])
        loss = torch.nn.functional.nll_loss(said.detach(), labels)
        assert float(loss) == pytest.approx(ensembled.ensemble.metrics["test_loss"], abs=1e-4)

    def test_pruned_members_are_gone(self, ensembled):
        """The program holds the weights of the members, and of nobody else."""
        program = torch.export.load(ensembled.ensemble.folder / "model.pt2")
        weights = sum(p.numel() for p in program.parameters())
        assert weights == ensembled.ensemble.metrics["params"]
        assert weights < ensembled.ensemble.summary["unpruned"]["params"]

    def test_report_and_tensorboard(self, ensembled):
        report = (ensembled.path / "report.html").read_text()
        assert "The ensemble" in report
        for architecture in ensembled.ensemble.members["architecture"]:
            assert architecture in report
        for rule in RULES:
            events = EventAccumulator(str(ensembled.path / "tensorboard" / "ensemble" / rule))
            events.Reload()
            points = events.Scalars("test/accuracy")
            assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]

    def test_run_without_one(self, trained):
        with pytest.raises(StorageError, match="holds no ensemble"):
            _ = trained.ensemble
        assert "The ensemble" not in (trained.path / "report.html").read_text()


class TestStage:
    def test_in_the_run_itself(self, local_ray, tmp_path):
        result = raynas.run(
            **{**ARGUMENTS, "samples": 3}, ensemble="saep:rule=pap,size=2",
            storage_path=tmp_path, name="run",
        )  # fmt: skip
        assert result.finished
        assert result.ensemble.metrics["members"] == 2
        assert result.ensemble.summary["rule"] == "pap"
        assert raynas.load(result.path).config["ensemble"].startswith("saep:rule=pap,size=2")

    @pytest.mark.slow
    def test_again_only_when_something_else_is_asked_for(self, ensembled, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(ensembled.path, folder)
        made = folder / "ensemble" / "ensemble.json"
        before = made.stat().st_mtime_ns
        raynas.resume(folder)
        assert made.stat().st_mtime_ns == before
        other = raynas.resume(folder, ensemble="saep:rule=greedy,size=2,combine=mixture")
        assert other.finished
        assert other.ensemble.metrics["members"] == 2
        assert other.ensemble.summary["combination"] == "mixture"
        more = raynas.resume(folder, samples=7)
        assert len(more.trials) == 7
        assert more.ensemble.summary["evaluations"] == list(range(7))

    @pytest.mark.slow
    def test_is_kept_in_mind_when_the_run_is_extended_without_naming_it(self, ensembled, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(ensembled.path, folder)
        more = raynas.run(**{**ARGUMENTS, "samples": 7}, storage_path=tmp_path, name="run")
        assert more.ensemble.summary["evaluations"] == list(range(7))
        assert more.config["ensemble"] == ensembled.config["ensemble"]

    def test_killed_before_it_was_recorded(self, ensembled, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(ensembled.path, folder)
        made = (folder / "ensemble" / "ensemble.json").stat().st_mtime_ns
        journal = folder / "journal" / "events.jsonl"
        lines = journal.read_text().splitlines(keepends=True)
        (place,) = [i for i, line in enumerate(lines) if json.loads(line)["event"] == "ensemble"]
        journal.write_text("".join(lines[:place]))
        shutil.rmtree(folder / "tensorboard")
        raynas.resume(folder)
        assert (folder / "ensemble" / "ensemble.json").stat().st_mtime_ns == made
        assert (folder / "tensorboard" / "ensemble" / "pie").is_dir()

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["ensemble.json", "model.pt2", "members.parquet"])
    def test_is_made_anew_when_it_is_not_whole(self, ensembled, tmp_path, name):
        folder = tmp_path / "run"
        shutil.copytree(ensembled.path, folder)
        if name == "ensemble.json":
            (folder / "ensemble" / name).write_text("{")
        else:
            (folder / "ensemble" / name).unlink()
        again = raynas.resume(folder).ensemble
        assert again.model()(torch.rand(1, 1, 8, 8)).shape == (1, 10)
        members = again.members["evaluation"].tolist()
        assert members == ensembled.ensemble.members["evaluation"].tolist()

    def test_never_prunes_to_one(self, copied):
        ensemble = raynas.resume(copied, ensemble=SAEP(rule="pap", tolerance=1.0)).ensemble
        assert ensemble.metrics["members"] == 2

    def test_by_tolerance(self, copied):
        ensemble = raynas.resume(copied, ensemble=SAEP(rule="pap", tolerance=0.01)).ensemble
        least = ensemble.summary["unpruned"]["val_accuracy"] - 0.01
        assert ensemble.metrics["val_accuracy"] >= least
        curve = ensemble.curves.query("rule == 'pap'").set_index("members")["val_accuracy"]
        sizes = sorted((size for size in curve.index if size >= 2), reverse=True)
        kept = itertools.takewhile(lambda size: curve[size] >= least - 1e-9, sizes)
        assert ensemble.metrics["members"] == min(kept)

    @pytest.mark.slow
    def test_early_stopped_members_only_on_demand(self, copied):
        """As if the scheduler had stopped them: how many it stops is chance."""

        def stopped(*evaluations):
            journal = copied / "journal" / "events.jsonl"
            events = [json.loads(line) for line in journal.read_text().splitlines()]
            for event in events:
                if event["event"] == "finished":
                    early = event["evaluation"] in evaluations
                    event["status"] = "stopped" if early else "completed"
            journal.write_text("".join(json.dumps(event) + "\n" for event in events))

        stopped(0, 1, 2, 4, 5)
        with pytest.raises(InvalidArgument, match="5 evaluations that were stopped early are"):
            raynas.resume(copied, ensemble=SAEP())
        stopped(1, 4)
        completed = raynas.resume(copied, ensemble=SAEP()).ensemble
        assert completed.summary["evaluations"] == [0, 2, 3, 5]
        everyone = raynas.resume(copied, ensemble=SAEP(stopped=True)).ensemble
        assert everyone.summary["evaluations"] == list(range(6))

    @pytest.mark.slow
    def test_space_of_the_users_own(self, local_ray, tmp_path):
        from search_spaces import UserSpace

        def build(config, input_shape, num_classes):
            return torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.Linear(input_shape[1] ** 2, config["width"]),
                torch.nn.ReLU(), torch.nn.Linear(config["width"], num_classes),
            )  # fmt: skip

        space = UserSpace("mine", {"width": (16, 24, 32)}, build)
        arguments = {**ARGUMENTS, "space": space, "samples": 3, "storage_path": tmp_path}
        result = raynas.run(**arguments, name="run")
        with pytest.raises(InvalidArgument, match="call run"):
            raynas.resume(result.path, ensemble=SAEP(size=2))
        again = raynas.resume(result.path, space=space, ensemble=SAEP(size=2))
        assert again.ensemble.metrics["members"] == 2
        assert again.ensemble.model()(torch.rand(5, 1, 8, 8)).shape == (5, 10)


class TestExclusions:
    def test_every_reason_is_recorded(self, copied):
        RunFolder(copied).checkpoint(0).unlink()
        changed(copied, 1, lambda s: s["trial"]["validation_logits"][3].fill_(torch.nan))
        changed(copied, 2, lambda s: s["trial"]["validation_logits"][:, 4].fill_(1e3))
        changed(copied, 3, lambda s: s.update(data="0123456789abcdef"))
        ensemble = raynas.resume(copied, ensemble="saep").ensemble
        assert set(ensemble.excluded) == {0, 1, 2, 3}
        for evaluation, reason in {
            0: "weights are missing",
            1: "not finite",
            2: "class 4 for every image",
            3: "other data",
        }.items():
            assert reason in ensemble.excluded[evaluation]
            assert f"#{evaluation}" in (copied / "report.html").read_text()
        assert sorted(ensemble.members["evaluation"]) == [4, 5]

    def test_damaged_and_foreign_checkpoints(self, copied):
        RunFolder(copied).checkpoint(0).write_bytes(b"nothing")
        changed(copied, 1, lambda s: s["trial"].pop("network"))
        changed(copied, 2, lambda s: s["trial"]["network"].popitem())
        changed(
            copied, 3,
            lambda s: s["trial"].update(validation_logits=s["trial"]["validation_logits"][:, :7]),
        )  # fmt: skip
        ensemble = raynas.resume(copied, ensemble="saep").ensemble
        assert set(ensemble.excluded) == {0, 1, 2, 3}
        assert "stores no weights" in ensemble.excluded[1]
        assert "not (" in ensemble.excluded[3]

    def test_too_few_are_left(self, copied):
        for evaluation in range(5):
            RunFolder(copied).checkpoint(evaluation).unlink()
        with pytest.raises(InvalidArgument, match=r"1 of 6 .* #0 its weights are missing"):
            raynas.resume(copied, ensemble="saep")
        result = raynas.resume(copied)  # as it was, without an ensemble
        assert result.finished
        assert result.config["ensemble"] is None
        assert result.best.model() is not None

    @pytest.mark.slow
    def test_one_that_cannot_be_made_leaves_the_one_that_there_is(self, ensembled, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(ensembled.path, folder)
        for evaluation in range(5):
            RunFolder(folder).checkpoint(evaluation).unlink()
        with pytest.raises(InvalidArgument, match="1 of 6"):
            raynas.resume(folder, ensemble="saep:rule=pap")
        result = raynas.resume(folder)
        assert result.config["ensemble"] == ensembled.config["ensemble"]
        assert result.ensemble.summary == ensembled.ensemble.summary

    def test_none_makes_a_run_forget_its_ensemble(self, ensembled, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(ensembled.path, folder)
        shutil.rmtree(folder / "ensemble")
        for _ in range(2):
            result = raynas.resume(folder, ensemble="none")
            assert result.finished
            assert result.config["ensemble"] is None
        assert not (folder / "ensemble").exists()

    def test_logits_that_were_not_stored_are_computed(self, copied, ensembled):
        for evaluation in range(6):
            changed(copied, evaluation, lambda s: s["trial"].pop("validation_logits"))
        ensemble = raynas.resume(copied, ensemble=SAEP(rule="pie", size=3)).ensemble
        assert ensemble.members["evaluation"].tolist() == (
            ensembled.ensemble.members["evaluation"].tolist()
        )
        assert ensemble.metrics["val_loss"] == pytest.approx(ensembled.ensemble.metrics["val_loss"])


class TestCommand:
    def test_prunes_a_finished_run(self, copied):
        ran = CliRunner().invoke(
            app, ["ensemble", str(copied), "--rule", "pap", "--size", "2", "--json"]
        )
        assert ran.exit_code == 0, ran.output
        said = json.loads(ran.stdout)
        assert said["rule"] == "pap"
        assert [member["evaluation"] for member in said["members"]] == (
            raynas.load(copied).ensemble.members["evaluation"].tolist()
        )
        shown = CliRunner().invoke(app, ["ensemble", str(copied), "--rule", "pap", "--size", "2"])
        assert "model.pt2" in shown.output

    def test_refuses_an_unfinished_run(self, copied):
        events = copied / "journal" / "events.jsonl"
        events.write_text("".join(events.read_text().splitlines(keepends=True)[:-1]))
        ran = CliRunner().invoke(app, ["ensemble", str(copied)])
        assert isinstance(ran.exception, InvalidArgument)
        assert "not finished" in str(ran.exception)


class TestComparison:
    """The best single network stands beside every ensemble."""

    def test_the_default_rule_is_the_first_of_the_documented_table(self):
        """By the first column, the test accuracy on CIFAR-10, of the rules that there are."""
        table = (Path(__file__).parents[1] / "docs" / "ensembles.md").read_text()
        rows = re.findall(r"^\| `(\w+)`[^|]*\| ([+-]\S+) ±", table, re.M)
        gains = {rule: float(first) for rule, first in rows if rule in RULES}
        assert set(gains) == set(RULES)
        assert SAEP().rule == max(gains, key=gains.get) == "greedy"

    def test_a_run_folder_names_its_rule(self, ensembled):
        assert raynas.load(ensembled.path).config["ensemble"].startswith("saep:rule=pie,")
        again = raynas.resume(ensembled.path)
        assert again.ensemble.summary["rule"] == "pie"

    def test_summary(self, ensembled):
        summary, best = ensembled.ensemble.summary, ensembled.best
        curves = ensembled.ensemble.curves
        alone = curves[(curves["rule"] == "greedy") & (curves["members"] == 1)].iloc[0]
        assert summary["alone"] == pytest.approx(alone.drop("rule").to_dict())
        delivered = summary["delivered"]
        trials = ensembled.trials.set_index("evaluation")
        assert trials["architecture"][delivered["evaluation"]] == best.architecture
        assert delivered["test_accuracy"] == best.metrics["test_accuracy"]
        assert delivered["val_accuracy"] == trials["val_accuracy"][delivered["evaluation"]]
        assert summary["warning"] == warning(summary["metrics"], delivered)

    def test_warning(self):
        delivered = {"val_accuracy": 0.9, "test_accuracy": 0.908}
        for ours, words in (
            ({"val_accuracy": 0.9, "test_accuracy": 0.95}, "NO BETTER.*90.00% against 90.00%"),
            ({"val_accuracy": 0.95, "test_accuracy": 0.852}, "BETTER than.*90.80% against 85.20%"),
        ):
            assert re.search(words, warning(ours, delivered))
        assert warning({"val_accuracy": 0.95, "test_accuracy": 0.953}, delivered) is None

    def test_report_and_program_show_it(self, ensembled, tmp_path):
        shutil.copytree(ensembled.path, tmp_path / "run")
        path = tmp_path / "run" / "ensemble" / "ensemble.json"
        summary = json.loads(path.read_text()) | {"warning": "It is NO BETTER."}
        path.write_text(json.dumps(summary))
        history = History(read_events(tmp_path / "run"))
        text = section(tmp_path / "run", history, 100)
        for part in ("best candidate alone", "delivered network (#", "It is NO BETTER."):
            assert part in text
        arguments = ["--rule", "pie", "--size", "3"]
        shown = CliRunner().invoke(app, ["ensemble", str(tmp_path / "run"), *arguments])
        assert shown.exit_code == 0, shown.output
        assert "best candidate alone" in shown.stdout
        assert "It is NO BETTER." in shown.stderr
