"""Trials: the shared suite, and what training must do."""

import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import search_spaces
from raynas import Evaluator, InvalidArgument, Train
from raynas.testing import TrialSuite
from search_spaces.naming import construct
from trials import EVALUATORS, Diverged
from trials.data import load
from trials.deployed import ImageClassifier
from trials.optimization import RunningLoss, TrainingStep, cosine
from trials.proxies.scoring import Scorer
from trials.training import TrainingTrial, evaluate
from trials.trial import Role, derived_seed, seed_for
from trials.weight_sharing.evaluator import WeightSharing

CPU = torch.device("cpu")
ARCH = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def space():
    return search_spaces.get("nasbench201:channels=4,cells=1")


class TestEvaluators(TrialSuite):
    @pytest.fixture(params=[n for n, kind in EVALUATORS.items() if issubclass(kind, Evaluator)])
    def evaluator(self, request):
        return EVALUATORS[request.param]()


def trial(space, data, recipe=None, epochs=4, seed=0):
    return (recipe or Train()).trial(space, space.from_string(ARCH), data, epochs, seed, CPU)


def test_learns_digits(space, digits):
    trained = trial(space, digits, epochs=5)
    first, *_, last = [trained.step() for _ in range(5)]
    assert last["val_accuracy"] > 0.85
    assert last["train_loss"] < first["train_loss"]
    assert last["val_accuracy"] == evaluate(trained.network, digits.validation, CPU)[1]


