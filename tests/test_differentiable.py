"""Differentiable search: each rule's update, the loop, sizes, early stop, collapse."""

import copy
import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import search_spaces
from search_spaces import LayerChoice, from_module
from search_spaces.cells.genotypes import named
from search_spaces.errors import InvalidArgument
from trials.data import Data, DataError, Part, load
from trials.differentiable import (
    GDAS,
    RULES,
    Darts,
    Differentiable,
    GradientSearch,
    MiLeNAS,
    NADarts,
    Record,
    SingleLevel,
    unrolled,
)
from trials.differentiable.collapse import (
    NONES,
    SKIPS,
    collapse,
    entropy,
    largest_eigenvalue,
    operation_share,
)
from trials.differentiable.gdas import straight_through
from trials.differentiable.halves import cycling, halves
from trials.differentiable.na_darts import neighbor, slopes
from trials.differentiable.problem import Path, Problem
from trials.differentiable.records import is_reached, keep_best, model_size
from trials.differentiable.unrolled import hessian_product, unrolled_weights
from trials.optimization import TrainingStep
from trials.trial import Diverged

CPU = torch.device("cpu")
TRAIN, VALIDATION = "train", "validation"
NB201 = search_spaces.get("nasbench201:channels=2,cells=1")
CELLS = search_spaces.get("darts:channels=2,cells=2")
OPTIONS = Differentiable(batch_size=32)


class Mine(nn.Module):
    """A user's network, without kinks."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        channels = input_shape[0]
        conv, wide = (nn.Conv2d(channels, 4, k, padding=k // 2) for k in (3, 5))
        self.first = LayerChoice("first", {"conv": conv, "wide": wide})
        self.second = LayerChoice("second", {"skip": nn.Identity(), "conv": nn.Conv2d(4, 4, 1)})
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.second(self.first(x).tanh()).mean((2, 3)))


class OwnNorm(nn.BatchNorm2d):
    """A class of the user's own, which a supernet leaves as it is."""


class Normed(Mine):
    def __init__(self, input_shape, num_classes):
        super().__init__(input_shape, num_classes)
        self.second = nn.Sequential(
            OwnNorm(4), LayerChoice("third", {"own": OwnNorm(4), "plain": nn.BatchNorm2d(4)})
        )


MINE = from_module("mine", Mine)
#: one of each update that there is
EVERY_RULE = {
    "darts": Darts(),
    "darts-second": Darts(second_order=True),
    "milenas": MiLeNAS(lambda_=0.5),
    "milenas-code": MiLeNAS(order="a-then-w"),
    "milenas-simultaneous": MiLeNAS(order="simultaneous"),
    "milenas-second": MiLeNAS(second_order=True),
    "single-level": SingleLevel(),
    "gdas": GDAS(),
    "gdas-milenas": GDAS(lambda_=1.0),
    "na-darts": NADarts(),
}
every_rule = pytest.mark.parametrize("rule", EVERY_RULE.values(), ids=EVERY_RULE)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits:fraction=0.1,validation_fraction=0.1")


@pytest.fixture
def searching(digits):
    """Make a search on the digits."""

    def make(rule, space=NB201, epochs=3, seed=0, **options) -> GradientSearch:
        recipe = replace(OPTIONS, rule=rule, **options)
        return recipe.trial(space, digits, epochs, seed, CPU)

    return make


@pytest.fixture
def pair(digits):
    """One mini-batch of each half."""
    first, second = digits.train.batches(32, seed=0), digits.train.batches(32, seed=1)
    return next(first), next(second)


class Toy(Problem):
    """L_tr = (w - a)^2 / 2, L_val = (w + a - 2)^2 / 2; w = 0, a = 1, both rates .1."""

    def __init__(self, clip: float = 0.0):
        w = nn.Parameter(torch.zeros((), dtype=torch.float64))
        a = nn.Parameter(torch.ones((), dtype=torch.float64))
        steps = (
            TrainingStep(torch.optim.SGD([w], lr=0.1), CPU, clip),
            TrainingStep(torch.optim.SGD([a], lr=0.1), CPU),
        )
        super().__init__(*steps)
        self.passes = self.trained = 0

    @property
    def relaxation(self):
        return list(self.a)

    def loss(self, batch, path, training=False):
        self.passes += 1
        self.trained += training
        (w,), (a,) = self.w, path.mixture
        return (w - a) ** 2 / 2 if batch == TRAIN else (w + a - 2) ** 2 / 2

    @property
    def values(self) -> tuple[float, float]:
        return self.w[0].item(), self.a[0].item()


