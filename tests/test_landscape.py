"""The loss surface and the gradient variance around a network, in one process and over Ray."""

import copy
import math
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

import search_spaces
from raynas.drivers.landscapes import Network, _landscape
from raynas.drivers.surfaces import Measure, Trained, surface
from raynas.errors import InvalidArgument, RaynasError
from raynas.reports.landscape_figure import landscape_figure
from raynas.reports.rendering import png
from trials.data import load
from trials.data.parts import Part
from trials.landscape import Plane, Point, gradient_variance, grid, loss_surface, sample
from trials.landscape.surface import loss_and_accuracy
from trials.landscape.variance import check_batches
from trials.training import evaluate

SPACE = search_spaces.get("nasbench201", channels=4, cells=1)
CELL = (
    "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|"
    "+|avg_pool_3x3~0|nor_conv_3x3~1|skip_connect~2|"
)
POINTS = [Point(-0.5, 0.25), Point(0.0, 0.0), Point(1.0, -1.0)]


@pytest.fixture(scope="module")
def data():
    return load("digits", seed=0)


@pytest.fixture(scope="module")
def images(data):
    return sample(data.validation, images=200, seed=1)


@pytest.fixture
def network(data):
    """A network that has seen a few batches, so that its running statistics are not 0 and 1."""
    torch.manual_seed(0)
    network = SPACE.build(SPACE.from_string(CELL), data.input_shape, data.num_classes)
    for batch, _ in data.train.batches(64):
        network(batch)
    return network.to(memory_format=torch.channels_last)


def bits_of(network):
    return {key: value.numpy().tobytes() for key, value in network.state_dict().items()}


class TestGrid:
    def test_has_the_points_of_a_square_with_the_center_exactly_at_zero(self):
        points = grid(points=51)
        assert len(points) == 51 * 51
        assert points[0] == (-1, -1)
        assert points[-1] == (1, 1)
        assert points[51 * 25 + 25] == (0, 0)
        assert points[1] == (pytest.approx(-0.96), -1)

    def test_is_symmetric_for_any_extent(self):
        points = grid(points=7, extent=0.3)
        assert {(-x, -y) for x, y in points} == set(points)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"points": 1}, "points=1"),
            ({"points": 0}, "points=0"),
            ({"extent": 0.0}, "extent=0.0"),
            ({"extent": -1.0}, "extent=-1.0"),
            ({"extent": math.nan}, "extent=nan"),
            ({"extent": math.inf}, "extent=inf"),
        ],
    )
    def test_refuses_what_is_no_square(self, arguments, said):
        with pytest.raises(InvalidArgument, match=said):
            grid(**arguments)


class TestDirections:
    def test_every_filter_has_the_norm_of_the_weights_filter(self, network):
        plane = Plane(network, seed=3)
        several = [p for p in plane.parameters if p.ndim > 1]
        assert {p.ndim for p in several} == {2, 4}
        for directions in plane.directions:
            for weights, direction in zip(plane.parameters, directions, strict=True):
                assert direction.shape == weights.shape
                if weights.ndim > 1:
                    own, drawn = weights.flatten(1).norm(dim=1), direction.flatten(1).norm(dim=1)
                    assert torch.allclose(own, drawn, rtol=1e-5)
                    assert (own > 0).all()

    def test_parameters_of_one_dimension_do_not_move(self, network):
        plane = Plane(network)
        flat = [i for i, p in enumerate(plane.parameters) if p.ndim == 1]
        assert flat
        assert not any(d[i].any() for d in plane.directions for i in flat)

    def test_the_same_seed_gives_the_same_plane_and_another_seed_another(self, network):
        one, same, other = Plane(network, 1), Plane(copy.deepcopy(network), 1), Plane(network, 2)
        for ours, theirs in zip(one.directions, same.directions, strict=True):
            assert all(map(torch.equal, ours, theirs))
        assert not torch.equal(one.directions[0][0], other.directions[0][0])

    def test_the_two_directions_differ(self, network):
        first, second = Plane(network).directions
        assert not torch.allclose(first[0], second[0])

    def test_a_plane_draws_nothing_from_pytorchs_own_generator(self, network):
        before = torch.get_rng_state()
        Plane(network)
        assert torch.equal(torch.get_rng_state(), before)

    def test_weights_that_are_not_learnable_do_not_move(self, network, images):
        network[-1].linear.requires_grad_(False)
        plane = Plane(network)
        with plane.entered() as move:
            before = network[-1].linear.weight.clone()
            move(Point(1.0, 1.0))
            assert torch.equal(network[-1].linear.weight, before)

    @pytest.mark.parametrize(
        "network", [nn.Identity(), nn.BatchNorm2d(3), nn.Linear(2, 2).requires_grad_(False)]
    )
    def test_a_network_without_weights_is_refused(self, network):
        with pytest.raises(InvalidArgument, match="no learnable parameters of two or more"):
            Plane(network)


