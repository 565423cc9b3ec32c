"""Checkpoints are bounded: what nothing needs any more is removed, and nothing else is."""

import pytest
import torch
import yaml

import raynas
import search_spaces
from raynas import Asha, AshaStratified, Fifo, InvalidArgument, RandomSearch
from raynas.config.resolve import resolve
from raynas.record.events import Audited, Discarded, Finished, Promoted, Retried, Status
from raynas.record.folder import RunFolder
from raynas.record.journal import Journal, read_events
from raynas.search.search import Search

SPACE = search_spaces.get("nasbench201")
EPOCHS = 9


def quality(search, index):
    """A number in 0..1 that belongs to an evaluation, in no order."""
    return (search.seed_of(index) % 1009) / 1009


def searched(folder, scheduler, samples, keep, workers=4, failing=lambda index: None):
    """Drive a search to its end; return it, and the most checkpoints that there were at a time."""
    with Journal(folder) as journal:
        search = Search(
            SPACE, RandomSearch(), scheduler, samples, EPOCHS, 0, journal, keep=keep
        )  # fmt: skip
        search.begin()
        running, most = [], 0
        while True:
            while len(running) < workers and (evaluation := search.suggest()) is not None:
                assert evaluation.index not in search.history.discarded
                running.append(evaluation.index)
            if not running:
                return search, most
            index = running.pop(0)
            if (reason := failing(index)) is not None:
                search.finish(index, Status.FAILED, reason)
                continue
            goes_on = search.report(index, {"val_accuracy": quality(search, index)})
            if not goes_on:
                search.finish(index, Status.STOPPED)
            elif search.evaluations[index].epochs == EPOCHS:
                search.finish(index, Status.COMPLETED)
            else:
                running.append(index)
            most = max(most, len(search.evaluations) - len(search.history.discarded))


def kept(search):
    return {e.index for e in search.evaluations} - search.history.discarded


def best(search, count):
    ranked = sorted(search.evaluations, key=lambda e: (e.epochs, e.value), reverse=True)
    return {e.index for e in ranked[:count]}


@pytest.mark.parametrize("scheduler", [Fifo(), Asha(), Asha(audit=True)])
def test_the_best_are_kept_and_few_others(tmp_path, scheduler):
    search, most = searched(tmp_path, scheduler, 400, keep=10)
    assert best(search, 10) <= kept(search) <= best(search, 10) | set(search.history.audited)
    assert most <= 10 + 4 + 30  # what runs, and what looking was put off for


SCHEDULERS = [
    lambda: Asha(variant="promotion"),
    lambda: Asha(variant="promotion", reduction=2, audit=True),
    lambda: Asha(variant="promotion", reduction=2, chance=0.3),
    lambda: Asha(audit=True),
    lambda: AshaStratified(variant="promotion", reduction=3, audit=True, by="params", at="all"),
]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_removing_changes_no_decision(tmp_path, scheduler):
    """And whatever goes on still has its checkpoint, which `searched` sees to."""
    bounded, most = searched(tmp_path / "bounded", scheduler(), 300, keep=5)
    free, _ = searched(tmp_path / "free", scheduler(), 300, keep=None)
    events = [e for e in read_events(tmp_path / "bounded") if not isinstance(e, Discarded)]
    assert events == read_events(tmp_path / "free")
    assert any(isinstance(e, Promoted | Audited) for e in events)
    assert not free.history.discarded
    assert len(kept(bounded)) < 300 / 2
    assert most < 300


def test_a_replay_goes_on_alike_and_more_samples_promote_only_what_is_there(tmp_path):
    scheduler = Asha(variant="promotion", reduction=3)
    first, _ = searched(tmp_path, scheduler, 200, keep=3)
    gone = set(first.history.discarded)
    assert gone
    searched(tmp_path, Asha(variant="promotion", reduction=3), 500, keep=3)
    later = read_events(tmp_path)
    end = max(
        i for i, e in enumerate(later) if isinstance(e, Discarded) and gone & {*e.evaluations}
    )
    assert not gone & {e.evaluation for e in later[end:] if isinstance(e, Promoted)}
    assert any(isinstance(e, Promoted) for e in later[end:])


def test_what_the_machine_has_failed_is_kept_until_something_succeeds(tmp_path):
    """A search that came to nothing for want of memory tries all of it again."""
    search, _ = searched(
        tmp_path, Fifo(), 60, keep=0,
        failing=lambda i: f"out of memory: {'a' * (1 + i % 3)}" if i < 40 else None,
    )  # fmt: skip
    events = read_events(tmp_path)
    success = next(
        i for i, e in enumerate(events) if isinstance(e, Finished) and e.status == "completed"
    )
    assert not any(isinstance(e, Discarded) for e in events[:success])
    assert kept(search) == set()


def test_a_scheduler_that_does_not_say_what_it_needs_keeps_all_it_has_stopped(tmp_path):
    class Own(Asha):
        def may_go_on(self, samples):
            return raynas.Scheduler.may_go_on(self, samples)

    search, _ = searched(tmp_path, Own(variant="promotion"), 100, keep=0)
    stopped = {e.index for e in search.evaluations if e.status is Status.STOPPED}
    assert kept(search) == stopped