class TestUpdatesByHand:
    """papers.md 4.1."""

    @pytest.mark.parametrize(
        ("rule", "w", "a"),
        [
            (MiLeNAS(lambda_=2), 0.1, 1.09),
            (MiLeNAS(lambda_=2, order="a-then-w"), 0.11, 1.1),
            (MiLeNAS(lambda_=2, order="simultaneous"), 0.1, 1.1),
            # the gradient of the second order is -.99 + .81 at (0, 1)
            (MiLeNAS(second_order=True, order="a-then-w"), 0.1018, 1.018),
            (SingleLevel(), 0.1, 0.91),
            (Darts(), 0.11, 1.1),
            (Darts(second_order=True), 0.1099, 1.099),
        ],
    )
    def test_one_step(self, rule, w, a):
        toy = Toy()
        rule.step(toy, TRAIN, VALIDATION)
        assert toy.values == pytest.approx((w, a), abs=1e-12)

    def test_the_second_order_gradient(self):
        gradient = MiLeNAS(second_order=True).gradient(Toy(), TRAIN, VALIDATION)
        assert gradient[0].item() == pytest.approx(-0.18, abs=1e-12)

    @pytest.mark.parametrize(
        ("rule", "passes"),
        [
            (Darts(), 2),
            (Darts(second_order=True), 5),
            (MiLeNAS(), 3),
            (MiLeNAS(order="simultaneous"), 2),
            (MiLeNAS(second_order=True), 8),
            (SingleLevel(), 2),
        ],
    )
    def test_passes_of_a_step(self, rule, passes):
        toy = Toy()
        rule.step(toy, TRAIN, VALIDATION)
        assert (toy.passes, toy.trained) == (passes, 1)

    def test_momentum_and_weight_decay_are_in_the_step_ahead(self):
        """The step ahead is the one that SGD then takes."""
        toy = Toy()
        (w,) = toy.w
        sgd = torch.optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=0.2)
        toy.weights = TrainingStep(sgd, CPU)
        toy.update_w(TRAIN)
        (expected,) = unrolled_weights(toy, TRAIN)
        toy.update_w(TRAIN)
        assert w.item() == pytest.approx(expected.item(), abs=1e-15)

    def test_weights_are_clipped_and_architecture_parameters_are_not(self):
        toy = Toy(clip=0.5)
        toy.update_w(TRAIN)
        assert toy.values == (pytest.approx(0.05, abs=1e-6), 1.0)
        toy.update_a([torch.tensor(-7.0, dtype=torch.float64)])
        assert toy.values == (pytest.approx(0.05, abs=1e-6), pytest.approx(1.7))


class TestLambda:
    def gradient(self, search, pair, lambda_, **options):
        return torch.cat(MiLeNAS(lambda_=lambda_, **options).gradient(search, *pair))

    def test_zero_is_single_level(self, searching, pair):
        search = searching(MiLeNAS())
        assert torch.equal(self.gradient(search, pair, 0.0), torch.cat(search.gradient_a(pair[0])))

    def test_zero_takes_the_same_steps_as_single_level(self, searching):
        one, other = searching(MiLeNAS(lambda_=0.0)), searching(SingleLevel())
        assert _equal(one.step(), other.step())
        assert _same_state(one, other)

    def test_infinity_is_bilevel(self, searching, pair):
        search = searching(MiLeNAS())
        bilevel = torch.cat(Darts().gradient(search, *pair))
        mixed = self.gradient(search, pair, 1e6)
        assert torch.cosine_similarity(mixed, bilevel, 0) > 1 - 1e-6
        assert torch.cosine_similarity(self.gradient(search, pair, 1.0), bilevel, 0) < 1 - 1e-4

    @pytest.mark.parametrize("second_order", [False, True])
    def test_linear(self, searching, pair, second_order):
        search = _double(searching(MiLeNAS()))
        pair = _doubled(pair)
        zero, one, three = (
            self.gradient(search, pair, value, second_order=second_order)
            for value in (0.0, 1.0, 3.0)
        )
        torch.testing.assert_close(three, zero + 3 * (one - zero), rtol=1e-9, atol=1e-12)


def _double(search: GradientSearch) -> GradientSearch:
    """The same search in float64."""
    search.supernet.double()
    for alpha in search.a:
        alpha.data = alpha.data.double()
    return search


def _doubled(pair):
    return tuple((images.double(), labels) for images, labels in pair)


def _equal(first: dict[str, float], second: dict[str, float]) -> bool:
    return {**first, "train_seconds": 0} == {**second, "train_seconds": 0}


def _flat(state, prefix=""):
    """All leaves of a state by their path."""
    items = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in items:
        if isinstance(value, (dict, list, tuple)):
            yield from _flat(value, f"{prefix}/{key}")
        elif key != "seconds":
            yield f"{prefix}/{key}", value


def _same_state(first: GradientSearch, second: GradientSearch) -> bool:
    """Equal to the last bit."""
    one, other = dict(_flat(first.state_dict())), dict(_flat(second.state_dict()))
    same = (
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )
    return one.keys() == other.keys() and all(same)


