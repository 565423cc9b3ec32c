"""Weight sharing: which children are trained when, what moves, and what is each child's own."""

import itertools
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import search_spaces
from raynas.errors import InvalidArchitecture, InvalidArgument
from search_spaces import UserSpace
from trials.data import load
from trials.weight_sharing import images as judged_images
from trials.weight_sharing.children import Children, Order
from trials.weight_sharing.evaluator import WeightSharing
from trials.weight_sharing.shared_weights import SharedWeights
from trials.weight_sharing.training import SupernetTraining

MICRO = search_spaces.get("micro64:channels=2,cells=2")
NB201 = search_spaces.get("nasbench201:channels=2,cells=1")
DARTS = search_spaces.get("darts:channels=2,cells=3")
SMALL = WeightSharing(epochs=1, sampling="cycle", probes=0)
#: section 3.5 D of the study: groups of 4 of its random partition
RANDOM_16 = """113 123 323 341; 212 213 222 342; 143 144 344 424; 211 231 413 443;
111 122 223 432; 121 332 343 421; 221 232 423 444; 234 412 414 433; 133 141 214 314;
131 134 233 324; 112 313 422 434; 243 312 322 334; 114 124 244 442; 132 142 331 333;
242 321 411 441; 224 241 311 431"""


@pytest.fixture(scope="module")
def data():
    return load("digits:fraction=0.3")


def training(data, recipe=SMALL, space=MICRO, group=0, seed=0):
    children = Children(space, recipe.groups, recipe.grouping, recipe.canonical)
    return SupernetTraining(recipe, children, group, data, seed, torch.device("cpu"))


def batch(data, seed=0):
    return next(data.train.batches(32, seed=seed))


