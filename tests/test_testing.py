"""`raynas.testing`: the suites pass what is right, and fail what is broken."""

import importlib
import random
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import raynas.testing
from raynas import Asha, Estimator, Fifo, InvalidArgument, Naswot, RandomSearch, Train
from raynas.drivers.driver import Driver
from raynas.ensemble.rules import PAP, PRS
from raynas.record.events import Status
from raynas.testing import ProxySuite, check
from search_spaces.micro64 import Micro64
from search_spaces.nasbench201 import NASBench201
from trials.training import TrainingTrial

PAGE = (Path(__file__).parents[1] / "docs" / "testing.md").read_text()


class GlobalRandom(RandomSearch):
    """Draws from the generator of the process."""

    def ask(self):
        return self.space.sample(np.random.default_rng(random.randrange(1 << 30)))


class Hoarding(RandomSearch):
    """Goes on where it was when it is started anew."""

    def start(self, space, seed):
        kept = getattr(self, "rng", None)
        super().start(space, seed)
        self.rng = kept or self.rng


class TwoMutations(NASBench201):
    """Changes two decisions at once."""

    def mutate(self, arch, rng):
        return super().mutate(super().mutate(arch, rng), rng)


class Lopsided(NASBench201):
    """Draws the first choice of the first decision more often."""

    def sample(self, rng):
        arch = super().sample(rng)
        choices = (0, *arch.choices[1:]) if rng.random() < 0.2 else arch.choices
        return self.architecture(choices)


class Shallow(NASBench201):
    """Counts one edge too few."""

    def depth(self, arch, cell="normal"):
        return max(0, super().depth(arch, cell) - 1)


class Moody(Asha):
    """Decides by chance."""

    def report(self, evaluation, epochs, value):
        return super().report(evaluation, epochs, value) or random.random() < 0.3


class Harsh(Fifo):
    """Lets nobody go on."""

    stops = True

    def report(self, evaluation, epochs, value):
        return False


class Greeting(PAP):
    """Keeps one that was not there."""

    def keep(self, among):
        return [*super().keep(among), 99]


class Dividing(PAP):
    """Divides by what is 0 for members that predict one class only."""

    def goes(self, among):
        spread = np.array([self.logits[j].argmax(1).std() for j in among])
        return among[int(np.argmax(1 / spread))]


class UnseededRule(PRS):
    """Draws from the generator of the process."""

    def goes(self, among):
        return among[int(np.random.randint(len(among)))]


class Counting(Estimator):
    """Tells how often it was asked."""

    def open(self, space, data, seed, device):
        asked = []

        def estimate(arch):
            asked.append(arch)
            return {"val_accuracy": 1 / len(asked)}

        return estimate


class Forgetting(Train):
    """Its trials go on with fresh weights."""

    def trial(self, space, arch, data, epochs, seed, device):
        class Forgetful(TrainingTrial):
            def load_state_dict(self, state):
                weights = [p.detach().clone() for p in self.network.parameters()]
                super().load_state_dict(state)
                for parameter, fresh in zip(self.network.parameters(), weights, strict=True):
                    parameter.data.copy_(fresh)

        trial = super().trial(space, arch, data, epochs, seed, device)
        trial.__class__ = Forgetful
        return trial


class WithSupernet(Micro64):
    """Has a supernet that does otherwise; see `change`."""

    def supernet(self, *args, **options):
        supernet = super().supernet(*args, **options)
        self.change(supernet, supernet.child)
        return supernet


class AllPaths(WithSupernet):
    """Runs other paths too, whose weights get gradients of zero."""

    def change(self, supernet, child):
        supernet.child = lambda x, arch: (
            child(x, arch)
            + 0 * sum(child(x, self.architecture((choice,) * 3)) for choice in range(4))
        )


class HeadOnly(WithSupernet):
    """Gives gradients to the classifier only."""

    def change(self, supernet, child):
        *_, name = supernet.operations
        classifier = supernet.operations[name].forward
        supernet.operations[name].forward = lambda x: classifier(x.detach())


class Restless(WithSupernet):
    """Counts its forward passes."""

    def change(self, supernet, child):
        supernet.register_buffer("passes", torch.zeros(()))

        def counting(x, arch):
            supernet.passes += 1
            return child(x, arch)

        supernet.child = counting


def global_proxy(network, images, labels):
    """Draws from the generator of the process, and leaves gradients."""
    network(images + torch.randn(1)).sum().backward()
    return float(sum(p.grad.norm() for p in network.parameters() if p.grad is not None))