class TestPlane:
    def test_moves_to_theta_plus_x_d1_plus_y_d2(self, network):
        plane = Plane(network, seed=5)
        start = [p.detach().clone() for p in plane.parameters]
        with plane.entered() as move:
            for point in POINTS:
                move(point)
                for p, theta, d1, d2 in zip(
                    plane.parameters, start, *plane.directions, strict=True
                ):
                    wanted = theta + point.x * d1 + point.y * d2
                    assert torch.allclose(p, wanted, atol=1e-6)

    def test_leaves_everything_bit_for_bit_as_it_was(self, network, images):
        network.train()
        network[-1].eval()
        modes = [module.training for module in network.modules()]
        before, random = bits_of(network), torch.get_rng_state()
        plane = Plane(network)
        loss_surface(plane, images, POINTS)
        gradient_variance(plane, images, POINTS, batches=2, batch_size=32)
        assert before == bits_of(network)
        assert modes == [module.training for module in network.modules()]
        assert all(p.grad is None for p in network.parameters())
        assert torch.equal(torch.get_rng_state(), random)

    def test_leaves_it_so_after_an_error_too(self, network, images):
        before = bits_of(network)

        def points():
            yield Point(1.0, 1.0)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            loss_surface(Plane(network), images, points())
        assert before == bits_of(network)
        assert network.training


class TestLossSurface:
    def test_its_center_is_the_loss_of_the_network_exactly(self, network, images):
        network.eval()
        alone = loss_and_accuracy(network, images)
        heights = loss_surface(Plane(network), images, grid(points=3))
        assert heights[4][2:] == alone
        assert all(height.loss != alone[0] for height in heights[:4])

    def test_its_center_agrees_with_the_evaluation_of_a_training(self, network, data):
        whole = sample(data.validation)
        (center,) = loss_surface(Plane(network), whole, [Point(0.0, 0.0)])
        loss, accuracy = evaluate(network, data.validation, torch.device("cpu"))
        assert center.loss == pytest.approx(loss, rel=1e-6)
        assert center.accuracy == accuracy

    def test_does_not_change_when_a_filter_before_batch_norm_is_scaled(self, images):
        torch.manual_seed(0)
        # eps, a constant added to the variance, is what the scale of the filter shows in
        normal = nn.BatchNorm2d(6, eps=1e-12)
        network = nn.Sequential(
            nn.Conv2d(1, 6, 3), normal, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(6, 10),
        )  # fmt: skip
        normal.momentum = 1.0  # the running statistics are those of the last batch
        network(images.images)
        scaled = copy.deepcopy(network)
        with torch.no_grad():
            scaled[0].weight[2] *= 7.0
            scaled[0].bias[2] *= 7.0
        scaled(images.images)
        ours, theirs = (
            loss_surface(Plane(net, seed=4), images, grid(points=5)) for net in (network, scaled)
        )
        losses = torch.tensor([h.loss for h in ours])
        assert torch.allclose(losses, torch.tensor([h.loss for h in theirs]), rtol=1e-5, atol=1e-5)
        assert losses.max() - losses.min() > 0.1

    def test_a_plain_random_direction_would_change_with_the_scale(self, images):
        """The test above can fail: without normalization the scale of a filter shows."""
        torch.manual_seed(0)
        normal = nn.BatchNorm2d(6, eps=1e-12, momentum=1.0)
        network = nn.Sequential(
            nn.Conv2d(1, 6, 3, bias=False), normal, nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(6, 10),
        )  # fmt: skip
        network(images.images)
        scaled = copy.deepcopy(network)
        with torch.no_grad():
            scaled[0].weight *= 7.0
        scaled(images.images)
        planes = Plane(network, seed=4), Plane(scaled, seed=4)
        planes[1].directions = planes[0].directions
        ours, theirs = (loss_surface(p, images, [Point(1.0, 1.0)])[0].loss for p in planes)
        assert abs(ours - theirs) > 1e-3

    def test_losses_that_are_not_finite_are_kept(self, network, images):
        far = loss_surface(Plane(network), images, [Point(1e30, 1e30), Point(0.0, 0.0)])
        assert not math.isfinite(far[0].loss)
        assert 0 <= far[0].accuracy < 0.5
        assert math.isfinite(far[1].loss)

    def test_an_image_for_which_the_network_gives_nan_is_a_wrong_one(self, images):
        class Nothing(nn.Module):
            def forward(self, x):
                return torch.full((len(x), 10), math.nan)

        loss, accuracy = loss_and_accuracy(Nothing(), images)
        assert math.isnan(loss)
        assert accuracy == 0


