"""What every cheap evaluator must do."""

import json
import math

import numpy as np
import pytest
import torch
from ray import cloudpickle

import search_spaces
from raynas.testing.suite import Suite
from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.data import load as load_data
from trials.estimate import estimated
from trials.trial import Estimator

Metrics = dict[str, float]


class EstimatorSuite(Suite):
    """Tests of a cheap evaluator; `part` is one."""

    @pytest.fixture
    def estimator(self) -> Estimator:
        """What estimates."""
        estimator: Estimator = self.given()
        return estimator

    @pytest.fixture
    def space(self, estimator: Estimator) -> SearchSpace:
        """A space of small networks, as far as the evaluator knows it."""
        return estimator.restricted(search_spaces.get("nasbench201:channels=2,cells=1"))

    @pytest.fixture
    def data(self) -> Data:
        """Few images."""
        return load_data("digits:fraction=0.3")

    @pytest.fixture
    def archs(self, space: SearchSpace) -> list[Architecture]:
        """Some architectures, all different."""
        rng = np.random.default_rng(3)
        drawn = [space.sample(rng) for _ in range(40)]
        return list(dict.fromkeys(drawn))[:8]

    @staticmethod
    def of_all(
        estimator: Estimator, space: SearchSpace, data: Data, archs: list[Architecture],
        seed: int = 0,
    ) -> dict[Architecture, Metrics]:  # fmt: skip
        """Return what one that was opened anew says of these, in this order."""
        estimate = estimator.open(space, data, seed, torch.device("cpu"))
        return {arch: estimate(arch) for arch in archs}

    def test_metrics_are_plain_numbers(
        self, estimator: Estimator, space: SearchSpace, data: Data, archs: list[Architecture]
    ) -> None:
        estimator.check(space, data)
        for metrics in self.of_all(estimator, space, data, archs).values():
            assert math.isfinite(metrics[estimator.metric_name])
            assert json.loads(json.dumps(metrics)) == metrics

    def test_tells_architectures_apart(
        self, estimator: Estimator, space: SearchSpace, data: Data, archs: list[Architecture]
    ) -> None:
        told = self.of_all(estimator, space, data, archs).values()
        assert len({metrics[estimator.metric_name] for metrics in told}) > 1

    def test_same_seed_same_metrics(
        self, estimator: Estimator, space: SearchSpace, data: Data, archs: list[Architecture]
    ) -> None:
        """Whatever others do to the global generator."""
        expected = self.of_all(estimator, space, data, archs, seed=4)
        torch.manual_seed(12345)
        assert self.of_all(estimator, space, data, archs, seed=4) == expected

    def test_an_answer_does_not_depend_on_what_else_was_asked(
        self, estimator: Estimator, space: SearchSpace, data: Data, archs: list[Architecture]
    ) -> None:
        """Neither on the order, nor on who shares a batch, nor on how often."""
        expected = self.of_all(estimator, space, data, archs)
        assert self.of_all(estimator, space, data, [*archs[::-1], archs[3]]) == expected
        for arch in archs[:2]:
            assert self.of_all(estimator, space, data, [arch]) == {arch: expected[arch]}

    def test_a_failure_does_not_hurt_others(
        self, estimator: Estimator, space: SearchSpace, data: Data, archs: list[Architecture]
    ) -> None:
        expected = self.of_all(estimator, space, data, archs[:3])
        estimate = estimator.open(space, data, 0, torch.device("cpu"))
        unknown = Architecture("another space", (0,))
        for arch in archs[:3]:
            failed = estimated(estimate, unknown)
            assert (failed.metrics is None) == bool(failed.reason)
            assert estimate(arch) == expected[arch]

    def test_travels_to_workers(
        self, estimator: Estimator, space: SearchSpace, data: Data, archs: list[Architecture]
    ) -> None:
        expected = self.of_all(estimator, space, data, archs[:2])
        sent = cloudpickle.dumps((estimator, space))  # type: ignore[no-untyped-call]
        there: tuple[Estimator, SearchSpace] = cloudpickle.loads(sent)
        assert self.of_all(there[0], there[1], data, archs[:2]) == expected
