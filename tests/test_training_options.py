"""Options of `Train` that a run with a time budget uses; without them training is as it was."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

import search_spaces
from raynas import InvalidArgument, Train
from raynas.config.description import described
from raynas.testing import TrialSuite
from search_spaces.naming import construct
from trials import EVALUATORS
from trials.data import load
from trials.optimization import cosine, decay_groups, warmed_cosine
from trials.pace import Pace, Work
from trials.training import TrainingTrial, evaluate
from trials.trial import WEIGHTS, derived_seed

CPU = torch.device("cpu")
PACE = "1.1e-11/5e-09/2e-05"
SMALL, LARGE = "c8-w1d0-w1d0-w1d0", "c32-w2d1-w1d1-w1d0"


@pytest.fixture(scope="module")
def digits():
    return load("digits:fraction=0.3")


@pytest.fixture(scope="module")
def space():
    return search_spaces.get("convnet")


def trial(space, data, arch=SMALL, epochs=2, **options):
    return Train(**options).trial(space, space.from_string(arch), data, epochs, 3, CPU)


def small():
    """A network with a convolution, a normalization and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip


def copied(network):
    """Return a network's weights as they are now."""
    return {key: value.clone() for key, value in network.state_dict().items()}


class TestTrainWithItsOptions(TrialSuite):
    """Also that a trial that was saved and loaded goes on bit for bit."""

    @pytest.fixture(
        params=[
            {"averaging": 0.9},
            {"epoch_seconds": 0.02, "pace": PACE},
            {"precision": "bfloat16"},
            {
                "averaging": 0.9, "epoch_seconds": 0.02, "pace": PACE, "precision": "bfloat16",
                "warmup": 0.2, "decay_norms": False, "label_smoothing": 0.1, "mixup": 0.5,
            },
        ],
        ids=["averaging", "epoch_seconds", "bfloat16", "all"],
    )  # fmt: skip
    def evaluator(self, request):
        return Train(batch_size=32, **request.param)


class TestWithoutThem:
    def test_the_text_by_which_older_runs_are_found_has_none_of_them(self):
        assert described(Train(), EVALUATORS) == (
            "train:batch_size=64,learning_rate=0.1,momentum=0.9,weight_decay=0.0005,"
            "label_smoothing=0.0,gradient_clip=5.0"
        )

    def test_training_is_bit_for_bit_what_it_was(self, space, digits):
        """Put together by hand, as it was before there were any."""
        trained = trial(space, digits)
        torch.manual_seed(3)
        network = space.build(space.from_string(SMALL), digits.input_shape, digits.num_classes)
        network = network.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True
        )
        steps = len(digits.train) // 64
        for epoch in range(2):
            trained.step()
            network.train()
            batches = digits.train.batches(64, CPU, derived_seed(3, epoch), augment=True)
            for step, (images, labels) in enumerate(batches, epoch * steps):
                optimizer.param_groups[0]["lr"] = cosine(0.1, 0.0, step / (2 * steps))
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images), labels).backward()
                nn.utils.clip_grad_norm_(network.parameters(), 5.0)
                optimizer.step()
        mine, theirs = trained.state_dict()[WEIGHTS], network.state_dict()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
        assert set(trained.state_dict()) == {
            "network", "validation_logits", "optimizer", "scaler", "epoch", "seconds",
        }  # fmt: skip
        trained.epochs += 1  # logits are not written with every epoch
        assert "validation_logits" not in trained.state_dict()