class TestSecondOrder:
    def error(self, search, pair) -> float:
        """Relative error of the finite difference, against double differentiation in float64."""
        for _ in range(3):
            search.update_w(pair[0])
        _, direction = search.value_and_gradient(pair[1], Path(search.relaxation), search.w)
        found = torch.cat(hessian_product(search, pair[0], direction))
        exact = _double(copy.deepcopy(search))
        loss = exact.loss(_doubled(pair)[0], Path(exact.relaxation))
        gradient = torch.autograd.grad(loss, exact.w, create_graph=True)
        along = sum((g * v).sum() for g, v in zip(gradient, direction, strict=True))
        product = torch.cat(torch.autograd.grad(along, exact.a))
        return float((found - product).norm() / product.norm())

    def test_finite_differences_are_an_exact_product(self, searching, pair):
        assert self.error(searching(Darts(), MINE), pair) < 1e-2

    def test_they_are_with_relu_too_where_they_cross_no_kink(self, searching, pair, monkeypatch):
        """With R = .01 they add what lies in the kinks, which the exact product leaves out."""
        assert self.error(searching(Darts()), pair) > 0.1
        monkeypatch.setattr(unrolled, "_RADIUS", 1e-7)
        assert self.error(_double(searching(Darts())), _doubled(pair)) < 1e-4

    def test_no_direction_no_product(self, searching, pair):
        search = searching(Darts())
        zeros = [torch.zeros_like(p) for p in search.w]
        assert not torch.cat(hessian_product(search, pair[0], zeros)).any()


class TestNeighborhood:
    @pytest.mark.parametrize("distance", [1.0, 0.4])
    @pytest.mark.parametrize("aggregate", ["mean", "median", "worst"])
    def test_gradient_is_the_numerical_one(self, searching, pair, aggregate, distance):
        rule = NADarts(3, aggregate, distance)
        search = _double(searching(rule))
        torch.manual_seed(0)
        for alpha in search.a:
            alpha.data = torch.randn_like(alpha)
        validation = _doubled(pair)[1]

        def value() -> float:
            search.generator = torch.Generator().manual_seed(5)
            with torch.no_grad():
                losses = [
                    search.loss(validation, Path(mixture)) for mixture in rule._neighborhood(search)
                ]
            assert len(losses) == 4
            values = torch.stack(losses)
            if aggregate == "median":
                return float(torch.quantile(values, 0.5))
            return float(values.mean() if aggregate == "mean" else values.max())

        search.generator = torch.Generator().manual_seed(5)
        gradient = rule.gradient(search, validation)
        step = 1e-6  # a longer one crosses kinks of ReLU
        for alpha, g in zip(search.a, gradient, strict=True):
            for i in range(0, len(alpha), 2):
                sides = []
                for sign in (1, -1):
                    with torch.no_grad():
                        alpha[i] += sign * step
                    sides.append(value())
                    with torch.no_grad():
                        alpha[i] -= sign * step
                numerical = (sides[0] - sides[1]) / (2 * step)
                assert float(g[i]) == pytest.approx(numerical, rel=1e-4, abs=1e-6)

    def test_no_neighbors_is_darts_bit_for_bit(self, searching):
        one, other = searching(NADarts(neighbors=0)), searching(Darts())
        for _ in range(2):
            assert _equal(one.step(), other.step())
        assert _same_state(one, other)

    def test_neighbors_differ_from_darts(self, searching):
        one, other = searching(NADarts(neighbors=2)), searching(Darts())
        one.step()
        other.step()
        assert not _same_state(one, other)

    def test_a_neighbor_is_within_its_distance(self):
        p = [torch.softmax(torch.randn(5, generator=torch.Generator().manual_seed(i)), 0)
             for i in range(3)]  # fmt: skip
        for distance in (0.3, 1.0):
            moved = neighbor(p, 1, 4, distance)
            assert torch.equal(moved[0], p[0])
            assert torch.equal(moved[2], p[2])
            assert float(moved[1].sum()) == pytest.approx(1)
            variation = float((moved[1] - p[1]).abs().sum()) / 2
            assert variation == pytest.approx(distance * (1 - float(p[1][4])), abs=1e-6)

    @pytest.mark.parametrize(
        ("aggregate", "values", "expected"),
        [
            ("mean", [3.0, 1.0, 2.0], [1 / 3] * 3),
            ("median", [3.0, 1.0, 2.0], [0, 0, 1]),
            ("median", [3.0, 1.0, 2.0, 9.0], [0.5, 0, 0.5, 0]),
            ("worst", [3.0, 9.0, 9.0], [0, 1, 0]),
            ("median", [3.0], [1]),
        ],
    )
    def test_slopes(self, aggregate, values, expected):
        found = slopes(torch.tensor(values, dtype=torch.float64), aggregate)
        assert found.tolist() == pytest.approx(expected)


