"""What every pruning rule of SAEP must do."""

import copy
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from raynas.ensemble.rules import FEWEST, Rule
from raynas.testing.suite import Suite

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


class RuleSuite(Suite):
    """Tests of a pruning rule; `part` is the class."""

    members = 7

    @pytest.fixture
    def rule(self) -> type[Rule]:
        """The class of the rule."""
        rule: type[Rule] = self.given()
        return rule

    @pytest.fixture
    def predictions(self) -> tuple[Logits, Labels]:
        """Logits, `members x images x classes`, that are right more often than not; labels."""
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 4, 600)
        skills = np.linspace(0.5, 2.5, self.members)[:, None, None]
        noise = rng.normal(size=(self.members, 600, 4)) + rng.normal(size=(600, 4))
        return (skills * np.eye(4)[labels] + noise).astype(np.float32), labels

    def ready(self, rule: type[Rule], predictions: tuple[Logits, Labels], seed: int = 0) -> Rule:
        """Return the rule, ready for these members."""
        return rule(*predictions, np.random.default_rng(seed))

    def test_removes_every_member_once(
        self, rule: type[Rule], predictions: tuple[Logits, Labels]
    ) -> None:
        for seed in range(5):
            order = self.ready(rule, predictions, seed).removals()
            assert sorted(order) == list(range(self.members))

    def test_who_goes_is_one_of_those_asked_about(
        self, rule: type[Rule], predictions: tuple[Logits, Labels]
    ) -> None:
        ready, rng = self.ready(rule, predictions), np.random.default_rng(1)
        for _ in range(30):
            size = int(rng.integers(2, self.members + 1))
            among = sorted(rng.choice(self.members, size, replace=False).tolist())
            assert ready.goes(among) in among

    def test_keeps_some_of_those_asked_about(
        self, rule: type[Rule], predictions: tuple[Logits, Labels]
    ) -> None:
        """Two at least, each once, rising; of two or fewer all."""
        ready, rng = self.ready(rule, predictions), np.random.default_rng(2)
        for _ in range(30):
            size = int(rng.integers(1, self.members + 1))
            among = sorted(rng.choice(self.members, size, replace=False).tolist())
            asked = copy.copy(among)
            kept = ready.keep(among)
            assert among == asked
            assert set(kept) <= set(among)
            assert kept == sorted(set(kept))
            assert len(kept) >= min(FEWEST, size)

    def test_same_seed_same_order(
        self, rule: type[Rule], predictions: tuple[Logits, Labels]
    ) -> None:
        np.random.seed(1)  # what others do to the global generator must not matter
        first = self.ready(rule, predictions, 5).removals()
        np.random.seed(2)
        assert self.ready(rule, predictions, 5).removals() == first

    def test_without_draws_the_order_of_the_members_does_not_matter(
        self, rule: type[Rule], predictions: tuple[Logits, Labels]
    ) -> None:
        (logits, labels), rng = predictions, np.random.default_rng(0)
        before = rng.bit_generator.state
        order = rule(logits, labels, rng).removals()
        if rng.bit_generator.state != before:
            pytest.skip("the rule draws")
        for seed in range(5):
            shuffled = np.random.default_rng(seed).permutation(self.members)
            again = self.ready(rule, (logits[shuffled], labels)).removals()
            assert shuffled[again].tolist() == order

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("constant", [1, 7])
    def test_members_that_tell_one_class_are_no_trouble(
        self, rule: type[Rule], predictions: tuple[Logits, Labels], constant: int
    ) -> None:
        """Neither some nor all of them; nothing divides by an entropy of 0."""
        logits, labels = predictions
        logits[:constant] = [3, 0, 0, 0]
        ready = self.ready(rule, (logits, labels))
        assert sorted(ready.removals()) == list(range(self.members))
        assert len(ready.keep(range(self.members))) >= FEWEST
        for name, value in vars(ready).items():  # what it has computed on the way
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                assert np.isfinite(value).all(), name

    def test_equal_members_all_go_in_some_order(
        self, rule: type[Rule], predictions: tuple[Logits, Labels]
    ) -> None:
        logits, labels = predictions
        logits[:] = logits[0]
        assert sorted(self.ready(rule, (logits, labels)).removals()) == list(range(self.members))

    def test_leaves_the_predictions_as_they_were(
        self, rule: type[Rule], predictions: tuple[Logits, Labels]
    ) -> None:
        logits, labels = (array.copy() for array in predictions)
        ready = self.ready(rule, predictions)
        ready.removals()
        ready.keep(range(self.members))
        assert np.array_equal(predictions[0], logits)
        assert np.array_equal(predictions[1], labels)

    def test_takes_weights_of_the_members(
        self, rule: type[Rule], predictions: tuple[Logits, Labels]
    ) -> None:
        weights = [math.sqrt(member) for member in range(self.members)]
        ready = rule(*predictions, np.random.default_rng(0), weights=weights)
        assert sorted(ready.removals()) == list(range(self.members))