class TestEpochsOfSeconds:
    def test_large_and_small_networks_take_the_same_time(self, space, digits):
        taken, steps = [], []
        for arch in (SMALL, LARGE):
            built = space.build(space.from_string(arch), digits.input_shape, 10)
            step = Pace.parse(PACE).seconds(Work.of(built, digits.input_shape), 32)
            trained = trial(space, digits, arch, batch_size=32, epoch_seconds=0.5, pace=PACE)
            assert abs(trained.steps * step - 0.5) <= step / 2
            taken.append(trained.steps * step)
            steps.append(trained.steps)
        assert taken[0] == pytest.approx(taken[1], rel=0.05)
        assert steps[0] > 4 * steps[1]  # the small one sees more images

    @pytest.mark.parametrize("seconds", [1e-6, 0.02, 0.1])
    def test_an_epoch_makes_the_steps_that_fit(self, digits, space, seconds):
        trained = trial(space, digits, batch_size=32, epoch_seconds=seconds, pace=PACE)
        seen = []
        inner = trained.train_step
        trained.train_step = lambda images, labels: (
            seen.append(len(images)) or inner(images, labels)
        )
        trained.step()
        trained.step()
        assert seen == [32] * (2 * trained.steps)
        assert trained.steps == 1 or seconds > 1e-6

    def test_every_pass_shows_every_image_once_in_an_order_of_its_own(self):
        levels = np.arange(80, dtype=np.uint8) * 3
        images = np.broadcast_to(levels[:, None, None], (80, 8, 8)).copy()
        data = load((images, np.arange(80) % 2), crop=0)
        count = len(data.train)
        size = next(n for n in range(5, count) if count % n == 0)
        recipe = Train(batch_size=size, epoch_seconds=1.0, pace=PACE)
        trained = TrainingTrial(recipe, small()[:4], data.train, data.validation, 1, 0, CPU)
        seen = [
            tuple(images[:, 0, 0, 0].tolist())
            for images, _ in islice(trained.endless_batches(5), 3 * count // size)
        ]
        steps = count // size
        passes = {sum(seen[i : i + steps], ()) for i in range(0, len(seen), steps)}
        assert len(passes) == 3
        assert all(len(set(one)) == len(one) == count for one in passes)
        ((first, _),) = islice(trained.endless_batches(5), 1)
        assert tuple(first[:, 0, 0, 0].tolist()) == seen[0]

    def test_an_epoch_lasts_as_long_as_it_is_asked_to(self, digits, space):
        recipe = Train(epoch_seconds=0.5, pace=PACE)
        assert recipe.epoch_length == 0.5
        assert recipe.lasting(2.0) == Train(epoch_seconds=2.0, pace=PACE)
        assert Train().epoch_length is None
        assert Train().lasting(2.0) == Train()

    def test_drop_path_and_learning_rate_count_these_steps(self, space, digits):
        trained = trial(space, digits, epoch_seconds=0.05, pace=PACE, warmup=0.25)
        rates = []
        inner = trained.update.set_learning_rate
        trained.update.set_learning_rate = lambda rate: (rates.append(rate), inner(rate))
        trained.step()
        trained.step()
        total = 2 * trained.steps
        assert total > 8
        expected = [warmed_cosine(0.1, step / total, 0.25) for step in range(total)]
        assert rates == expected


class TestAveraging:
    def steps(self, digits, averaging=0.95):
        """A trial of one epoch, and its weights before the first and after every step."""
        recipe = Train(batch_size=32, averaging=averaging)
        trained = TrainingTrial(recipe, small(), digits.train, digits.validation, 1, 0, CPU)
        weights, inner = [copied(trained.network)], trained.train_step

        def step(*batch):
            loss = inner(*batch)
            weights.append(copied(trained.network))
            return loss

        trained.train_step = step
        return trained, weights

    def test_it_is_the_one_computed_by_hand(self, digits):
        trained, weights = self.steps(digits, averaging=0.4)
        trained.step()
        assert len(weights) > 8  # so that the decay reaches .4, after the seventh step
        average, *after = weights
        for step, now in enumerate(after):
            decay = min(0.4, (1 + step) / (10 + step))
            average = {
                key: decay * average[key] + (1 - decay) * now[key]
                if now[key].is_floating_point()
                else now[key]
                for key in now
            }
        kept = trained.state_dict()[WEIGHTS]
        for key, value in average.items():
            torch.testing.assert_close(kept[key], value)
        assert kept["1.num_batches_tracked"] == len(after)
        assert not torch.allclose(kept["4.weight"], after[-1]["4.weight"])

    def test_it_is_judged_and_kept_in_place_of_the_last_weights(self, digits):
        trained, weights = self.steps(digits)
        metrics = trained.step()
        other = small()
        other.load_state_dict(trained.state_dict()[WEIGHTS])
        loss, accuracy = evaluate(other, digits.validation, CPU)
        assert (metrics["val_loss"], metrics["val_accuracy"]) == (loss, accuracy)
        other.load_state_dict(weights[-1])
        assert metrics["val_loss"] != evaluate(other, digits.validation, CPU)[0]

    def test_training_does_not_depend_on_it(self, digits):
        trained, weights = self.steps(digits)
        trained.step()
        plain = TrainingTrial(
            Train(batch_size=32), small(), digits.train, digits.validation, 1, 0, CPU
        )
        plain.step()
        for key, value in plain.network.state_dict().items():
            assert torch.equal(value, weights[-1][key])


class TestMixup:
    def test_every_image_is_mixed_with_one_of_its_batch_and_so_is_its_label(self, digits):
        recipe = Train(mixup=0.5)
        trained = TrainingTrial(recipe, small(), digits.train, digits.validation, 1, 0, CPU)
        images, labels = next(iter(digits.train.batches(64, CPU, seed=1)))
        torch.manual_seed(5)
        mixed, targets = trained._mixed(images, labels, 0.5)
        assert torch.allclose(targets.sum(1), torch.ones(64))
        firsts = targets[torch.arange(64), labels]
        share = 1 - firsts.min()  # of the second image, where it is of another class
        assert 0 < share < 1
        for image, target, own, label in zip(mixed, targets, images, labels, strict=True):
            other = (image - (1 - share) * own) / share
            distances = (images - other).abs().amax((1, 2, 3))
            second = labels[distances.argmin()]
            assert distances.min() < 1e-3
            one_hot = torch.eye(10)
            expected = (1 - share) * one_hot[label] + share * one_hot[second]
            torch.testing.assert_close(target, expected)

    def test_shares_vary_and_images_are_judged_as_they_are(self, space, digits):
        trained = trial(space, digits, mixup=0.5)
        metrics = trained.step()
        assert metrics["val_loss"] == evaluate(trained.network, digits.validation, CPU)[0]
        images, labels = next(iter(digits.train.batches(64, CPU, seed=1)))
        firsts = {trained._mixed(images, labels, 0.5)[1][0, labels[0]].item() for _ in range(9)}
        assert len(firsts) > 4


class TestDecayWithoutNorms:
    def test_biases_scales_and_shifts_are_a_group_without_it(self):
        network = small()
        decayed, others = decay_groups(network, 0.1, norms=False)
        assert [p.shape for p in decayed["params"]] == [(4, 1, 3, 3), (10, 256)]
        assert [p.shape for p in others["params"]] == [(4,), (4,), (4,), (10,)]
        assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)

    def test_else_all_are_one_group_in_their_order(self):
        network = small()
        (group,) = decay_groups(network, 0.1)
        assert all(a is b for a, b in zip(group["params"], network.parameters(), strict=True))
        assert group["weight_decay"] == 0.1

    def test_no_group_is_empty(self):
        assert len(decay_groups(nn.Linear(2, 2, bias=False), 0.1, norms=False)) == 1
        assert len(decay_groups(nn.BatchNorm2d(2), 0.1, norms=False)) == 1

    @pytest.mark.parametrize("decay_norms", [None, True, False])
    def test_a_step_without_gradient_shrinks_what_is_decayed(self, digits, decay_norms):
        recipe = Train(weight_decay=0.5, momentum=0.0, decay_norms=decay_norms)
        network = small()
        nn.init.ones_(network[1].bias)
        trained = TrainingTrial(recipe, network, digits.train, digits.validation, 1, 0, CPU)
        trained.update([lambda: 0 * sum(p.sum() for p in trained.network.parameters())])
        factor = 1.0 if decay_norms is False else 1 - 0.1 * 0.5
        torch.testing.assert_close(network[1].bias, torch.full((4,), factor))
        torch.testing.assert_close(network[4].weight, small()[4].weight * (1 - 0.1 * 0.5))