class TestGDAS:
    def test_temperature_falls_linearly(self):
        assert [GDAS().tau(epoch, 10) for epoch in (0, 3, 9)] == pytest.approx([10, 7, 1])
        assert GDAS().tau(0, 1) == 10

    def test_straight_through(self):
        """One-hot forward; backward the softmax of (a + Gumbel) / tau."""
        alpha = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
        generator = torch.Generator().manual_seed(4)
        weights, choice = straight_through(alpha, 2.0, generator)
        noise = _gumbel(3, torch.Generator().manual_seed(4))
        assert choice == int((alpha + noise).argmax())
        torch.testing.assert_close(weights, torch.eye(3, dtype=torch.float64)[choice])
        slopes = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        (found,) = torch.autograd.grad(weights @ slopes, alpha)
        soft = torch.softmax((alpha + noise) / 2.0, 0)
        (expected,) = torch.autograd.grad(soft @ slopes, alpha)
        torch.testing.assert_close(found, expected)

    def test_choices_are_drawn_by_their_softmax(self):
        """Whatever tau is; false-alarm rate below 1e-6 (5 standard deviations)."""
        alpha, n = torch.tensor([0.0, 1.0, 2.0]), 3000
        generator = torch.Generator().manual_seed(0)
        counts = np.bincount([straight_through(alpha, 5.0, generator)[1] for _ in range(n)])
        p = torch.softmax(alpha, 0).numpy()
        assert (abs(counts / n - p) < 5 * np.sqrt(p * (1 - p) / n)).all()

    def test_gradient_of_a_search(self, searching, pair):
        """dL/dw of the sampled pass, times the softmax's derivative."""
        search = _double(searching(GDAS()))
        path = search.rule.path(search)
        batch = _doubled(pair)[1]
        found = search.gradient_a(batch, path)
        weights = [w.detach().requires_grad_() for w in path.mixture]
        slopes = torch.autograd.grad(search.loss(batch, Path(weights, path.choices)), weights)
        search.begin_epoch()
        for alpha, slope, g in zip(search.a, slopes, found, strict=True):
            noise = _gumbel(5, search.generator)
            soft = torch.softmax((alpha + noise) / 10.0, 0)
            (expected,) = torch.autograd.grad(soft @ slope, alpha)
            torch.testing.assert_close(g, expected)
        assert all(bool(g.any()) for g in found)

    def test_only_sampled_operations_run(self, searching, pair):
        search = searching(GDAS())
        ran: set[str] = set()
        for name, module in search.supernet.operations.items():
            module.register_forward_hook(lambda *_, name=name: ran.add(name))
        path = search.rule.path(search)
        search.update_w(pair[0], path)
        expected = {
            step.modules[0] if step.slot is None else step.modules[path.choices[step.slot]]
            for step in search.supernet.steps
        }
        assert ran == expected - {None, ""}
        with_gradient = {
            name.split(".")[1]
            for name, p in search.supernet.named_parameters()
            if p.grad is not None
        }
        assert with_gradient <= ran

    def test_milenas_on_gdas(self, searching, pair):
        """lambda = 0 is the training loss alone; paths are drawn in the same order."""
        search = searching(GDAS(lambda_=0.0))
        moved: list = []
        search.update_a = moved.append
        search.rule.step(search, *pair)
        other = searching(GDAS(lambda_=0.0))
        other.update_w(pair[0], other.rule.path(other))
        expected = other.gradient_a(pair[0], other.rule.path(other))
        assert all(map(torch.equal, moved[0], expected))


def _gumbel(n: int, generator: torch.Generator) -> torch.Tensor:
    return -torch.empty(n, dtype=torch.float64).exponential_(generator=generator).log()


