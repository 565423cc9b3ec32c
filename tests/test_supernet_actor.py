"""The supernet's actor: merged requests, deadlines, replicas, and what a kill leaves behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from journal_lines import read_events

import raynas
import search_spaces
from raynas.config.continuation import check_named
from raynas.config.resolve import resolve
from raynas.errors import DeadlineExceeded, InvalidArchitecture, InvalidArgument, SearchFailed
from raynas.record.folder import RunFolder
from raynas.supernet.client import shared_supernet
from trials.data import load
from trials.weight_sharing.evaluator import WeightSharing
from trials.weight_sharing.shared_weights import SharedWeights

SPACE = search_spaces.get("nasbench201:channels=2,cells=1")
RECIPE = WeightSharing(epochs=2, batch_size=32, probes=4, ranked_batches=2)
ARCHS = [SPACE.sample(np.random.default_rng(i)) for i in range(64)]


@pytest.fixture(scope="module")
def data():
    return load("digits:fraction=0.3")


@pytest.fixture(scope="module")
def expected(data):
    """What a supernet says that is trained in this process, without any actor."""
    torch.set_num_threads(1)
    weights = SharedWeights(RECIPE, SPACE, data, seed=0)
    weights.train()
    return weights.evaluate(ARCHS)


def trained(supernet, recipe=RECIPE):
    for group in range(supernet.groups):
        for epoch in range(recipe.epochs):
            supernet.train_epoch(group, epoch)
    return supernet


def together(questions):
    """The answers to questions asked by a thread each, at the same time."""
    answers = [None] * len(questions)
    threads = [
        threading.Thread(target=lambda i=i, q=q: answers.__setitem__(i, q()))
        for i, q in enumerate(questions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def close(answers, expected):
    for answer, right in zip(answers, expected, strict=True):
        assert answer["val_accuracy"] == pytest.approx(right["val_accuracy"], abs=1e-6)
        assert answer["val_loss"] == pytest.approx(right["val_loss"], rel=1e-4)


@pytest.fixture(scope="module")
def served(local_ray, data, tmp_path_factory):
    """A trained supernet that tests may ask and must not kill."""
    folder = tmp_path_factory.mktemp("served")
    with shared_supernet(RECIPE, SPACE, ray.put(data), 0, RunFolder(folder), cpus=0.5) as supernet:
        yield trained(supernet), folder


def test_its_answers_are_those_of_a_supernet_trained_in_one_process(served, expected):
    supernet, folder = served
    close(supernet.evaluate(ARCHS), expected)
    assert RunFolder(folder).weights(0).exists()
    assert RunFolder(folder).rankings.exists()


def test_questions_of_many_callers_are_answered_together_and_each_gets_its_own(served, expected):
    supernet, _ = served
    answers = together([lambda arch=arch: supernet.evaluate([arch]) for arch in ARCHS])
    close([answer for (answer,) in answers], expected)


def test_other_processes_can_ask(served, expected):
    supernet, _ = served

    @ray.remote(num_cpus=0.1)
    def ask(asked, archs):
        return asked.evaluate(archs)

    close(ray.get(ask.remote(supernet, ARCHS[:3])), expected[:3])


def test_bad_questions_are_refused_and_harm_nobody(served, expected):
    supernet, _ = served
    other = next(iter(search_spaces.get("micro64")))
    with pytest.raises(InvalidArchitecture, match="micro64"):
        supernet.evaluate([ARCHS[0], other])
    with pytest.raises(InvalidArgument, match="none are given"):
        supernet.evaluate([])
    close(supernet.evaluate(ARCHS[:2]), expected[:2])


def test_a_deadline_is_kept_and_harms_nobody(served, expected):
    supernet, _ = served
    questions = [lambda: supernet.evaluate(ARCHS)] + [lambda: asked_late(supernet)] * 3
    whole, *late = together(questions)
    close(whole, expected)
    assert late == [True] * 3


def asked_late(supernet):
    try:
        supernet.evaluate(ARCHS[:1], deadline=0)
    except DeadlineExceeded:
        return True
    return False


def test_an_epoch_is_trained_once(served):
    supernet, _ = served
    start = time.monotonic()
    assert supernet.train_epoch(0, 1) == supernet.train_epoch(0, 1)
    assert time.monotonic() - start < 5


def test_requests_wait_for_the_training(local_ray, data, tmp_path, expected):
    with shared_supernet(
        RECIPE, SPACE, ray.put(data), 0, RunFolder(tmp_path), cpus=0.5
    ) as supernet:
        with pytest.raises(DeadlineExceeded):
            supernet.evaluate(ARCHS[:1], deadline=0.2)
        answer, _ = together([lambda: supernet.evaluate(ARCHS[:1]), lambda: trained(supernet)])
        close(answer, expected[:1])


def killed(supernet, which=0):
    pid = ray.get(supernet.actor.pids.remote())[which]
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.slow  # three restarts
def test_killed_in_training_and_in_a_request_nothing_is_lost(local_ray, data, tmp_path, expected):
    recipe = replace(RECIPE, replicas=1)
    with shared_supernet(
        recipe, SPACE, ray.put(data), 0, RunFolder(tmp_path), cpus=0.5
    ) as supernet:
        supernet.train_epoch(0, 0)
        _, pid = together([lambda: trained(supernet), lambda: killed(supernet)])
        assert ray.get(supernet.actor.pids.remote())[0] != pid
        for which in (0, 1):  # the actor itself, then its replica
            pid = ray.get(supernet.actor.pids.remote())[which]
            start = time.monotonic()
            many = [lambda arch=arch: supernet.evaluate([arch] * 2) for arch in ARCHS]
            *answers, _ = together([*many, lambda pid=pid: os.kill(pid, signal.SIGKILL)])
            close([answer[0] for answer in answers], expected)
            name = ("actor", "replica")[which]
            assert pid != ray.get(supernet.actor.pids.remote())[which]
            print(f"{name} killed: all answers after {time.monotonic() - start:.1f} s")  # noqa: T201


def test_a_replica_that_does_not_see_the_weights_is_left_out(local_ray, data, tmp_path, expected):
    recipe = replace(RECIPE, replicas=1)
    with shared_supernet(
        recipe, SPACE, ray.put(data), 0, RunFolder(tmp_path), cpus=0.5
    ) as supernet:
        trained(supernet)
        RunFolder(tmp_path).weights(0).unlink()  # before the replica has looked
        answers = together([lambda arch=arch: supernet.evaluate([arch]) for arch in ARCHS])
        close([answer for (answer,) in answers], expected)


def test_a_run_searches_with_the_supernet(local_ray, tmp_path):
    arguments = {
        "space": "nasbench201:channels=2,cells=1",
        "data": "digits:fraction=0.3",
        "search": raynas.NeighborhoodAware(raynas.RandomSearch()),
        "evaluate": "supernet:epochs=2,groups=2,replicas=1,probes=8",
        "epochs": 1,
        "storage_path": tmp_path,
        "name": "run",
        "cpus_per_trial": 0.5,
    }
    result = raynas.run(**arguments, samples=12)
    assert (result.trials["status"] == "completed").all()
    assert len(result.trials) == 12
    assert "test_accuracy" in result.best.metrics
    assert "ranking" in (result.path / "report.html").read_text()
    assert len(list((result.path / "tensorboard" / "supernet").iterdir())) == 2
    again = raynas.run(**arguments, samples=16)  # with the same supernet
    assert len(again.trials) == 16
    events = [e for e in read_events(result.path) if e["event"] == "supernet"]
    assert [(e["group"], e["epoch"]) for e in events] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    found = raynas.rank_stability(result)
    assert found.architectures == 8
    assert "truth is not known" in found.verdict


def test_a_supernet_that_diverges_ends_the_search_with_the_remedy(local_ray, tmp_path):
    with pytest.raises(SearchFailed, match=r"loss is (nan|inf).*smaller learning_rate"):
        raynas.run(
            space="nasbench201:channels=2,cells=1", data="digits:fraction=0.3", samples=4,
            evaluate="supernet:epochs=2,learning_rate=1e30,gradient_clip=0",
            cpus_per_trial=0.5, storage_path=tmp_path,
        )  # fmt: skip


def test_a_users_grouping_is_written_alike_in_every_process():
    plan = resolve({"evaluate": WeightSharing(grouping=by_first_edge), "space": "micro64"})
    assert "grouping=function-by_first_edge-" in plan.config.evaluate
    one, other = (
        resolve({"evaluate": WeightSharing(grouping=key), "space": "micro64"}).config.evaluate
        for key in (lambda arch: arch.choices[0], lambda arch: arch.choices[1])
    )
    assert one != other
    key_of = [lambda arch, k=k: arch.choices[k] for k in (0, 1)]
    texts = [
        resolve({"evaluate": WeightSharing(grouping=key), "space": "micro64"}).config.evaluate
        for key in key_of
    ]
    assert texts[0] != texts[1]
    with pytest.raises(InvalidArgument, match="evaluate was an object"):
        check_named({"evaluate": one})


def by_first_edge(arch):
    return arch.choices[0]


@pytest.mark.slow  # two whole runs
def test_a_driver_that_is_killed_goes_on_with_the_same_supernet(tmp_path):
    command = [
        sys.executable, "-m", "raynas", "run", "--space", "nasbench201:channels=2,cells=1",
        "--data", "digits", "--search", "random", "--samples", "8", "--epochs", "1",
        "--evaluate", "supernet:epochs=6,batch_size=4,probes=4", "--storage-path", tmp_path,
    ]  # fmt: skip
    runs = []
    for name, kill in (("killed", True), ("whole", False)):
        driver = subprocess.Popen(
            [*command, "--name", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        checkpoint = tmp_path / name / "supernet" / "000.pt"
        while kill and not checkpoint.exists():
            time.sleep(0.05)
        if kill:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            subprocess.run([*command, "--name", name], check=True, capture_output=True)
        assert kill or driver.wait() == 0
        runs.append(raynas.load(tmp_path / name))
    killed, whole = (run.trials.set_index("architecture")["val_accuracy"] for run in runs)
    assert killed.to_dict() == whole.to_dict()
    events = [e for e in read_events(runs[0].path) if e["event"] == "supernet"]
    assert [e["epoch"] for e in events] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "resnet"}, "space='resnet' has no supernet"),
        ({"evaluate": "supernet:replicas=40"}, "replicas=40 and the supernet itself"),
        ({"evaluate": "supernet:sampling=best"}, "sampling"),
        ({"space": "darts", "evaluate": "supernet:canonical=true"}, "canonical=true"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(local_ray, tmp_path, arguments, message):
    given = {"space": "nasbench201", "evaluate": "supernet"} | arguments
    with pytest.raises(InvalidArgument, match=message):
        raynas.run(**given, storage_path=tmp_path)
    assert not list(Path(tmp_path).iterdir())