class Weightless(raynas.Trial):
    """Learns nothing, and has weights that belong to its seed."""

    def __init__(self, network, images, epochs, seed):
        self.network, self.epochs, self.seed = network, epochs, seed
        self.logits = torch.randn(images, 10)  # a member that predicts one class is none

    def step(self):
        self.epoch += 1
        return {"val_accuracy": self.seed % 1009 / 1009}

    def state_dict(self):
        return {
            "network": self.network.state_dict(), "validation_logits": self.logits,
            "epoch": self.epoch,
        }  # fmt: skip

    def load_state_dict(self, state):
        self.epoch = state["epoch"]


class WeightlessEvaluator(raynas.Evaluator):
    def trial(self, space, arch, data, epochs, seed, device):
        torch.manual_seed(seed)
        network = space.build(arch, data.input_shape, data.num_classes)
        return Weightless(network, len(data.validation), epochs, seed)

    def retraining(self, space, arch, data, epochs, seed, device):
        return None


RUN = {
    "space": "nasbench201:channels=2,cells=1", "data": "digits:fraction=0.3", "search": "random",
    "scheduler": "fifo", "epochs": 1, "evaluate": WeightlessEvaluator(), "name": "run",
}  # fmt: skip


def files(result):
    return {int(path.stem) for path in result.folder.checkpoints.glob("?????.pt")}


def test_a_run_removes_files_after_the_journal_has_it(local_ray, tmp_path):
    result = raynas.run(**RUN, samples=24, keep_checkpoints=3, storage_path=tmp_path)
    history = result.history
    assert files(result) == {e.index for e in history.ranked()[:3]}
    assert history.discarded == set(range(24)) - files(result)
    assert result.config["keep_checkpoints"] == "3"
    one = min(history.discarded)
    with pytest.raises(raynas.StorageError, match="not among the best: see keep_checkpoints"):
        result.snapshot(one, 1)
    # A kill between the event and the removal leaves the file; the next driver removes it.
    result.folder.checkpoint(one).write_bytes(b"left")
    more = raynas.run(**RUN, samples=25, ensemble="saep", storage_path=tmp_path)
    assert more.config["keep_checkpoints"] == "3"  # as the folder has it
    assert files(more) == {e.index for e in more.history.ranked()[:3]}
    assert set(more.history.ensemble.evaluations) == files(more)
    assert more.finished


def test_older_run_folders_keep_all(tmp_path):
    arguments = {**RUN, "evaluate": "train", "storage_path": tmp_path}
    assert resolve(arguments).config.kept == 50
    folder = RunFolder(tmp_path / "run")
    folder.journal.mkdir(parents=True)
    content = resolve(arguments).config.model_dump()
    del content["keep_checkpoints"]
    folder.configuration.write_text(yaml.safe_dump({**content, "snapshots": []}))
    assert resolve(arguments).config.kept is None
    assert resolve({**arguments, "keep_checkpoints": 7}).config.kept == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"keep_checkpoints": -1}, "keep_checkpoints=-1: .*whole number"),
        ({"keep_checkpoints": "some"}, "'all'"),
        ({"keep_checkpoints": True}, "keep_checkpoints=True"),
        ({"keep_checkpoints": 1, "ensemble": "saep"}, "an ensemble of 2 members"),
        ({"keep_checkpoints": 4, "ensemble": "saep:size=5"}, "an ensemble of 5 members"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path, arguments, said):
    with pytest.raises(InvalidArgument, match=said):
        resolve({**RUN, "evaluate": "train", "storage_path": tmp_path, **arguments})


def test_a_large_ensemble_finds_its_members(tmp_path):
    asked = {"ensemble": "saep:size=60", "samples": 100, "evaluate": "train"}
    assert resolve({**RUN, **asked, "storage_path": tmp_path}).config.kept == 60


def test_default_names_do_not_depend_on_it():
    unnamed = {k: v for k, v in RUN.items() if k != "name"} | {"evaluate": "train"}
    names = {resolve({**unnamed, "keep_checkpoints": k}).config.name for k in (None, 3, "all")}
    assert len(names) == 1


@pytest.mark.parametrize("scheduler", [Fifo, Asha])
def test_what_ran_when_the_search_was_over_goes_on_with_its_weights(tmp_path, scheduler):
    """GPU hours or a target end a search, and the same call with more goes on."""
    why = []
    with Journal(tmp_path) as journal:
        search = Search(SPACE, RandomSearch(), scheduler(), 8, EPOCHS, 0, journal, keep=0)
        search.over = lambda: why[0] if why else None
        search.begin()
        cut = [search.suggest().index for _ in range(3)]
        search.finish(search.suggest().index, Status.STOPPED)
        for index in cut:
            search.report(index, {"val_accuracy": 0.5})
        why.append("enough")
        search.cut_short()
        assert search.history.discarded == {3}


def test_what_goes_on_although_its_weights_were_removed_keeps_the_new_ones(tmp_path):
    """The next driver removes what a kill has left of those discarded, and no others."""
    with Journal(tmp_path) as journal:
        search = Search(SPACE, RandomSearch(), Fifo(), 8, EPOCHS, 0, journal, keep=0)
        search.begin()
        index = search.suggest().index
        search.finish(index, Status.STOPPED)
        search.commit(Discarded([index]))
        search.commit(Retried(index))
    with Journal(tmp_path) as journal:
        again = Search(SPACE, RandomSearch(), Fifo(), 8, EPOCHS, 0, journal, keep=0)
        assert [e.index for e in again.history.running] == [index]
        assert not again.history.discarded