class TestUpdatesOfASearch:
    @every_rule
    def test_running_statistics_are_those_of_one_pass(self, searching, pair, rule):
        search = searching(rule, architecture_learning_rate=0.0)
        other = copy.deepcopy(search)
        search.begin_epoch()
        search.rule.step(search, *pair)
        other.begin_epoch()
        other.update_w(pair[0], other.rule.path(other) if isinstance(rule, GDAS) else None)
        buffers = dict(search.supernet.named_buffers())
        expected = dict(other.supernet.named_buffers())
        changed = [name for name in buffers if name.endswith("num_batches_tracked")]
        assert changed
        for name, value in buffers.items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)

    @pytest.mark.parametrize("checkpoint", [False, True])
    def test_a_norm_of_the_users_own_is_no_exception(self, searching, pair, checkpoint):
        space = from_module("normed", Normed)
        search = searching(Darts(second_order=True), space, checkpoint=checkpoint)
        search.rule.step(search, *pair)
        counts = [
            int(buffer)
            for name, buffer in search.supernet.named_buffers()
            if name.endswith("num_batches_tracked")
        ]
        assert counts == [1] * 3

    @pytest.mark.parametrize("space", [NB201, MINE], ids=["nasbench201", "mine"])
    def test_checkpoints_change_nothing(self, searching, space):
        one, other = (searching(MiLeNAS(), space, checkpoint=value) for value in (False, True))
        first, second = one.step(), other.step()
        for name in ("train_loss", "architecture_loss"):
            assert second[name] == pytest.approx(first[name], rel=1e-4)
        for x, y in zip(one.a, other.a, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)

    @every_rule
    def test_the_update_of_a_leaves_w_and_that_of_w_leaves_a(self, searching, pair, rule):
        search = searching(rule)
        search.begin_epoch()
        before = [p.detach().clone() for p in search.w]
        moves: list[str] = []
        update_w, update_a = search.update_w, search.update_a

        def moved(name, update):
            def wrapped(*args):
                w, a = ([p.detach().clone() for p in part] for part in (search.w, search.a))
                update(*args)
                moves.append(name)
                still, moving = (search.a, a), (search.w, w)
                if name == "a":
                    still, moving = (search.w, w), (search.a, a)
                assert all(map(torch.equal, *still))
                assert not all(map(torch.equal, *moving))

            return wrapped

        search.update_w, search.update_a = moved("w", update_w), moved("a", update_a)
        search.update_w_by = moved("w", search.update_w_by)
        search.rule.step(search, *pair)
        assert sorted(moves) == ["a", "w"]
        assert not all(map(torch.equal, search.w, before))

    def test_the_update_of_w_has_a_in_no_graph(self, searching, pair):
        search = searching(MiLeNAS())
        search.update_w(pair[0])
        assert all(alpha.grad is None for alpha in search.a)
        assert any(p.grad is not None for p in search.w)

    def test_optimizers_have_parameters_of_their_own(self, searching):
        search = searching(MiLeNAS())
        search.step()
        of_w = {id(p) for p in search.weights.parameters}
        of_a = {id(p) for p in search.architecture.parameters}
        assert of_a == {id(alpha) for alpha in search.parameters_}
        assert of_w == {id(p) for p in search.supernet.parameters()}
        assert not of_w & of_a
        assert {id(p) for p in search.weights.optimizer.state} <= of_w
        assert search.weights.clip == 5
        assert search.architecture.clip == 0


class TestLoop:
    @every_rule
    def test_an_epoch(self, searching, rule):
        search = searching(rule)
        metrics = search.step()
        assert search.epoch == 1
        assert [sum(weights) for weights in search.mixture] == pytest.approx([1] * 6)
        assert all(type(value) is float for value in metrics.values())
        assert metrics["train_loss"] > 0
        for name in ("train_accuracy", "architecture_accuracy", "val_accuracy", "skip_share"):
            assert 0 <= metrics[name] <= 1
        assert 0 < metrics["entropy"] <= 1
        assert metrics["params"] == search.size[0] == NB201.params(search.derived, (1, 8, 8))
        assert search.records[search.size] == Record(
            1, search.derived, metrics["architecture_accuracy"]
        )

    @every_rule
    def test_goes_on_bit_for_bit(self, searching, rule):
        whole = searching(rule)
        expected, states = [], []
        for _ in range(3):
            expected.append(whole.step())
            file = io.BytesIO()
            torch.save(whole.state_dict(), file)
            file.seek(0)
            states.append(torch.load(file, weights_only=True))
        for epoch, state in enumerate(states[:2], start=1):
            other = searching(rule)
            other.load_state_dict(state)
            torch.manual_seed(epoch)  # whatever happened in the process before
            assert [_equal(other.step(), metrics) for metrics in expected[epoch:]] == [True] * (
                3 - epoch
            )
            assert _same_state(whole, other)
            assert whole.records == other.records

    def test_seeds_differ(self, searching):
        one, other, again = (searching(MiLeNAS(), seed=seed) for seed in (0, 1, 0))
        assert not torch.equal(one.a[0], other.a[0])
        first, second, third = one.step(), other.step(), again.step()
        assert not _equal(first, second)
        assert _equal(first, third)

    def test_every_epoch_has_an_order_of_its_own(self, searching):
        search = searching(GDAS())
        first = [labels.tolist() for pair in search._batches() for _, labels in pair]
        drawn = search.rule.path(search).choices
        search.epoch = 1
        search.begin_epoch()
        assert first != [labels.tolist() for pair in search._batches() for _, labels in pair]
        assert drawn != search.rule.path(search).choices

    def test_the_learning_rate_falls_on_a_cosine_to_the_end(self, searching):
        search = searching(MiLeNAS(), epochs=2)
        rates = []
        set_rate = search.weights.set_learning_rate
        search.weights.set_learning_rate = lambda rate: (rates.append(rate), set_rate(rate))
        search.step()
        search.step()
        assert len(rates) == 2 * search.steps
        assert rates[0] == 0.025
        assert rates == sorted(rates, reverse=True)
        assert rates[search.steps] == pytest.approx(0.013)

    def test_cells(self, searching):
        search = searching(MiLeNAS(), CELLS, epochs=1, batch_size=60)
        metrics = search.step()
        assert len(search.parameters_) == 28
        assert search.size == (
            metrics["normal_convolutions"], metrics["reduction_convolutions"]
        )  # fmt: skip
        genotype = str(CELLS.to_genotype(search.derived))
        assert "none" not in genotype

    def test_a_space_of_ones_own(self, searching):
        search = searching(MiLeNAS(), MINE, epochs=2)
        search.step()
        assert search.space.check(search.derived)
        assert len(search.parameters_) == 2
        assert len(search.records) >= 1

    def test_diverged(self, searching):
        search = searching(MiLeNAS(), learning_rate=1e30, gradient_clip=0.0)
        with pytest.raises(Diverged, match="epoch 1"):
            search.step()

    @pytest.mark.parametrize("checkpoint", [False, True])
    def test_the_eigenvalue_leaves_everything_as_it_is(self, searching, checkpoint):
        one = searching(MiLeNAS(), checkpoint=checkpoint, eigenvalue_iterations=4)
        other = searching(MiLeNAS(), checkpoint=checkpoint)
        metrics = one.step()
        assert metrics.pop("eigenvalue") != 0
        assert _equal(metrics, other.step())
        assert _same_state(one, other)