class TestGradientVariance:
    def test_equals_a_direct_computation(self, network, images):
        plane = Plane(network, seed=2)
        spreads = gradient_variance(plane, images, POINTS, batches=3, batch_size=40)
        for point, spread in zip(POINTS, spreads, strict=True):
            moved = copy.deepcopy(network).eval()
            with torch.no_grad():
                for p, d1, d2 in zip(moved.parameters(), *plane.directions, strict=True):
                    p += point.x * d1 + point.y * d2
            rows = []
            for b in range(3):
                part = slice(40 * b, 40 * b + 40)
                moved.zero_grad()
                logits = moved(images.images[part])
                functional.cross_entropy(logits, images.labels[part]).backward()
                rows.append(torch.cat([p.grad.flatten() for p in moved.parameters()]).double())
            gradients = torch.stack(rows)
            mean = gradients.mean(0)
            variance = float((gradients - mean).square().sum(1).mean())
            assert variance > 0
            assert spread[:2] == point
            assert spread.variance == pytest.approx(variance, rel=1e-4)
            assert spread.relative_variance == pytest.approx(
                variance / float(mean.square().sum()), rel=1e-4
            )

    def test_is_zero_when_all_batches_are_the_same(self, network, images):
        twice = type(images)(images.images[:20].repeat(2, 1, 1, 1), images.labels[:20].repeat(2))
        (spread,) = gradient_variance(Plane(network), twice, POINTS[:1], batches=2, batch_size=20)
        assert spread.variance == pytest.approx(0, abs=1e-9)
        assert spread.variance >= 0

    def test_counts_parameters_that_play_no_part_as_zero(self, network, images):
        (without,) = gradient_variance(Plane(network), images, POINTS[1:2], 2, 32)
        network.register_parameter("unused", nn.Parameter(torch.ones(3)))
        (with_it,) = gradient_variance(Plane(network), images, POINTS[1:2], 2, 32)
        assert with_it == pytest.approx(without, rel=1e-12)

    def test_what_is_not_finite_is_kept(self, network, images):
        (spread,) = gradient_variance(Plane(network), images, [Point(1e30, 1e30)], 2, 32)
        assert math.isnan(spread.variance)
        assert math.isnan(spread.relative_variance)

    def test_works_where_gradients_are_switched_off(self, network, images):
        with torch.no_grad():
            (spread,) = gradient_variance(Plane(network), images, POINTS[1:2], 2, 32)
        assert spread.variance > 0

    @pytest.mark.parametrize(
        ("batches", "batch_size", "said"),
        [
            (1, 10, "at least 2 mini-batches"),
            (2, 0, "batch_size=0"),
            (7, 32, "224 images, and there are 200"),
        ],
    )
    def test_refuses_batches_that_cannot_be_had(self, network, images, batches, batch_size, said):
        with pytest.raises(InvalidArgument, match=said):
            gradient_variance(Plane(network), images, POINTS, batches, batch_size)