def values(supernet):
    return {name: tensor.clone() for name, tensor in supernet.state_dict().items()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


class TestOrder:
    @pytest.mark.parametrize("sampling", ["cycle", "shuffled", "reshuffled"])
    def test_every_child_is_trained_once_in_a_cycle(self, sampling):
        order = Order(Children(MICRO), 0, sampling, seed=1)
        steps = [path for epoch in range(3) for (path,) in order.epoch(epoch, 64)]
        cycles = [steps[i : i + 64] for i in range(0, 192, 64)]
        assert all(set(cycle) == set(MICRO) for cycle in cycles)
        assert (cycles[0] == list(MICRO)) == (sampling == "cycle")
        assert (cycles[0] == cycles[1]) == (sampling != "reshuffled")

    def test_cycles_go_on_over_epochs_of_any_length(self):
        order = Order(Children(MICRO), 0, "reshuffled", seed=1)
        whole = [path for (path,) in order.epoch(0, 128)]
        assert [path for e in range(4) for (path,) in order.epoch(e, 32)] == whole

    @pytest.mark.parametrize("name", ["nasbench201", "nasbench_macro", "micro64", "darts"])
    def test_a_fair_round_trains_every_choice(self, name):
        space = search_spaces.get(name)
        length = max(len(d.choices) for d in space.decisions)
        rounds = list(Order(Children(space), 0, "fair", seed=2).epoch(0, 7))
        assert {len(paths) for paths in rounds} == {length}
        dealt = [path.choices for paths in rounds for path in paths]
        for i, decision in enumerate(space.decisions):
            size = len(decision.choices)
            for start in range(0, len(dealt), size):  # strictly fair where sizes are equal
                some = [choices[i] for choices in dealt[start : start + size]]
                assert len(set(some)) == len(some)

    def test_uniform_draws_come_from_the_group_and_repeat_with_the_seed(self):
        for space in (MICRO, search_spaces.get("darts")):
            children = Children(space, groups=4)
            order = Order(children, 2, "uniform", seed=3)
            drawn = [path for (path,) in order.epoch(1, 20)]
            assert {children.group_of(path) for path in drawn} == {2}
            assert drawn == [path for (path,) in Order(children, 2, "uniform", 3).epoch(1, 20)]

    def test_what_the_children_do_not_allow_is_refused(self):
        large = Children(search_spaces.get("darts"))
        with pytest.raises(InvalidArgument, match=r"sampling='cycle'.*darts"):
            Order(large, 0, "cycle", 0)
        with pytest.raises(InvalidArgument, match=r"sampling='fair'.*groups=1"):
            Order(Children(MICRO, groups=2), 0, "fair", 0)


class TestGroups:
    def names(self, children):
        return [
            " ".join(map(MICRO.to_string, children.members(group)))
            for group in range(len(children))
        ]

    def test_similar_children_are_slices(self):
        names = self.names(Children(MICRO, 8))
        assert names[0] == "111 112 113 114 121 122 123 124"
        assert names[1].startswith("131 ")
        assert names[2].startswith("211 ")
        assert {len(name.split()) for name in names} == {8}

    def test_the_random_partition_is_the_published_one(self):
        assert self.names(Children(MICRO, 16, "random")) == RANDOM_16.replace("\n", " ").split("; ")

    def test_a_function_groups_by_its_key(self):
        children = Children(MICRO, grouping=lambda arch: arch.choices[2])
        assert len(children) == 4
        assert {len(children.members(group)) for group in range(4)} == {16}
        assert len({children.group_of(arch) for arch in children.members(1)}) == 1

    def test_large_spaces_are_sliced_by_their_leading_decisions(self):
        space = search_spaces.get("darts")
        children = Children(space, groups=7)  # the first operation has 7 choices
        archs = [space.sample(np.random.default_rng(seed)) for seed in range(60)]
        assert all(children.group_of(arch) == arch.choices[1] for arch in archs)
        scattered = Children(space, groups=7, grouping="random")
        assert len({scattered.group_of(arch) for arch in archs}) == 7

    def test_classes_of_equal_cells_are_one_child(self):
        children = Children(NB201, canonical=True)
        assert len(children.listed) == 6466
        arch = NB201.from_string(
            "|skip_connect~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|"
        )
        assert children.form(arch) == NB201.canonical(arch) in children.listed

    def test_impossible_groups_are_refused(self):
        with pytest.raises(InvalidArgument, match="groups=65"):
            Children(MICRO, 65)
        with pytest.raises(InvalidArgument, match=r"canonical=true.*200,000"):
            Children(search_spaces.get("darts"), canonical=True)
        part = UserSpace("part", {n: range(100) for n in "abc"}, lambda *_: None,
                         valid=lambda config: config["a"] < 20)  # fmt: skip
        with pytest.raises(InvalidArgument, match="groups=4: found no architecture of part"):
            Children(part, 4).draw(2, np.random.default_rng(0))
        with pytest.raises(InvalidArgument, match="grouping by a function"):
            Children(search_spaces.get("darts"), grouping=lambda arch: 0)


class TestStep:
    def test_only_the_weights_of_the_path_move(self, data):
        one = training(data)
        first, second = MICRO.from_string("222"), MICRO.from_string("333")
        one.step(*batch(data), [first])  # gives its weights momentum
        before = values(one.supernet)
        one.step(*batch(data), [second])
        changed = moved(before, values(one.supernet))
        other = {name for name in before if "_1." in name and "operations" in name}
        assert other  # the modules of choice 1, which the second path does not use
        assert changed
        assert not changed & other

    def test_zero_gradients_move_them_by_momentum_and_weight_decay(self, data):
        recipe = replace(SMALL, unused="zero_gradient", gradient_clip=0, weight_decay=0.01)
        one = training(data, recipe)
        first, second = MICRO.from_string("222"), MICRO.from_string("333")
        one.step(*batch(data), [first])
        parameters = {
            name: p for name, p in one.supernet.named_parameters()
            if "_1." in name and one.step.update.optimizer.state.get(p)
        }  # fmt: skip
        buffers = {
            n: one.step.update.optimizer.state[p]["momentum_buffer"].clone()
            for n, p in parameters.items()
        }
        before = {name: p.detach().clone() for name, p in parameters.items()}
        one.step(*batch(data), [second])
        assert len(parameters) > 5
        for name, p in parameters.items():
            rate = one.recipe.learning_rate
            expected = before[name] - rate * (0.9 * buffers[name] + 0.01 * before[name])
            torch.testing.assert_close(p.detach(), expected)

    def test_a_fair_round_is_one_update_by_all_its_gradients(self, data):
        recipe = replace(SMALL, momentum=0, weight_decay=0, gradient_clip=0)
        paths = [MICRO.from_string(text) for text in ("234", "341")]
        together, apart = training(data, recipe), training(data, recipe)
        before = values(together.supernet)
        together.step(*batch(data), paths)
        apart.step(*batch(data), paths[:1])
        one = values(apart.supernet)
        apart.supernet.load_state_dict(before)
        apart.step(*batch(data), paths[1:])
        other = values(apart.supernet)
        for name, p in together.supernet.named_parameters():
            expected = one[name] + other[name] - before[name]
            torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-5)


