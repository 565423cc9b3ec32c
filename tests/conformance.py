"""Shared suites: what every search space, searcher and evaluator must do.

A test class joins a suite by subclassing it and giving its fixture.
"""

import dataclasses
import io
import itertools
import json
import math
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

import search_spaces
from raynas import Evaluator, Searcher, Trial
from search_spaces import Architecture, SearchSpace
from search_spaces.counting import count_macs, count_params
from search_spaces.errors import InvalidArchitecture, InvalidArgument
from trials.data import Data
from trials.data import load as load_data


class SearcherSuite:
    """What every search algorithm must do; a subclass yields a factory from `searcher`."""

    #: architectures that it asks for in all
    most: float = math.inf

    @pytest.fixture
    def searcher(self) -> Callable[[], Searcher]:
        raise NotImplementedError

    @pytest.fixture
    def space(self) -> SearchSpace:
        return search_spaces.get("nasbench201")

    @staticmethod
    def value(arch: Architecture) -> float:
        """A made-up accuracy that a search can climb."""
        return sum(choice == 3 for choice in arch.choices) / len(arch.choices)

    @classmethod
    def begin(cls, algorithm: Searcher, space: SearchSpace, seed: int) -> None:
        """Start it, and tell the scores that it wants."""
        algorithm.start(space, seed)
        if algorithm.scoring is not None:
            wanted = algorithm.scoring.architectures
            algorithm.tell_scores({arch: cls.value(arch) for arch in wanted})

    def drive(
        self, searcher: Searcher, steps: int, delay: int = 0, budget: int = 4
    ) -> list[tuple[int, ...]]:
        """Ask `steps` times; results come `delay` asks later."""
        asked: list[Architecture] = []
        for step in range(steps):
            arch = searcher.ask()
            if arch is not None:
                asked.append(arch)
            if 0 <= step - delay < len(asked):
                done = asked[step - delay]
                searcher.tell(done, self.value(done), budget)
        return [arch.choices for arch in asked]

    def test_stays_in_the_space(self, searcher, space):
        algorithm = searcher()
        self.begin(algorithm, space, 0)
        for choices in self.drive(algorithm, 60):
            space.architecture(choices)

    def test_same_seed_same_search(self, searcher, space):
        runs = []
        for seed in (5, 5, 6):
            algorithm = searcher()
            self.begin(algorithm, space, seed)
            runs.append(self.drive(algorithm, 60))
        assert runs[0] == runs[1]
        assert runs[0] != runs[2]

    def test_same_search_in_another_process(self, searcher, space):
        """Neither hash order nor process state may leak in."""
        algorithm = searcher()
        self.begin(algorithm, space, 5)
        here = self.drive(algorithm, 40)
        code = (
            "import pickle, sys; suite, algorithm, space = pickle.load(sys.stdin.buffer);"
            "suite.begin(algorithm, space, 5); print(suite().drive(algorithm, 40))"
        )
        there = subprocess.run(
            [sys.executable, "-c", code],
            input=pickle.dumps((SearcherSuite, searcher(), space)),
            stdout=subprocess.PIPE,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert there.stdout.decode().strip() == str(here)

    def test_start_begins_anew(self, searcher, space):
        algorithm = searcher()
        self.begin(algorithm, space, 1)
        first = self.drive(algorithm, 30)
        self.begin(algorithm, space, 1)
        assert self.drive(algorithm, 30) == first

    def test_results_may_be_late_or_never_come(self, searcher, space):
        algorithm = searcher()
        self.begin(algorithm, space, 3)
        assert self.drive(algorithm, 50, delay=17)
        silent = searcher()
        self.begin(silent, space, 3)
        assert any(silent.ask() is not None for _ in range(3))

    def test_survives_failures_only(self, searcher, space):
        algorithm = searcher()
        self.begin(algorithm, space, 4)
        for asked in range(40):
            arch = algorithm.ask()
            if asked >= self.most:
                break
            assert arch is not None
            algorithm.tell(arch, -math.inf, 1)

    def test_takes_results_that_it_did_not_ask_for(self, searcher, space):
        algorithm = searcher()
        self.begin(algorithm, space, 4)
        rng = np.random.default_rng(0)
        for _ in range(20):
            arch = space.sample(rng)
            algorithm.tell(arch, self.value(arch), 4)
        assert algorithm.ask() is not None

    def test_works_in_every_space(self, searcher):
        for name in search_spaces.names():
            algorithm = searcher()
            self.begin(algorithm, search_spaces.get(name), 0)
            for asked in range(15):
                arch = algorithm.ask()
                if asked >= self.most:
                    break
                assert arch is not None
                algorithm.space.check(arch)
                algorithm.tell(arch, 0.5, 1)

    def test_pickles(self, searcher, space):
        algorithm = searcher()
        self.begin(algorithm, space, 5)
        self.drive(algorithm, 20)
        copy = pickle.loads(pickle.dumps(algorithm))
        assert self.drive(copy, 20) == self.drive(algorithm, 20)


class TrialSuite:
    """What every evaluator's trials must do; a subclass yields one from `evaluator`."""

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        raise NotImplementedError

    @pytest.fixture
    def space(self) -> SearchSpace:
        return search_spaces.get("nasbench201:channels=4,cells=1")

    @pytest.fixture
    def data(self) -> Data:
        return load_data("digits:fraction=0.3")

    def trial(self, evaluator: Evaluator, space: SearchSpace, data: Data, seed: int = 0) -> Trial:
        arch = space.sample(np.random.default_rng(8))
        return evaluator.trial(space, arch, data, 3, seed, torch.device("cpu"))

    @staticmethod
    def comparable(metrics: dict[str, float]) -> dict[str, float]:
        return {key: value for key, value in metrics.items() if not key.endswith("seconds")}

    def steps(self, trial: Trial) -> list[dict[str, float]]:
        """The metrics of all that is left, without what a clock measured."""
        return [self.comparable(trial.step()) for _ in range(trial.epochs - trial.epoch)]

    def test_metrics_are_plain_numbers(self, evaluator, space, data):
        metrics = self.trial(evaluator, space, data).step()
        assert 0 <= metrics["val_accuracy"] <= 1
        assert json.loads(json.dumps(metrics)) == metrics

    def test_counts_epochs(self, evaluator, space, data):
        trial = self.trial(evaluator, space, data)
        assert (trial.epoch, trial.epochs) == (0, 3)
        trial.step()
        assert trial.epoch == 1

    def test_same_seed_same_metrics(self, evaluator, space, data):
        first, again = (self.trial(evaluator, space, data, seed=4) for _ in range(2))
        expected = self.steps(first)
        torch.manual_seed(12345)  # what others do to the global generator must not matter
        assert self.steps(again) == expected

    def test_saved_and_loaded_it_goes_on_bit_for_bit(self, evaluator, space, data, tmp_path):
        whole = self.steps(self.trial(evaluator, space, data))
        begun = self.trial(evaluator, space, data)
        begun.step()
        torch.save(begun.state_dict(), tmp_path / "state.pt")
        resumed = self.trial(evaluator, space, data)
        resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert self.steps(resumed) == whole[1:]


class SpaceSuite:
    """What every search space must do; a subclass gives a small one from `space`."""

    #: classes and image shapes that networks are built for
    classes = 5
    shapes = ((3, 8, 8), (1, 28, 28), (1, 9, 7))

    @pytest.fixture
    def space(self) -> SearchSpace:
        raise NotImplementedError

    @pytest.fixture
    def archs(self, space: SearchSpace) -> list[Architecture]:
        """Some architectures, drawn at random, the cheapest first."""
        rng = np.random.default_rng(1)
        archs = [space.sample(rng) for _ in range(40)]
        return sorted(archs, key=lambda arch: space.macs(arch, self.shapes[0]))

    def test_decisions_have_names_and_choices(self, space):
        names = [decision.name for decision in space.decisions]
        assert len(set(names)) == len(names)
        assert space.size == math.prod(len(decision.choices) for decision in space.decisions)
        assert space.name
        assert space.notation

    def test_stays_in_the_space(self, space, archs):
        for arch in archs:
            assert space.check(arch) is arch
            assert space.check(space.canonical(arch))

    def test_same_seed_same_sample_sequence(self, space):
        runs = []
        for seed in (5, 5, 6):
            rng = np.random.default_rng(seed)
            runs.append([space.sample(rng) for _ in range(20)])
        assert runs[0] == runs[1]
        assert runs[0] != runs[2]

    def test_samples_uniformly(self, space):
        """Chi-square; a right sampler fails with probability 1e-6 for each statistic."""
        rng = np.random.default_rng(0)
        if space.size <= 4096:
            valid = list(space)
            counts = Counter(space.sample(rng) for _ in range(10 * len(valid)))
            assert set(counts) <= set(valid)
            assert len(valid) == 1 or chisquare([counts[a] for a in valid]).pvalue > 1e-6
        if not all(space.is_valid(self.random_point(space, rng)) for _ in range(300)):
            return  # no decision is uniform by itself; a small space of the kind shows it
        drawn = np.array([space.sample(rng).choices for _ in range(40_000)])
        for column, decision in zip(drawn.T, space.decisions, strict=True):
            frequencies = np.bincount(column, minlength=len(decision.choices))
            assert len(frequencies) == 1 or chisquare(frequencies).pvalue > 1e-6

    @staticmethod
    def random_point(space: SearchSpace, rng: np.random.Generator) -> Architecture:
        choices = tuple(int(rng.integers(len(d.choices))) for d in space.decisions)
        return Architecture(space.name, choices)

    def test_mutate_changes_one_decision_and_not_the_parent(self, space, archs):
        rng = np.random.default_rng(2)
        for arch in archs[:10]:
            choices = arch.choices
            around = set(space.neighbors(arch))
            children = {space.mutate(arch, rng) for _ in range(20)}
            assert arch.choices is choices
            assert children <= around
            assert len(children) > 1 or len(around) == 1

    def test_neighbors_are_all_that_differ_in_one_decision(self, space, archs):
        for arch in archs[:6]:
            around = list(space.neighbors(arch))
            assert len(set(around)) == len(around)
            assert all(space.distance(arch, other) == 1 for other in around)
            assert all(arch in space.neighbors(other) for other in around[::7])
            wanted = {
                Architecture(space.name, (*arch.choices[:i], choice, *arch.choices[i + 1 :]))
                for i, decision in enumerate(space.decisions)
                for choice in range(len(decision.choices))
                if choice != arch.choices[i]
            }
            assert set(around) == set(filter(space.is_valid, wanted))

    def test_round_trips(self, space, archs):
        for arch in archs:
            assert space.from_string(space.to_string(arch)) == arch
            assert space.from_string(f" {space.to_string(arch)}\n") == arch
            assert Architecture.from_json(json.loads(json.dumps(arch.to_json()))) == arch
            assert space.from_config(space.to_config(arch)) == arch
            assert pickle.loads(pickle.dumps(arch)) == arch
            code = space.encode(arch)
            assert set(code.tolist()) <= {0.0, 1.0}
            assert code.sum() == len(space.decisions)
            assert len(code) == sum(len(decision.choices) for decision in space.decisions)

    def test_one_text_for_each_architecture(self, space, archs):
        assert len({space.to_string(arch) for arch in archs}) == len(set(archs))
        assert len({space.encode(arch).tobytes() for arch in archs}) == len(set(archs))

    def test_pickles(self, space):
        copy = pickle.loads(pickle.dumps(space))
        assert copy.decisions == space.decisions
        assert copy.sample(np.random.default_rng(0)) == space.sample(np.random.default_rng(0))

    def test_canonical_is_idempotent(self, space, archs):
        for arch in archs:
            form = space.canonical(arch)
            assert space.canonical(form) == form

    def test_canonical_form_computes_the_same(self, space, archs):
        images = torch.rand(2, *self.shapes[0])
        for arch in archs[::3]:
            form = space.canonical(arch)
            if form != arch:
                outputs = [self.with_equal_weights(space, a)(images) for a in (arch, form)]
                torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)

    def with_equal_weights(self, space: SearchSpace, arch: Architecture) -> nn.Module:
        """Every convolution of a kernel size computes the same, whatever its channels' order."""
        network = space.build(arch, self.shapes[0], self.classes).eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                taps = torch.linspace(0.3, 1.0, module.weight[0, 0].numel())
                taps = taps.view_as(module.weight[0, 0]) / taps.sum() / module.weight.shape[1]
                module.weight.data[:] = taps
            elif isinstance(module, nn.Linear):
                module.weight.data.fill_(1 / module.in_features)
                module.bias.data.zero_()
        return network

    @pytest.mark.parametrize(
        "text", ["", " ", "?", "0", "|", ":", "-", "9" * 30, "a=b", "\x00", "é"]
    )
    def test_garbage_is_refused(self, space, text):
        with pytest.raises(InvalidArchitecture, match=r"position|not"):
            space.from_string(text)

    def test_wrong_notation_points_at_the_position(self, space, archs):
        """Every text that differs in a character is read as what it says, or refused."""
        rng = np.random.default_rng(3)
        for arch in archs[:20]:
            text = space.to_string(arch)
            i = int(rng.integers(len(text)))
            wrong = text[:i] + "\x01" + text[i + 1 :]
            with pytest.raises(InvalidArchitecture, match=r"at position [0-9]+, wanted") as error:
                space.from_string(wrong)
            position = re.search("at position ([0-9]+)", str(error.value))
            assert position is not None
            assert i - 24 < int(position[1]) <= i  # within one word of the notation
            with pytest.raises(InvalidArchitecture, match="at position"):
                space.from_string(f"{text}!")

    @given(data=st.data())
    @settings(
        max_examples=30,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    def test_any_text_is_read_back_or_refused(self, space, data):
        text = space.to_string(space.sample(np.random.default_rng(0)))
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, len(text)))
        text = text[:start] + data.draw(st.text(max_size=8)) + text[end:]
        try:
            arch = space.from_string(text)
        except InvalidArchitecture:
            return
        assert space.from_string(space.to_string(arch)) == arch

    def test_refuses_what_is_not_its_own(self, space, archs):
        arch = archs[0]
        for other in (
            Architecture("another", arch.choices),
            Architecture(space.name, arch.choices[1:]),
            Architecture(space.name, (99, *arch.choices[1:])),
            Architecture(space.name, (-1, *arch.choices[1:])),
            Architecture(space.name, (), "nonsense"),
        ):
            with pytest.raises(InvalidArgument):
                space.check(other)
        config = space.to_config(arch)
        with pytest.raises(InvalidArchitecture, match=re.escape(space.decisions[0].name)):
            space.from_config(config | {space.decisions[0].name: "nonsense"})
        with pytest.raises(InvalidArchitecture):
            space.from_config({})

    def test_networks_learn_with_all_parameters(self, space, archs):
        for shape in self.shapes:
            for arch in archs[:3]:
                network = space.build(arch, shape, self.classes)
                logits = network(torch.rand(2, *shape))
                assert logits.shape == (2, self.classes)
                logits.square().sum().backward()
                idle = [name for name, p in network.named_parameters() if p.grad is None]
                assert not idle, space.to_string(arch)
                assert network.eval()(torch.rand(1, *shape)).shape == (1, self.classes)

    def test_counts_equal_those_of_the_built_network(self, space, archs):
        """Tables with dead edges count them; two count the classifier's bias as MACs."""
        complete = (
            dataclasses.replace(space, dead_edges=True) if hasattr(space, "dead_edges") else space
        )
        for shape in self.shapes:
            for arch in archs[:4]:
                network = complete.build(arch, shape, self.classes)
                assert space.params(arch, shape, self.classes) == count_params(network)
                extra = space.macs(arch, shape, self.classes) - count_macs(network, shape)
                assert extra in (0, self.classes)

    def test_draws(self, space, archs):
        picture = space.draw(archs[0])
        picture.savefig(io.BytesIO())
        words = {text.get_text() for axes in picture.axes for text in axes.texts}
        text = space.to_graphviz(archs[0])
        assert text.startswith("digraph")
        assert all(word in text for word in words)
        for name, graph in space.cell_graphs(archs[0]).items():
            assert graph.depth() == space.depth(archs[0], name)
            assert 0 <= space.width(archs[0], name) <= len(graph.nodes()) - 2

    def test_iterates_over_all(self, space):
        some = list(itertools.islice(space, 200))
        assert some == sorted(set(some))
        assert all(map(space.is_valid, some))