class TestSample:
    def test_holds_the_images_of_a_part_once_each_normalized(self, data):
        whole = sample(data.validation)
        (ordered, labels), *more = data.validation.batches(len(data.validation))
        assert not more
        assert whole.images.shape == ordered.shape
        assert torch.equal(whole.labels.bincount(), labels.bincount())
        both = (torch.sort(i.sum((1, 2, 3)).double())[0] for i in (whole.images, ordered))
        assert torch.allclose(*both, atol=1e-4)
        assert not torch.equal(whole.labels, labels)

    def test_depends_on_its_seed(self, data):
        one, same, other = (sample(data.test, images=50, seed=s) for s in (0, 0, 1))
        assert torch.equal(one.images, same.images)
        assert torch.equal(one.labels, same.labels)
        assert not torch.equal(one.images, other.images)

    def test_its_batches_copy_nothing(self, images):
        batches = list(images.batches(64))
        assert [len(labels) for _, labels in batches] == [64, 64, 64, 8]
        assert batches[1][0].data_ptr() == images.images[64:].data_ptr()

    @pytest.mark.parametrize("count", [0, 100_000])
    def test_refuses_more_than_there_are(self, data, count):
        with pytest.raises(InvalidArgument, match=f"images={count}: the part of the data has"):
            sample(data.test, images=count)


class Recorder:
    """Builds a small network and notes in a folder which processes have one.

    Args:
        folder: of the notes.
        ill: what the network does when it is evaluated: nothing special, "raise" or "die".
    """

    def __init__(self, folder, ill=""):
        self.folder, self.ill = folder, ill

    def __call__(self, config, input_shape, num_classes):
        (self.folder / str(os.getpid())).touch()
        layers = [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(24, num_classes), Ill(self.ill))

    def workers(self):
        return {int(path.name) for path in self.folder.iterdir()} - {os.getpid()}


class Ill(nn.Module):
    """Passes on what comes, if nothing is wrong with it."""

    def __init__(self, ill):
        super().__init__()
        self.ill = ill

    def forward(self, x):
        if self.ill == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.ill == "raise":
            raise RuntimeError("it does not fit")
        return x


def user_space(folder, ill=""):
    build = Recorder(folder, ill)
    space = search_spaces.UserSpace("recorded", {"size": (1, 2)}, build)
    torch.manual_seed(3)
    return space, build({}, (1, 8, 8), 10).state_dict(), build


def in_one_process(space, weights, data, points, **measure):
    trained = Trained(space, space.from_string("size=1"), weights, (1, 8, 8), 10)
    measure = Measure(**measure)
    plane = trained.plane(measure.seed, torch.device("cpu"))
    rows = measure.rows(plane, sample(data.test, 100, measure.seed), grid(points))
    return pd.DataFrame(rows, columns=measure.columns)