class TestWarmup:
    def test_it_rises_linearly_and_falls_on_a_cosine(self):
        assert warmed_cosine(0.4, 0.0, 0.25) == 0.0
        assert warmed_cosine(0.4, 0.125, 0.25) == pytest.approx(0.2)
        assert warmed_cosine(0.4, 0.25, 0.25) == 0.4
        assert warmed_cosine(0.4, 0.625, 0.25) == pytest.approx(0.2)
        assert warmed_cosine(0.4, 1.0, 0.25) == pytest.approx(0.0)

    def test_none_is_the_cosine_to_the_last_bit(self):
        for progress in np.linspace(0, 1, 101):
            assert warmed_cosine(0.3, progress) == cosine(0.3, 0.0, progress)


class TestPrecision:
    def test_it_is_that_of_activations(self, digits):
        for precision, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
            network = small()
            seen = set()
            network[4].register_forward_hook(lambda _, __, out, seen=seen: seen.add(out.dtype))
            recipe = Train(precision=precision)
            trained = TrainingTrial(recipe, network, digits.train, digits.validation, 1, 0, CPU)
            seen.clear()  # counting the work is in float32
            assert math.isfinite(trained.step()["val_loss"])
            assert seen == {dtype}  # in training and when it is judged
            assert trained.validation_logits.dtype == torch.float32
            assert all(p.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch_seconds": 2.0}, "epoch_seconds=2.0 and pace=None go together: give both"),
        ({"pace": PACE}, f"epoch_seconds=None and pace={PACE} go together: give both"),
        ({"epoch_seconds": 2.0, "pace": "fast"}, "pace='fast': give seconds per"),
    ],
)
def test_seconds_without_a_pace_are_refused_before_anything_starts(space, digits, options, message):
    with pytest.raises(InvalidArgument, match=message):
        Train(**options).check(space, digits)


def test_seconds_with_a_pace_are_not(space, digits):
    Train(epoch_seconds=2.0, pace=PACE).check(space, digits)


@pytest.mark.parametrize(
    "option",
    [
        "mixup=0",
        "warmup=1",
        "warmup=-0.1",
        "averaging=0",
        "averaging=1",
        "epoch_seconds=0",
        "decay_norms=7",
    ],
)
def test_bad_values_are_named(option):
    name, value = option.split("=")
    with pytest.raises(InvalidArgument, match=f"{name}='{value}'"):
        construct("evaluate", f"train:{option}", EVALUATORS)


def test_an_unknown_precision_is_refused_with_those_that_there_are():
    with pytest.raises(InvalidArgument, match=r"'float16'.*'bfloat16' or 'float32'"):
        construct("evaluate", "train:precision=float16", EVALUATORS)


def test_all_are_spelled_in_a_text_that_gives_them_back():
    recipe = Train(
        warmup=0.1, decay_norms=False, averaging=0.99, precision="bfloat16", epoch_seconds=1.5,
        mixup=0.5, pace=PACE,
    )  # fmt: skip
    assert construct("evaluate", described(recipe, EVALUATORS), EVALUATORS) == recipe
