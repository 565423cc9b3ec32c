"""Trials of several processes: what they learn together is what one process learns."""

import itertools

import pytest
import torch
import torch.multiprocessing
from worker_processes import CASES, CPU, DATA, outcome, trial, work

from raynas import Evaluator, InvalidArgument, Train
from raynas.cluster import slots
from raynas.config.resolve import resolve
from raynas.testing import TrialSuite
from trials import workers
from trials.data import load
from trials.workers import Workers

TOLERANCE = 1e-5  # of weights and losses after two epochs in float32


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of what all workers learned."""
    folder = tmp_path_factory.mktemp("workers")
    stores = {count: workers.listen("127.0.0.1", count) for count in (2, 3)}
    ports = {count: store.port for count, store in stores.items()}
    torch.multiprocessing.spawn(work, (ports, folder), nprocs=3)
    return folder


def loaded(folder, case, rank=0):
    return torch.load(folder / f"{case}-{rank}.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_workers_learn_what_one_process_learns(trained, case):
    metrics, state = loaded(trained, case)
    expected, expected_state = outcome(trial(case))
    tolerance = 0.01 if case == "bfloat16" else TOLERANCE
    for mine, theirs in zip(metrics, expected, strict=True):
        for name in ("train_loss", "val_loss"):
            assert mine[name] == pytest.approx(theirs[name], rel=tolerance), name
    assert state.keys() == expected_state.keys()
    for name, weights in state["network"].items():
        torch.testing.assert_close(
            weights, expected_state["network"][name], rtol=tolerance, atol=tolerance, msg=name
        )
    logits = state["validation_logits"]
    assert len(logits) == len(load(DATA).validation)
    torch.testing.assert_close(
        logits, expected_state["validation_logits"], rtol=10 * tolerance, atol=10 * tolerance
    )


def test_all_workers_have_the_same_weights_and_metrics(trained):
    for case, (_, count, _) in CASES.items():
        metrics, state = loaded(trained, case)
        for rank in range(1, count):
            others, other = loaded(trained, case, rank)
            for mine, theirs in zip(metrics, others, strict=True):
                assert TrialSuite.comparable(mine) == TrialSuite.comparable(theirs)
            for name, weights in state["network"].items():
                assert torch.equal(weights, other["network"][name]), (case, rank, name)


def test_workers_go_on_from_the_state_that_the_first_saved(trained):
    metrics, state = loaded(trained, "plain")
    resumed, after = loaded(trained, "resumed")
    assert [TrialSuite.comparable(epoch) for epoch in metrics[1:]] == [
        TrialSuite.comparable(epoch) for epoch in resumed
    ]
    for name, weights in state["network"].items():
        assert torch.equal(weights, after["network"][name]), name


def test_a_worker_that_no_longer_answers_counts_as_lost(trained):
    heard = (trained / "heard.txt").read_text()
    assert heard.startswith("True "), heard
    assert not workers.is_lost_connection(RuntimeError("shapes do not fit"))


def test_shares_are_disjoint_cover_everything_and_differ_by_one_at_most():
    for length, count in [(64, 2), (64, 3), (7, 7), (10, 4)]:
        rows = [list(range(length))[Workers(rank, count).share(length)] for rank in range(count)]
        assert list(itertools.chain(*rows)) == list(range(length))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_shares_of_batches_are_what_one_process_sees():
    part = load(DATA).train
    whole = list(part.batches(50, CPU, 7, augment=True))
    shares = [
        list(part.batches(50, CPU, 7, augment=True, share=Workers(rank, 3).share))
        for rank in range(3)
    ]
    assert [len(share) for share in shares] == [len(whole)] * 3
    for number, (images, labels) in enumerate(whole):
        of_three = [share[number] for share in shares]
        assert torch.equal(torch.cat([images for images, _ in of_three]), images)
        assert torch.equal(torch.cat([labels for _, labels in of_three]), labels)


def test_an_epoch_of_seconds_has_the_steps_that_a_share_of_the_batch_leaves_time_for(monkeypatch):
    """`epoch_seconds` stays the time of an epoch: twice the images in it with two workers."""
    options = {"epoch_seconds": 0.02, "pace": "1e-11/1e-09/0"}
    alone = trial("plain", **options).steps
    monkeypatch.setattr(Workers, "present", classmethod(lambda cls: Workers(0, 2)))
    monkeypatch.setattr("trials.training.DistributedDataParallel", lambda loss, **_: loss)
    assert trial("plain", **options).steps == pytest.approx(2 * alone, abs=1)


class Knowing(Evaluator):
    """Whose trials share their work, as it says."""

    def trial(self, space, arch, data, epochs, seed, device):
        raise NotImplementedError

    def retraining(self, space, arch, data, epochs, seed, device):
        return None

    def check_workers(self, workers, data):
        """All are fine."""


class Unknowing(Knowing):
    """Whose own trials may not."""

    def trial(self, space, arch, data, epochs, seed, device):
        raise NotImplementedError

    def retraining(self, space, arch, data, epochs, seed, device):
        return None


class OwnTrials(Train):
    """A kind of training that may not know of workers, as its base does."""

    def trial(self, space, arch, data, epochs, seed, device):
        return super().trial(space, arch, data, epochs, seed, device)

    def retraining(self, space, arch, data, epochs, seed, device):
        return super().retraining(space, arch, data, epochs, seed, device)


def planned(tmp_path, **arguments):
    return resolve(
        {
            "space": "nasbench201:channels=4,cells=1", "data": DATA, "samples": 4,
            "storage_path": tmp_path, **arguments,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"evaluate": "supernet"}, "evaluate='supernet.*retrain_workers"),
        ({"evaluate": "proxy"}, "workers_per_trial=2: evaluate='proxy"),
        ({"search": "milenas"}, "workers_per_trial=2: search='gradients:rule=milenas"),
        ({"evaluate": Unknowing()}, "workers_per_trial=2: the trials of evaluate=Unknowing do not"),
        ({"evaluate": OwnTrials()}, "the trials of evaluate=OwnTrials do not share their work"),
        ({"evaluate": "train:batch_size=1"}, "2 workers are more than share the 1 images"),
        ({"workers_per_trial": 1000}, "workers_per_trial=1000: 1000 workers are more than"),
        ({"workers_per_trial": 0}, "workers_per_trial=0"),
        (
            {"workers_per_trial": 1, "retrain_workers": 3, "evaluate": OwnTrials()},
            "retrain_workers=3: the trials of evaluate=OwnTrials do not",
        ),
    ],
)  # fmt: skip
def test_what_has_no_trials_of_several_workers_is_refused(tmp_path, arguments, said):
    with pytest.raises(InvalidArgument, match=said):
        planned(tmp_path, **{"workers_per_trial": 2, **arguments})


def test_an_evaluator_says_that_its_trials_share_their_work(tmp_path):
    assert planned(tmp_path, workers_per_trial=2, evaluate=Knowing()).retrain_workers == 2
    other = planned(tmp_path, evaluate="proxy", retrain_workers=4)
    assert (other.config.workers_per_trial, other.retrain_workers) == (1, 4)


def test_workers_do_not_change_the_name_of_a_run(tmp_path):
    names = {
        planned(tmp_path, workers_per_trial=number).config.name for number in (1, 2)
    }  # fmt: skip
    assert len(names) == 1


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "workers", "expected"),
    [
        ([{"CPU": 4}], 1, 0, 2, 2),
        ([{"CPU": 2}, {"CPU": 2}], 1, 0, 4, 1),  # over both nodes
        ([{"CPU": 3}, {"CPU": 3}], 2, 0, 2, 1),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 4}], 2, None, 4, 2),
    ],
)
def test_how_many_trials_of_several_workers_a_cluster_holds(
    monkeypatch, nodes, cpus, gpus, workers, expected
):
    alive = [{"Resources": node, "Alive": True} for node in nodes]
    monkeypatch.setattr("raynas.cluster.ray.nodes", lambda: alive)
    assert slots(cpus, gpus, workers)[1] == expected


def test_workers_that_fit_nowhere_are_refused(monkeypatch):
    alive = [{"Resources": {"CPU": 3, "GPU": 2}, "Alive": True}] * 2
    monkeypatch.setattr("raynas.cluster.ray.nodes", lambda: alive)
    with pytest.raises(InvalidArgument, match=r"5 workers .*: the cluster holds 4"):
        slots(1, 1, 5)
    with pytest.raises(
        InvalidArgument, match=r"gpus_per_trial=0\.5: trials of 2 workers need whole"
    ):
        slots(1, 0.5, 2)