class ProxySuite:
    """What every zero-cost proxy must do; a subclass yields its score function from `proxy`."""

    @pytest.fixture
    def proxy(self) -> Callable[..., float]:
        raise NotImplementedError

    @staticmethod
    def network(channels: int = 3, width: int = 6) -> nn.Sequential:
        """Convolutions, rectifiers (one in place), batch normalization, dropout."""
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(3, 1, 1),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(width * 36, 4),
        )

    @staticmethod
    def batch(channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(12, channels, 8, 8, generator=generator), torch.arange(12) % 4

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_finite_number(self, proxy, channels):
        value = proxy(self.network(channels), *self.batch(channels))
        assert isinstance(value, float)
        assert math.isfinite(value)

    def test_deterministic(self, proxy):
        """Whatever the state of the global generator, which is left where it was."""
        values = set()
        for seed in range(3):
            network = self.network()
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            values.add(proxy(network, *self.batch()))
            assert torch.equal(torch.get_rng_state(), before)
        assert len(values) == 1

    def test_other_networks_score_otherwise(self, proxy):
        values = {proxy(self.network(width=width), *self.batch()) for width in (3, 6, 12)}
        assert len(values) == 3

    def test_leaves_the_network_as_it_was(self, proxy):
        """Contents, strides, gradients, flags of training and of gradients, hooks."""
        network = self.network()
        network[1].eval()
        network[3].weight.requires_grad = False
        network[0].weight.grad = torch.ones_like(network[0].weight)
        calls = []
        handle = network[2].register_forward_hook(lambda *_: calls.append(1))
        attributes = [self.attributes(module) for module in network.modules()]
        tensors = [*network.parameters(), *network.buffers()]
        found = [(t, t.clone(), t.stride(), t.requires_grad) for t in tensors]
        proxy(network, *self.batch())
        assert [self.attributes(module) for module in network.modules()] == attributes
        for tensor, content, stride, trained in found:
            assert torch.equal(tensor, content)
            assert (tensor.stride(), tensor.requires_grad) == (stride, trained)
        assert network[0].weight.grad.eq(1).all()
        assert all(p.grad is None for p in list(network.parameters())[1:])
        handle.remove()
        calls.clear()
        network(self.batch()[0])
        assert not calls

    def test_forgets_what_the_network_kept(self, proxy):
        class Keeping(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.last = x
                self.register_buffer("mean", x.mean())
                self.register_forward_hook(lambda *_: None)
                return x

        keeping = Keeping()
        attributes = self.attributes(keeping)
        proxy(nn.Sequential(keeping, self.network()), *self.batch())
        assert self.attributes(keeping) == attributes

    @staticmethod
    def attributes(module: nn.Module) -> dict[str, object]:
        """With its tables of parameters, buffers and hooks."""
        return {k: {**v} if isinstance(v, dict) else v for k, v in vars(module).items()}

    def test_leaves_the_batch_as_it_was(self, proxy):
        images, labels = self.batch()
        network = nn.Sequential(nn.ReLU(inplace=True), *self.network())
        proxy(network, images, labels)
        assert torch.equal(images, self.batch()[0])
        assert not images.requires_grad

    @pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
    def test_without_gradients_around(self, proxy, guard):
        expected = proxy(self.network(), *self.batch())
        network, batch = self.network(), self.batch()
        with guard():
            assert proxy(network, *batch) == expected