class TestPrefix:
    recipe = replace(SMALL, prefix=1, sampling="cycle")

    def test_shared_tensors_are_the_same_for_all_children_and_the_others_differ(self, data):
        one = training(data, self.recipe)
        own = {id(t) for t in one.private.parameters}
        shared = [name for name, p in one.supernet.named_parameters() if id(p) not in own]
        private = [name for name, p in one.supernet.named_parameters() if id(p) in own]
        for text in ("222", "333", "222", "333"):
            one.step(*batch(data), [MICRO.from_string(text)])
        weights = {}
        for text in ("222", "333"):
            with one.private.of(MICRO.from_string(text)):
                weights[text] = values(one.supernet)
        differ = {
            n for n in weights["222"] if not torch.equal(weights["222"][n], weights["333"][n])
        }
        assert not differ & set(shared)
        assert differ & set(private)
        assert any("linear" in name for name in differ)

    def test_what_is_a_childs_own_does_not_depend_on_others(self, data):
        recipe = replace(self.recipe, prefix=0, learning_rate=1e-9, final_learning_rate=0)
        alone, beside = training(data, recipe), training(data, recipe)
        mine, other = MICRO.from_string("222"), MICRO.from_string("223")
        for i in range(3):
            alone.step(*batch(data, i), [mine])
            beside.step(*batch(data, i), [mine])
            beside.step(*batch(data, 9), [other])
        for a, b in ((alone.private.kept, beside.private.kept),
                     (alone.private.momenta, beside.private.momenta)):  # fmt: skip
            assert a[mine].keys() == b[mine].keys()
            for i in a[mine]:
                torch.testing.assert_close(a[mine][i], b[mine][i], rtol=1e-3, atol=1e-4)

    def test_a_whole_training_with_a_prefix(self, data):
        weights = SharedWeights(replace(self.recipe, epochs=2), MICRO, data)
        weights.train()
        archs = list(MICRO)[:5]
        first = weights.evaluate(archs)
        assert weights.evaluate(archs) == first  # judging changes nothing
        assert weights.evaluate(archs[::-1]) == first[::-1]


class TestTraining:
    recipe = replace(SMALL, epochs=2, sampling="reshuffled", probes=8, ranked_epochs=1)

    @pytest.mark.parametrize("options", [{}, {"prefix": 1}, {"statistics": "recomputed"},
                                         {"unused": "zero_gradient"}])  # fmt: skip
    def test_saved_and_loaded_it_goes_on_bit_for_bit(self, data, tmp_path, options):
        recipe = replace(self.recipe, **options)
        whole, first = training(data, recipe), training(data, recipe)
        for _ in range(2):
            whole.train_epoch()
        first.train_epoch()
        torch.save(first.state_dict(), tmp_path / "state.pt")
        second = training(data, recipe, seed=0)
        second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        second.train_epoch()
        assert second.rankings == whole.rankings
        assert [m["train_loss"] for m in second.history] == [m["train_loss"] for m in whole.history]
        archs = list(MICRO)[:4]
        assert second.evaluate(archs) == whole.evaluate(archs)

    def test_one_group_is_full_sharing_and_64_are_children_alone(self, data):
        recipe = replace(SMALL, groups=64)
        children = Children(MICRO, 64)
        assert [children.members(group) for group in range(64)] == [[arch] for arch in MICRO]
        one = training(data, recipe, group=5)
        paths = list(one.order.epoch(0, one.steps))
        assert paths == [[list(MICRO)[5]]] * one.steps
        assert Children(MICRO, 1).members(0) == list(MICRO)

    def test_probes_are_ranked_towards_the_end(self, data):
        recipe = replace(self.recipe, epochs=3, ranked_epochs=2, ranked_batches=3, groups=2)
        weights = SharedWeights(recipe, MICRO, data)
        weights.train()
        found = Counter((kind, offset) for kind, offset, *_ in weights.rankings)
        assert found == dict.fromkeys(
            [("final", 0), ("epoch", 0), ("epoch", 1), *(("batch", i) for i in range(3))], 8
        )
        assert all(0 <= accuracy <= 1 for *_, accuracy in weights.rankings)

    @pytest.mark.parametrize("ranked_images", [None, 40])
    def test_the_same_weights_rank_alike_whatever_the_kind(self, ranked_images):
        data = load("digits", validation_fraction=0.4)
        recipe = replace(SMALL, probes=8, ranked_epochs=1, ranked_batches=1,
                         ranked_images=ranked_images)  # fmt: skip
        one = training(data, recipe)
        one.train_epoch()
        kinds = {
            kind: [row[2:] for row in one.rankings if row[:2] == (kind, 0)]
            for kind in ("batch", "epoch", "final")
        }
        assert kinds["batch"] == kinds["epoch"] == kinds["final"]
        images = ranked_images or len(data.validation)
        assert images != 512
        right = [accuracy * images for _, accuracy in kinds["final"]]
        assert right == pytest.approx([round(number) for number in right])

    def test_fine_tuning_helps_a_child_and_leaves_the_supernet_alone(self, data):
        one = training(data, replace(SMALL, epochs=3, learning_rate=0.1), NB201)
        one.order = Order(one.children, 0, "uniform", 0)
        for _ in range(3):
            one.train_epoch()
        arch = NB201.from_string(
            "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|"
            "nor_conv_3x3~2|"
        )
        before, momenta = values(one.supernet), pickle.dumps(one.step.update.optimizer.state_dict())
        (shared_loss, _), *_ = one.evaluate([arch])
        one.epoch = 1  # where the learning rate is not small yet
        losses = [loss for loss, _ in one.fine_tuned(arch, 40, every=20)]
        assert len(losses) == 2
        assert losses[-1] < shared_loss
        assert not moved(before, values(one.supernet))
        assert pickle.dumps(one.step.update.optimizer.state_dict()) == momenta

    def test_a_child_is_better_right_after_its_own_step(self, data):
        one = training(data, replace(SMALL, statistics="running", learning_rate=0.05))
        steps = itertools.islice(itertools.cycle(MICRO), 128 + 64)
        after, later = [], []
        archs = list(MICRO)
        one.supernet.train()
        for i, arch in enumerate(steps):
            one.supernet.train()
            one.step(*batch(data, i), [arch])
            if i >= 128 and i % 4 == 0:
                old = archs[(i - 32) % 64]
                now, then = one.judge.evaluate([arch, old], one.judge.ranked_images)
                after.append(now[0])
                later.append(then[0])
        assert np.mean(after) < np.mean(later)  # losses