class TestHalves:
    def test_apart_and_of_all_classes(self, digits):
        of_w, of_a = halves(digits.train, 0.4, seed=3)
        together = np.concatenate([of_w.indices, of_a.indices])
        assert sorted(together) == sorted(digits.train.indices)
        assert len(set(together)) == len(together)
        counts = np.bincount(digits.train.labels)
        assert np.bincount(of_a.labels).tolist() == [round(0.4 * int(n)) for n in counts]

    def test_a_function_of_the_seed(self, digits):
        one, same, other = (halves(digits.train, 0.5, seed)[0].indices for seed in (1, 1, 2))
        assert one.tolist() == same.tolist()
        assert sorted(one) != sorted(other)

    def test_cycles_without_replacement(self, digits):
        part = Part(digits.train.store, digits.train.indices[:40])
        batches = (labels.tolist() for _, labels in cycling(part, 8, CPU, seed=0))
        first, second = (list(itertools.chain(*itertools.islice(batches, 5))) for _ in range(2))
        assert sorted(first) == sorted(second) == sorted(part.labels.tolist())
        assert first != second

    def test_what_learns_on_what(self, searching, digits, monkeypatch):
        """Batches of w come from one half, those of a from the other, and none from elsewhere."""
        search = searching(MiLeNAS(), epochs=1)
        taken: list[tuple[str, set[int]]] = []
        batches = Part.batches

        def spied(part, *args, **kwargs):
            taken.append(("augmented" if kwargs.get("augment") else "", set(part.indices.tolist())))
            return batches(part, *args, **kwargs)

        monkeypatch.setattr(Part, "batches", spied)
        search.step()
        of_w, of_a = set(search.of_w.indices.tolist()), set(search.of_a.indices.tolist())
        held_out = set(digits.validation.indices.tolist()) | set(digits.test.indices.tolist())
        augmented = [indices for kind, indices in taken if kind]
        assert augmented[0] == of_w
        assert all(indices == of_a for indices in augmented[1:])
        assert not of_w & of_a
        assert not (of_w | of_a) & held_out
        assert not any(set(digits.test.indices.tolist()) & indices for _, indices in taken)