def test_learning_rate_falls_on_a_cosine_over_all_steps(space, digits):
    trained = trial(space, digits, Train(learning_rate=0.2, batch_size=128), epochs=2)
    seen = []
    inner = trained.update.optimizer.step
    trained.update.optimizer.step = lambda *a, **k: (
        seen.append(trained.update.optimizer.param_groups[0]["lr"]), inner(*a, **k),
    )[1]  # fmt: skip
    trained.step()
    trained.step()
    steps = len(seen)
    expected = 0.1 * (1 + np.cos(np.pi * np.arange(steps) / steps))
    np.testing.assert_allclose(seen, expected, rtol=1e-12)
    assert steps == 2 * (len(digits.train) // 128)


def test_one_step_is_sgd_with_nesterov_clipping_and_smoothing(digits):
    """Against PyTorch's own parts, put together by hand."""

    def linear():
        torch.manual_seed(0)
        return nn.Sequential(OrderedDict(flat=nn.Flatten(), linear=nn.Linear(64, 10)))

    recipe = Train(label_smoothing=0.1, gradient_clip=0.01, batch_size=32)
    trained = TrainingTrial(recipe, linear(), digits.train, digits.validation, 1, 0, CPU)
    images, labels = next(iter(digits.train.batches(32, CPU, seed=1)))
    other = linear()
    optimizer = torch.optim.SGD(
        other.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    for _ in range(2):
        trained.train_step(images, labels)
        optimizer.zero_grad()
        nn.functional.cross_entropy(other(images), labels, label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.01)
        optimizer.step()
    for mine, theirs in zip(trained.network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_divergence_is_caught_with_its_place(space, digits):
    wild = trial(space, digits, Train(learning_rate=1e12, gradient_clip=0.0), epochs=3)
    with pytest.raises(Diverged, match=r"loss is (nan|inf)"):
        [wild.step() for _ in range(3)]


def test_retraining_uses_validation_images_and_is_judged_on_the_test_part(space, digits):
    final = Train().retraining(space, space.from_string(ARCH), digits, 2, 0, CPU)
    assert len(final.train) == len(digits.train) + len(digits.validation)
    final.step()
    metrics = final.step()
    assert metrics["val_accuracy"] == evaluate(final.network, digits.test, CPU)[1]


def test_fewer_images_than_a_batch(space):
    rng = np.random.default_rng(0)
    tiny = load((rng.integers(0, 255, (40, 8, 8), dtype=np.uint8), np.arange(40) % 2))
    metrics = trial(space, tiny, Train(batch_size=4096), epochs=1).step()
    assert 0 <= metrics["val_accuracy"] <= 1


def test_counts_of_the_network_that_was_trained(space, digits):
    trained = trial(space, digits)
    metrics = trained.step()
    assert metrics["params"] == sum(p.numel() for p in trained.network.parameters())
    # stem, three stages with one 1x1 and two 3x3 convolutions (one edge is none), two residual
    # blocks, classifier, on 8x8 images with 4, 8 and 16 channels
    cells = sum(19 * c * c * hw for c, hw in ((4, 64), (8, 16), (16, 4)))
    blocks = sum((9 * c * c // 2 + 9 * c * c + c * c // 2) * hw for c, hw in ((8, 16), (16, 4)))
    assert metrics["macs"] == 9 * 4 * 64 + cells + blocks + 160


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:batch_size=0", "batch_size='0'"),
        ("train:learning_rate=-1", "learning_rate='-1'"),
        ("train:momentum=1", "momentum='1'"),
        ("train:drop_path=1", "drop_path='1'"),
        ("train:cutout=-1", "cutout='-1'"),
        ("train:auxiliary_weight=-1", "auxiliary_weight='-1'"),
        ("train:lerning_rate=1", "Did you mean 'learning_rate'"),
    ],
)
def test_bad_recipes(text, message):
    with pytest.raises(InvalidArgument, match=message):
        construct("evaluate", text, EVALUATORS)


def test_deployed_model_normalizes_by_itself(space, digits):
    trained = trial(space, digits, epochs=2)
    trained.step()
    model = ImageClassifier(trained.network, digits.mean, digits.std).eval()
    normalized, _ = next(iter(digits.test.batches(50, CPU)))
    raw = normalized * torch.tensor(digits.std).view(1, -1, 1, 1) + torch.tensor(digits.mean).view(
        1, -1, 1, 1
    )
    with torch.no_grad():
        torch.testing.assert_close(model(raw), trained.network(normalized), atol=1e-4, rtol=1e-4)


CELLS = "darts:channels=4,cells=3,auxiliary=true"
PAPER = Train(batch_size=32, drop_path=0.3, cutout=3)


class TestTrainAsThePapersRetrain(TrialSuite):
    """With auxiliary head, drop path and cutout."""

    @pytest.fixture
    def evaluator(self):
        return PAPER

    @pytest.fixture
    def space(self):
        return search_spaces.get(CELLS)


class TestAuxiliaryHead:
    def trial(self, digits, space=CELLS, **options):
        space = search_spaces.get(space)
        return Train(batch_size=32, **options).trial(
            space, space.genotype("DARTS_V2"), digits, 2, 0, CPU
        )

    @pytest.mark.parametrize(("weight", "smoothing"), [(None, 0.0), (1.5, 0.1)])
    def test_its_loss_is_added_with_its_weight(self, digits, weight, smoothing):
        trained = self.trial(digits, auxiliary_weight=weight, label_smoothing=smoothing)
        images, labels = next(iter(digits.train.batches(32, CPU)))
        loss = trained._loss(images, labels)
        main = trained.network(images)
        head = trained.network.auxiliary_logits
        assert not torch.allclose(main, head)
        expected = [
            nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
            for logits in (main, head)
        ]
        torch.testing.assert_close(loss, expected[0] + (weight or 0.4) * expected[1])

    def test_it_learns_only_by_its_weight(self, digits):
        for weight, learns in ((0.4, True), (0.0, False)):
            trained = self.trial(digits, auxiliary_weight=weight)
            images, labels = next(iter(digits.train.batches(32, CPU)))
            trained._loss(images, labels).backward()
            gradients = [p.grad.any().item() for p in trained.network.head.parameters()]
            assert all(gradients) == any(gradients) == learns

    def test_a_network_without_one_is_trained_as_before(self, digits):
        plain = CELLS.replace("auxiliary=true", "auxiliary=false")
        metrics = [
            self.trial(digits, plain, auxiliary_weight=weight).step() for weight in (0.4, 0.0)
        ]
        assert metrics[0]["train_loss"] == metrics[1]["train_loss"]
        assert metrics[0]["val_loss"] == metrics[1]["val_loss"]

    def test_its_logits_are_not_kept_after_an_epoch(self, digits):
        trained = self.trial(digits)
        trained.step()
        assert trained.network.auxiliary_logits is None


class Recording(nn.Module):
    """A linear classifier that writes down the drop path it is run with."""

    def __init__(self):
        super().__init__()
        self.drop_path = 0.0
        self.linear = nn.Linear(64, 10)
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(self.drop_path)
        return self.linear(x.flatten(1))


class TestDropPath:
    def test_it_rises_linearly_over_all_steps(self, digits):
        recipe, network = Train(batch_size=128, drop_path=0.2), Recording()
        trained = TrainingTrial(recipe, network, digits.train, digits.validation, 3, 0, CPU)
        for _ in range(3):
            trained.step()
        steps = 3 * (len(digits.train) // 128)
        np.testing.assert_allclose(network.seen, 0.2 * np.arange(steps) / steps, rtol=1e-12)

    def test_what_a_network_drops_by_itself_is_left_alone(self, digits):
        network = Recording()
        network.drop_path = 0.1
        TrainingTrial(Train(), network, digits.train, digits.validation, 1, 0, CPU).step()
        assert set(network.seen) == {0.1}

    def test_it_is_off_when_judged(self, digits):
        space = search_spaces.get(CELLS)
        trained = PAPER.trial(space, space.genotype("DARTS_V2"), digits, 2, 0, CPU)
        trained.step()
        metrics = trained.step()
        assert trained.network.drop_path > 0.1
        assert metrics["val_loss"] == evaluate(trained.network, digits.validation, CPU)[0]
        trained.network.drop_path = 0.0
        assert metrics["val_loss"] == evaluate(trained.network, digits.validation, CPU)[0]

    def test_a_space_without_it_is_refused_before_anything_starts(self, space, digits):
        recipe = Train(drop_path=0.2)
        with pytest.raises(InvalidArgument, match=r"drop_path=0.2: .* drop no paths"):
            recipe.check(space, digits)
        with pytest.raises(InvalidArgument, match=r"drop_path=0.2: .* drop no paths"):
            trial(space, digits, recipe)
        recipe.check(search_spaces.get(CELLS), digits)
        Train().check(space, digits)


class TestCutout:
    @pytest.fixture
    def photos(self):
        """Images without a pixel at the mean, so that a zero is one that was cut out."""
        pixels = np.where(np.arange(8) % 2, 250, 20)[None, None, :, None]
        images = np.broadcast_to(pixels, (64, 8, 8, 3)).astype(np.uint8)
        return load((images, np.arange(64) % 2), crop=0)

    def cut(self, part, seed):
        images, _ = next(iter(part.batches(len(part), CPU, seed=seed, augment=True)))
        return images == 0

    def test_a_square_of_each_image_is_zero(self, space, photos):
        train = trial(space, photos, Train(cutout=3)).train
        zero = self.cut(train, seed=1)
        assert len(train) == len(photos.train)
        rows, columns = zero.any(3).sum(2), zero.any(2).sum(2)  # images x channels
        assert torch.equal(zero.sum((2, 3)), rows * columns)  # a rectangle
        assert (rows == rows[:, :1]).all()  # the same in all channels
        assert set(rows.unique().tolist()) == set(columns.unique().tolist()) == {2, 3}
        assert (zero.sum((2, 3)) == 9).any()
        assert len({tuple(image.flatten().tolist()) for image in zero}) > 10  # places vary
        assert torch.equal(zero, self.cut(train, seed=1))
        assert not torch.equal(zero, self.cut(train, seed=2))

    def test_without_it_the_data_decide(self, space, photos):
        assert not self.cut(trial(space, photos).train, seed=1).any()
        cutting = load((photos.train.store.images, photos.train.store.labels), crop=0, cutout=2)
        assert self.cut(trial(space, cutting).train, seed=1).any()
        assert not self.cut(trial(space, cutting, Train(cutout=0)).train, seed=1).any()

    def test_one_that_is_larger_than_the_images_is_refused(self, space, digits):
        Train(cutout=8).check(space, digits)
        with pytest.raises(InvalidArgument, match="cutout=9 is larger than the images, 8x8"):
            Train(cutout=9).check(space, digits)
        with pytest.raises(InvalidArgument, match="cutout=9 is larger than the images, 8x8"):
            load("digits:cutout=9")


def test_no_two_roles_share_a_seed():
    seeds = [derived_seed(7)]  # the searcher's
    for index in range(4000):
        seeds += [derived_seed(7, index), derived_seed(7, index, 1)]  # evaluation, retraining
    for role in Role:
        seeds += [derived_seed(7, role), *(derived_seed(7, role, number) for number in range(50))]
    assert len(set(seeds)) == len(seeds)


def test_a_proxy_network_is_not_the_one_that_the_first_trial_trains(space, digits):
    """They had the same initial weights once."""
    built = []
    with pytest.MonkeyPatch.context() as patched:
        build = type(space).build
        patched.setattr(type(space), "build", lambda *args: built.append(build(*args)) or built[-1])
        Scorer(space, digits, "grad_norm", batch_size=8, seed=3).score(space.from_string(ARCH))
        trial(space, digits, seed=derived_seed(3, 0))
    scored, trained = (
        torch.cat([p.flatten() for p in n.parameters() if p.ndim == 4]) for n in built
    )
    assert len(scored) == len(trained)
    assert not (scored == trained).any()


class TestTrainingStep:
    """One step for weights, one for architecture parameters: neither touches the other's."""

    def parts(self, clip):
        torch.manual_seed(0)
        weights, mixture = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(5))
        step = TrainingStep(torch.optim.SGD([weights], lr=1.0), CPU, clip=clip)
        other = TrainingStep(torch.optim.Adam([mixture], lr=0.1), CPU)
        return weights, mixture, step, other, lambda: 100 * (weights * mixture).sum()

    def test_a_step_clips_and_moves_its_own_parameters_only(self):
        weights, mixture, step, other, loss = self.parts(clip=0.5)
        before, kept = weights.detach().clone(), mixture.detach().clone()
        step([loss])
        assert torch.equal(mixture, kept)
        # all of the norm that is allowed is the weights'; the mixture's gradient is in no sum
        assert (weights - before).norm().item() == pytest.approx(0.5, rel=1e-5)
        after = weights.detach().clone()
        other([loss])
        assert torch.equal(weights, after)
        assert not torch.equal(mixture, kept)

    def test_gradients_of_the_other_step_are_not_left_over(self):
        weights, _, step, other, loss = self.parts(clip=0.0)
        other([loss])  # leaves gradients in the weights
        before = weights.detach().clone()
        step([lambda: 3 * weights.sum()])
        torch.testing.assert_close(weights.detach(), before - 3)

    def test_losses_add_their_gradients_and_give_their_mean(self):
        weights, _, step, _, _ = self.parts(clip=0.0)
        before = weights.detach().clone()
        mean = step([lambda: 2 * weights.sum(), lambda: 4 * weights.sum()])
        assert mean.item() == pytest.approx(3 * before.sum().item())
        torch.testing.assert_close(weights.detach(), before - 6)

    def test_zeros_are_kept_for_parameters_that_go_on_moving(self):
        weights, idle = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weights, idle], lr=0.1, momentum=0.5)
        step = TrainingStep(optimizer, CPU, keep_zeros=True)
        step([lambda: (weights + idle).sum()])
        step([lambda: weights.sum()])
        assert idle.item() == pytest.approx(1 - 0.1 - 0.05)

    def test_a_loss_that_is_not_finite_is_told_with_its_place(self):
        loss = RunningLoss(CPU, "the loss", epoch=3)
        loss.add(torch.tensor(1.0))
        loss.add(torch.tensor(2.0))
        assert loss.mean() == 1.5
        loss.add(torch.tensor(float("inf")))
        with pytest.raises(Diverged, match="the loss is inf in epoch 3"):
            loss.mean()

    def test_cosine(self):
        assert cosine(0.2, 0.0, 0.0) == 0.2
        assert cosine(0.2, 0.1, 0.5) == pytest.approx(0.15)
        assert cosine(0.2, 0.1, 1.0) == cosine(0.2, 0.1, 7.0) == pytest.approx(0.1)


def test_what_a_user_writes_gets_a_seed_that_all_generators_take():
    class Own(Train):
        def trial(self, space, arch, data, epochs, seed, device):
            np.random.seed(seed)
            torch.manual_seed(seed)
            random.seed(seed)
            return seed

    seeds = [derived_seed(0, index) for index in range(20)]
    own = [seed_for(Own().trial, seed) for seed in seeds]
    assert [Own().trial(None, None, None, 1, seed, CPU) for seed in own] == own
    assert len(set(own)) == 20
    assert all(0 <= seed < 2**32 for seed in own)
    assert max(seeds) > 2**62
    for evaluator in (Train(), WeightSharing()):  # older runs go on by these
        assert [seed_for(evaluator.retraining, seed) for seed in seeds] == seeds
    assert [seed_for(Own().retraining, seed) for seed in seeds] == seeds