class TestEvaluate:
    def test_a_trained_supernet_tells_good_children_from_bad_ones(self, data):
        recipe = WeightSharing(epochs=12, learning_rate=0.1, batch_size=16, probes=0)
        estimate = recipe.open(NB201, load("digits"), 0, torch.device("cpu"))
        dead = NB201.from_string("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
        skips = NB201.from_string(
            "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|nor_conv_3x3~0|skip_connect~1|"
            "skip_connect~2|"
        )
        nothing, something = estimate(dead), estimate(skips)
        assert nothing["val_accuracy"] < 0.2
        assert something["val_accuracy"] > 0.35
        assert something["params"] == NB201.params(skips, (1, 8, 8), 10)

    @pytest.mark.parametrize(
        "options",
        [{"statistics": "recomputed"}, {"canonical": True, "sampling": "uniform"},
         {"fine_tuning": 2}, {"groups": 3, "grouping": "random"}],
    )  # fmt: skip
    def test_answers_do_not_depend_on_who_else_is_asked_about(self, data, options):
        weights = SharedWeights(replace(SMALL, **options), NB201, data)
        weights.train()
        archs = [NB201.sample(np.random.default_rng(i)) for i in range(6)]
        together = weights.evaluate(archs)
        for arch, expected in zip(archs, together, strict=True):
            (alone,) = weights.evaluate([arch])
            assert alone.keys() == expected.keys()
            assert alone["val_accuracy"] == pytest.approx(expected["val_accuracy"], abs=1e-6)

    def test_large_validation_parts_are_read_anew_each_time(self, data, monkeypatch):
        weights = SharedWeights(SMALL, MICRO, data)
        weights.train()
        archs = list(MICRO)[:3]
        kept = weights.evaluate(archs)
        monkeypatch.setattr(judged_images, "_KEPT", 0)
        again = SharedWeights(SMALL, MICRO, data)
        again.trainings[0].load_state_dict(weights.trainings[0].state_dict())
        assert again.evaluate(archs) == again.evaluate(archs) == kept

    def test_bad_questions(self, data):
        weights = SharedWeights(SMALL, MICRO, data)
        with pytest.raises(InvalidArgument, match="architectures: none are given"):
            weights.evaluate([])
        with pytest.raises(InvalidArchitecture, match="nasbench201"):
            weights.evaluate([next(iter(NB201))])

    def test_few_validation_images_are_enough(self):
        images = np.random.default_rng(0).random((44, 8, 8, 1), np.float32)
        few = load((images, np.arange(44) % 2), validation_fraction=0.06)
        assert len(few.validation) < 8
        weights = SharedWeights(SMALL, MICRO, few)
        weights.train()
        assert 0 <= weights.evaluate([next(iter(MICRO))])[0]["val_accuracy"] <= 1

    @pytest.mark.parametrize(
        ("space", "options", "message"),
        [
            (MICRO, {"prefix": 3}, "prefix=3: micro64 has 2 layers"),
            (DARTS, {"prefix": 1}, "prefix=1 keeps weights for every child"),
            (MICRO, {"prefix": 1, "sampling": "fair"}, "prefix: goes with one path"),
            (DARTS, {"sampling": "cycle"}, "sampling='cycle'"),
            (search_spaces.get("resnet"), {}, "space='resnet' has no supernet"),
            (UserSpace("mine", {"a": (1, 2)}, lambda *_: None), {}, "space='mine' has no supernet"),
            (MICRO, {"groups": 100}, "groups=100: micro64 has only 64 children"),
        ],
    )
    def test_what_cannot_be_done_is_refused_before_anything_is_trained(
        self, data, space, options, message
    ):
        recipe = replace(WeightSharing(), **options)
        with pytest.raises(InvalidArgument, match=message):
            recipe.check(space, data)