class TestSizes:
    @pytest.mark.parametrize(
        ("name", "size"),
        [
            ("r101_e50_48_n7r3", (7, 3)),
            ("r118_e100_92_n4r1", (4, 1)),
            ("V2_r2_e100", (4, 0)),
            ("v2_r5_e200", (2, 0)),
        ],
    )
    def test_published(self, name, size):
        """papers.md 4.5."""
        assert model_size(CELLS, CELLS.genotype(name), (3, 32, 32), 10) == size

    def test_the_first_of_equals_is_kept(self):
        arch, other = CELLS.genotype("DARTS_V1"), CELLS.genotype("DARTS_V2")
        records: dict = {}
        for record in (Record(1, arch, 0.5), Record(2, other, 0.5), Record(3, other, 0.4)):
            keep_best(records, (4, 1), record)
        keep_best(records, (3, 1), Record(4, other, 0.1))
        assert records == {(4, 1): Record(1, arch, 0.5), (3, 1): Record(4, other, 0.1)}
        keep_best(records, (4, 1), Record(5, other, 0.6))
        assert records[4, 1].epoch == 5

    def test_is_reached(self):
        assert is_reached((6, 0), (6, 0))
        assert is_reached((4, 0), (6, 0))
        assert not is_reached((4, 1), (6, 0))
        assert not is_reached((7, 0), (6, 0))
        assert not is_reached((0, 0), None)

    @pytest.mark.parametrize(
        ("names", "epoch"),
        [
            # (7, 3), (4, 1), (4, 0): (6, 0) is jumped over
            (["r101_e50_48_n7r3", "r118_e100_92_n4r1", "V2_r2_e100", "v2_r5_e200"], 3),
            (["v2_r5_e200", "r101_e50_48_n7r3"], 1),
            (["r101_e50_48_n7r3", "r118_e100_92_n4r1"], None),
        ],
    )
    def test_early_stop(self, searching, monkeypatch, names, epoch):
        search = searching(MiLeNAS(), CELLS, epochs=len(names), expected_size=(6, 0), batch_size=60)
        archs = [CELLS.genotype(name) for name in names]
        monkeypatch.setattr(
            GradientSearch, "derived", property(lambda self: archs[max(self.epoch - 1, 0)])
        )
        while search.epoch < search.epochs and not search.stopped:
            search.step()
        assert search.stopped == (epoch is not None)
        assert search.epoch == (epoch or len(names))
        assert [r.architecture for r in search.records.values()] == archs[: search.epoch]
        assert [r.epoch for r in search.records.values()] == list(range(1, search.epoch + 1))

    def test_stopped_is_kept(self, searching):
        search = searching(MiLeNAS(), expected_size=(10**6,))
        search.step()
        other = searching(MiLeNAS())
        other.load_state_dict(search.state_dict())
        assert search.stopped
        assert other.stopped


class TestCollapse:
    def test_skip_share(self):
        assert operation_share(NB201, NB201.architecture([1] * 6), SKIPS) == 1
        mixed = NB201.architecture([1, 0, 2, 3, 4, 1])
        assert operation_share(NB201, mixed, SKIPS) == pytest.approx(1 / 3)
        assert operation_share(NB201, mixed, NONES) == pytest.approx(1 / 6)
        cells = named("V2_r2_e100")
        skips = sum(n == "skip_connect" for n, _ in cells.normal.edges + cells.reduction.edges)
        assert operation_share(CELLS, CELLS.genotype("V2_r2_e100"), SKIPS) == skips / 16

    def test_entropy(self):
        assert entropy([torch.full((5,), 0.2)]) == pytest.approx(1)
        assert entropy([torch.tensor([1.0, 0.0])]) == 0
        assert entropy([torch.tensor([1.0, 0.0]), torch.full((3,), 1 / 3)]) == pytest.approx(0.5)

    @pytest.mark.parametrize("values", [[3.0, 1.0, -2.0], [1.5, 0.2, -4.0], [-1.0, -2.0, -5.0]])
    def test_eigenvalue(self, values):
        """Of x.H.x / 2, also where another one is larger in magnitude."""
        rotation, _ = torch.linalg.qr(
            torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        )
        hessian = rotation @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ rotation.T
        x = [torch.ones(n, dtype=torch.float64, requires_grad=True) for n in (1, 2)]

        def loss():
            v = torch.cat(x)
            return v @ hessian @ v / 2

        found = largest_eigenvalue(loss, x, 200, torch.Generator().manual_seed(1))
        assert found == pytest.approx(max(values), abs=1e-6)

    def test_words(self):
        calm = {"skip_share": 0.1, "none_share": 0.0, "entropy": 0.6}
        assert collapse([]) == ""
        assert collapse([calm] * 3) == ""
        text = collapse([calm, {"skip_share": 0.75, "none_share": 0.0, "entropy": 0.6}])
        assert text.startswith("This search looks collapsed: 75% of the derived operations")
        assert "10% after the first epoch" in text
        assert "almost even" not in text
        assert "'none'" in collapse([calm, {**calm, "none_share": 0.5}])
        assert "almost even" in collapse(
            [{"skip_share": 0.75, "none_share": 0.0, "entropy": 0.999}]
        )

    def test_words_on_the_eigenvalue(self):
        def epochs(values):
            return [
                {"skip_share": 0.1, "none_share": 0.0, "entropy": 0.6, "eigenvalue": v}
                for v in values
            ]

        # epochs 8 to 12 are the first average, 12 to 16 that four later
        steady, noise = [0.1] * 12, [0.1, 0.2, 0.1, 0.05, 0.1] * 4
        assert collapse(epochs([0.01] * 7 + [0.1] * 9)) == ""  # it grew at first only
        assert collapse(epochs(noise)) == ""
        assert collapse(epochs([*steady, 0.2, 0.2, 0.2])) == ""  # not long enough
        text = collapse(epochs([*steady, 0.1, 0.1, 0.2, 0.2, 0.2]))
        assert "from 0.1 to 0.14 within 4 epochs, as averages over 5 (by epoch 16)" in text