class InTurn(Driver):
    """Carries out searches in this process; subclasses make mistakes."""

    at_once = 1
    skipped = -1

    def run(self, session):
        plan, search = session.plan, session.search
        estimate = plan.evaluator.open(plan.space, plan.data, search.seed, torch.device("cpu"))
        while True:
            begun = [search.suggest() for _ in range(self.at_once)]
            if begun[0] is None:
                return
            for evaluation in filter(None, begun):
                if evaluation.index != self.skipped:
                    arch = search.architectures[evaluation.index]
                    search.report(evaluation.index, estimate(arch))
                    search.finish(evaluation.index, Status.COMPLETED)


class Hasty(InTurn):
    """Begins four at a time, whatever is allowed."""

    at_once = 4


class Losing(InTurn):
    """Never finishes the second."""

    skipped = 1


SMALL = {"channels": 4, "cells": 1}
MICRO = {"channels": 4, "cells": 2}

BROKEN = [
    (GlobalRandom, "test_same_seed_same_search"),
    (Hoarding, "test_start_begins_anew"),
    (TwoMutations(**SMALL), "test_mutate_changes_one_decision"),
    (Lopsided(**SMALL), "test_samples_uniformly"),
    (Shallow(**SMALL), "test_depth_and_width_are_those_of_the_cells"),
    (Moody, "test_a_replay_in_a_new_one"),
    (Harsh, "test_somebody_gets_all_epochs"),
    (Greeting, "test_keeps_some_of_those_asked_about"),
    (Dividing, "test_members_that_tell_one_class"),
    (UnseededRule, "test_same_seed_same_order"),
    (Counting(), "test_an_answer_does_not_depend_on_what_else_was_asked"),
    (Forgetting(), "test_saved_and_loaded_it_goes_on"),
    (AllPaths(**MICRO), "test_only_the_path_gets_gradients"),
    (HeadOnly(**MICRO), "test_only_the_path_gets_gradients"),
    (Restless(**MICRO), "test_evaluating_leaves_it_as_it_was"),
]


@pytest.mark.parametrize(
    ("part", "test"), BROKEN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_broken_fails(part, test):
    with pytest.raises(AssertionError, match=test):
        check(part)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("part", "test"),
    [(Hasty(), "test_no_more_at_a_time"), (Losing(), "test_evaluates_everything_once")],
)
def test_drivers_that_are_broken_fail(part, test):
    with pytest.raises(AssertionError, match=test):
        check(part, evaluator="proxy:proxy=params")


def test_a_broken_proxy_fails():
    with pytest.raises(AssertionError, match=r"test_deterministic.*leaves_the_network_as_it_was"):
        check(global_proxy, ProxySuite)


def test_a_failed_test_shows_what_it_compared(capfd):
    with pytest.raises(AssertionError, match=r"Harsh.* fails 3 of \d+ tests: test_"):
        check(Harsh)
    assert "assert 1 == 9" in capfd.readouterr().out


def test_objects_are_tested_as_well_as_classes():
    check(Asha(reduction=2))
    with pytest.raises(AssertionError, match="test_somebody_gets_all_epochs"):
        check(Harsh())


def test_options_of_a_suite():
    """One that asks for a single architecture fails, unless the suite knows that it may."""
    with pytest.raises(AssertionError, match="test_survives_failures_only"):
        check(Naswot(candidates=30))
    check(Naswot(candidates=30), most=1)
    with pytest.raises(InvalidArgument, match="mots: SearcherSuite has no such option"):
        check(Naswot(candidates=30), mots=1)


def test_a_part_of_no_known_type_is_refused():
    with pytest.raises(InvalidArgument, match="of none of the types Searcher, SearchSpace"):
        check(nn.Identity())


def test_everything_public_is_there():
    assert all(getattr(raynas.testing, name) is not None for name in raynas.testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Suites'"):
        raynas.testing.Suites  # noqa: B018


@pytest.mark.parametrize("missing", ["pytest", "hypothesis"])
def test_the_extra_is_named_where_it_is_missing(missing):
    code = f"import sys; sys.modules[{missing!r}] = None\nimport raynas.testing"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: raynas.testing needs more packages: pip install 'raynas[testing]'." in (
        run.stderr
    )


def test_the_page_names_every_suite():
    suites = {name for name in raynas.testing.__all__ if name.endswith("Suite")}
    assert suites == set(re.findall(r"\w+Suite", PAGE))


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("number", range(9))
def test_the_examples_of_the_page_run(number, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 9
    assert "\ncheck(" in blocks[number]
    (tmp_path / "example.py").write_text(blocks[number])
    runpy.run_path(str(tmp_path / "example.py"), run_name="__main__")


def test_a_module_may_check_what_it_defines(tmp_path, monkeypatch):
    """Also where a test imports it in another process, which would check, and so on."""
    (tmp_path / "mine.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0])
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("mine")
