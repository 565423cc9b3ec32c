"""What every evaluator's trials must do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import search_spaces
from raynas.testing.suite import Suite
from search_spaces import SearchSpace
from trials.data import Data
from trials.data import load as load_data
from trials.trial import Evaluator, Trial


class TrialSuite(Suite):
    """Tests of an evaluator that makes trials; `part` is one."""

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        """What makes the trials."""
        evaluator: Evaluator = self.given()
        return evaluator

    @pytest.fixture
    def space(self) -> SearchSpace:
        """A space of small networks."""
        return search_spaces.get("nasbench201:channels=4,cells=1")

    @pytest.fixture
    def data(self) -> Data:
        """Few images."""
        return load_data("digits:fraction=0.3")

    def trial(self, evaluator: Evaluator, space: SearchSpace, data: Data, seed: int = 0) -> Trial:
        """Return a trial of three epochs."""
        arch = space.sample(np.random.default_rng(8))
        return evaluator.trial(space, arch, data, 3, seed, torch.device("cpu"))

    @staticmethod
    def comparable(metrics: dict[str, float]) -> dict[str, float]:
        """Return metrics without what a clock measured."""
        return {key: value for key, value in metrics.items() if not key.endswith("seconds")}

    def steps(self, trial: Trial) -> list[dict[str, float]]:
        """Return the comparable metrics of all epochs that are left."""
        return [self.comparable(trial.step()) for _ in range(trial.epochs - trial.epoch)]

    def test_metrics_are_plain_numbers(
        self, evaluator: Evaluator, space: SearchSpace, data: Data
    ) -> None:
        metrics = self.trial(evaluator, space, data).step()
        assert 0 <= metrics["val_accuracy"] <= 1
        assert json.loads(json.dumps(metrics)) == metrics

    def test_counts_epochs(self, evaluator: Evaluator, space: SearchSpace, data: Data) -> None:
        trial = self.trial(evaluator, space, data)
        assert (trial.epoch, trial.epochs) == (0, 3)
        trial.step()
        assert trial.epoch == 1

    def test_same_seed_same_metrics(
        self, evaluator: Evaluator, space: SearchSpace, data: Data
    ) -> None:
        first, again = (self.trial(evaluator, space, data, seed=4) for _ in range(2))
        expected = self.steps(first)
        torch.manual_seed(12345)  # what others do to the global generator must not matter
        assert self.steps(again) == expected

    def test_saved_and_loaded_it_goes_on_bit_for_bit(
        self, evaluator: Evaluator, space: SearchSpace, data: Data, tmp_path: Path
    ) -> None:
        whole = self.steps(self.trial(evaluator, space, data))
        begun = self.trial(evaluator, space, data)
        begun.step()
        torch.save(begun.state_dict(), tmp_path / "state.pt")
        resumed = self.trial(evaluator, space, data)
        resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert self.steps(resumed) == whole[1:]