class TestChecks:
    def refused(self, data, match, space=NB201, error=InvalidArgument, **options):
        with pytest.raises(error, match=match):
            replace(OPTIONS, **options).check(space, data)

    def test_good_input(self, digits):
        for rule in EVERY_RULE.values():
            replace(OPTIONS, rule=rule).check(NB201, digits)
        replace(OPTIONS, expected_size=(6, 0)).check(CELLS, digits)
        OPTIONS.check(MINE, digits)

    def test_a_space_without_a_supernet(self, digits):
        self.refused(digits, "has no supernet", search_spaces.get("nasbench101"))

    def test_sizes_cannot_be_mixed(self, digits):
        self.refused(digits, "cannot be mixed", from_module("wide", Wide))

    def test_choices_of_different_shapes(self, digits):
        self.refused(digits, "cannot be mixed .*same shapes", from_module("uneven", Uneven))

    def test_nothing_to_choose(self, digits):
        self.refused(digits, "nothing is to be chosen", from_module("fixed", Fixed))

    def test_one_class(self, digits):
        data = replace(digits, class_names=("zero",))
        self.refused(data, "one class", error=DataError)

    def test_halves_too_small(self, digits):
        self.refused(digits, "too few for a batch of 128", batch_size=128, error=DataError)
        self.refused(
            digits, "10 to the architecture parameters", architecture_share=0.05, error=DataError
        )

    def test_lambda(self):
        for make in (MiLeNAS, GDAS):
            for value in (-1.0, float("nan"), float("inf")):
                with pytest.raises(InvalidArgument, match="lambda_="):
                    make(lambda_=value)

    def test_options_of_rules(self):
        for make, match in (
            (lambda: NADarts(neighbors=-1), "neighbors=-1"),
            (lambda: NADarts(distance=0.0), "distance=0.0"),
            (lambda: NADarts(aggregate="max"), "aggregate='max'"),
            (lambda: MiLeNAS(order="both"), "order='both'"),
            (lambda: MiLeNAS(second_order=True, order="simultaneous"), "first order"),
            (lambda: GDAS(final_temperature=0.0), "final_temperature=0"),
        ):
            with pytest.raises(InvalidArgument, match=match):
                make()

    def test_no_rule(self, digits):
        self.refused(digits, "is no Rule", rule="milenas")

    @pytest.mark.parametrize(
        ("space", "size", "match"),
        [
            (CELLS, (9, 0), "normal_convolutions 9; give 0 to 8"),
            (CELLS, (6, -1), "reduction_convolutions -1"),
            (CELLS, (6,), "2 numbers"),
            (NB201, (1,), "has params 1; give"),
            (NB201, (10**9,), "has params 1000000000"),
            (NB201, (6, 0), "1 number: params"),
        ],
    )
    def test_expected_size(self, digits, space, size, match):
        self.refused(digits, match, space, expected_size=size)

    def test_the_range_of_parameters_is_exact(self, digits):
        shape, classes = digits.input_shape, digits.num_classes
        params = [NB201.params(NB201.architecture([op] * 6), shape, classes) for op in range(5)]
        for size in (min(params), max(params)):
            replace(OPTIONS, expected_size=(size,)).check(NB201, digits)
        for size in (min(params) - 1, max(params) + 1):
            self.refused(digits, f"give {min(params)} to {max(params)}", expected_size=(size,))


class Wide(Mine):
    def __init__(self, input_shape, num_classes):
        super().__init__(input_shape, num_classes)
        search_spaces.IntegerChoice("width", [1, 2])


class Uneven(nn.Sequential):
    def __init__(self, input_shape, num_classes):
        one, other = (nn.Conv2d(input_shape[0], n, 3) for n in (4, 8))
        pool = nn.AdaptiveAvgPool2d(1)
        super().__init__(
            LayerChoice("c", {"a": one, "b": other}), pool, nn.Flatten(), nn.Linear(4, num_classes)
        )


class Fixed(nn.Sequential):
    def __init__(self, input_shape, num_classes):
        width = search_spaces.IntegerChoice("width", [4])
        pool = nn.AdaptiveAvgPool2d(1)
        super().__init__(
            nn.Conv2d(input_shape[0], width, 3), pool, nn.Flatten(), nn.Linear(width, num_classes)
        )


def test_every_rule_has_its_name():
    assert {name: rule.name for name, rule in RULES.items()} == {name: name for name in RULES}
    assert {type(rule) for rule in EVERY_RULE.values()} == set(RULES.values())