class TestSurfaceOverRay:
    def test_has_the_numbers_of_one_process_bit_for_bit(self, local_ray, data, network):
        arch, weights = SPACE.from_string(CELL), network.state_dict()
        shares = []
        table = surface(
            SPACE, CELL, weights, data, images=150, points=5, extent=0.5, batches=2,
            batch_size=32, seed=7, progress=lambda done, total: shares.append((done, total)),
        )  # fmt: skip
        plane = Trained(SPACE, arch, weights, data.input_shape, 10).plane(7, torch.device("cpu"))
        points, drawn = grid(5, 0.5), sample(data.test, 150, 7)
        assert list(table[["x", "y"]].itertuples(index=False, name=None)) == points
        heights = loss_surface(plane, drawn, points)
        assert list(table["loss"]) == [h.loss for h in heights]
        assert list(table["accuracy"]) == [h.accuracy for h in heights]
        spreads = gradient_variance(plane, drawn, points, 2, 32)
        assert list(table["variance"]) == [s.variance for s in spreads]
        assert list(table["relative_variance"]) == [s.relative_variance for s in spreads]
        done = [done for done, _ in shares]
        assert done == sorted(done)
        assert shares[-1] == (25, 25)

    def test_without_batches_there_is_no_variance(self, local_ray, data, network):
        table = surface(SPACE, CELL, network.state_dict(), data, images=20, points=2, actors=1)
        assert list(table.columns) == ["x", "y", "loss", "accuracy"]
        assert len(table) == 4

    def test_losses_that_are_not_finite_are_kept(self, local_ray, data, network):
        weights = network.state_dict()
        table = surface(SPACE, CELL, weights, data, images=20, points=3, extent=1e30, actors=1)
        assert math.isfinite(table["loss"][4])
        assert not any(map(math.isfinite, table["loss"].drop(4)))

    def test_a_worker_that_is_killed_costs_only_time(self, local_ray, data, tmp_path):
        space, weights, build = user_space(tmp_path)
        killed = []

        def kill_one(done, total):
            if not killed and len(build.workers()) == 2:
                killed.append(min(build.workers()))
                os.kill(killed[0], signal.SIGKILL)

        table = surface(
            space, "size=1", weights, data, images=100, points=51, progress=kill_one
        )  # fmt: skip
        assert killed  # its successor may come when the other has done all that was left
        assert table.equals(in_one_process(space, weights, data, 51))

    def test_what_the_network_raises_is_said(self, local_ray, data, tmp_path):
        space, weights, _ = user_space(tmp_path, "raise")
        with pytest.raises(RaynasError, match="cannot be evaluated: RuntimeError: it does not fit"):
            surface(space, "size=1", weights, data, images=20, points=2)

    @pytest.mark.slow
    def test_a_network_that_kills_every_worker_is_given_up(self, local_ray, data, tmp_path):
        space, weights, _ = user_space(tmp_path, "die")
        with pytest.raises(RaynasError, match=r"cannot be computed at \(.*worker died"):
            surface(space, "size=1", weights, data, images=20, points=2)


@pytest.mark.parametrize(("images", "spread"), [(1, 0), (5, 81), (100, 81)])
def test_landscapes_of_a_test_part_of_a_few_images(data, network, monkeypatch, images, spread):
    def computed(space, arch, weights, data, *, images, points, batches, batch_size, seed, **more):
        more["progress"](points, points**2)
        check_batches(images, batches, batch_size) if batches else None
        measure = Measure(seed, batches, batch_size)
        plane = Trained(space, arch, weights, data.input_shape, 10).plane(seed, torch.device("cpu"))
        rows = measure.rows(plane, sample(data.test, images, seed), grid(points))
        return pd.DataFrame(rows, columns=measure.columns)

    monkeypatch.setattr("raynas.drivers.landscapes.surface", computed)
    few = Part(data.test.store, data.test.indices[:images])
    session = SimpleNamespace(
        plan=SimpleNamespace(space=SPACE, data=replace(data, test=few)),
        search=SimpleNamespace(architectures=[SPACE.from_string(CELL)], seed=0),
        resources=SimpleNamespace(concurrent=1, cpus=1, gpus=0),
        say=lambda text, important: said.append((text, important)),
    )
    said = []
    table = _landscape(session, Network("widest", 0, 1, None), network.state_dict())
    assert table["loss"].notna().sum() == 21**2
    assert table["variance"].notna().sum() == spread
    assert ("Loss surface: widest, 21 of 441 points", False) in said
    assert png(landscape_figure(table))[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"part": "tests"}, "part='tests': choose train, validation, test"),
        ({"actors": 0}, "actors=0"),
        ({"points": 1}, "points=1"),
        ({"images": 10**6}, "images=1000000"),
        ({"images": 100, "batches": 4, "batch_size": 26}, "104 images, and there are 100"),
        ({"weights": {}}, "weights: there are none"),
        ({"weights": {"other": torch.zeros(1)}}, "weights: they are not of the network"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(data, network, arguments, said):
    wanted = {"weights": network.state_dict(), **arguments}
    with pytest.raises(InvalidArgument, match=said):
        surface(SPACE, CELL, data=data, **wanted)
