"""The studies behind the docs: how they summarize what they measure."""

import itertools

import numpy as np
import pandas as pd
import pytest

from benchmarks.weight_sharing import reliability, summary, truth

CHILDREN = ["".join(digits) for digits in itertools.product("1234", repeat=3)]
SETTINGS = ((1, "similarity"), (4, "similarity"), (64, "similarity"))


def rankings(noise, seeds=3):
    """Rankings of all children by true accuracies and noise, {groups: how much}.

    The noise is that of a supernet's weights: the same in all its rankings.
    """
    rng = np.random.default_rng(0)
    true = rng.normal(size=64)
    noisy = {
        (groups, seed): true + noise[groups] * rng.normal(size=64)
        for groups, _ in SETTINGS
        for seed in range(seeds)
    }
    return pd.DataFrame(
        [
            {
                "groups": groups, "grouping": grouping, "seed": seed, "group": i % groups,
                "kind": kind, "offset": offset, "architecture": child,
                "accuracy": noisy[groups, seed][i],
            }
            for groups, grouping in SETTINGS
            for seed in range(seeds)
            for i, child in enumerate(CHILDREN)
            for kind, offset in (("batch", 0), ("batch", 1), ("final", 0))
        ]
    )  # fmt: skip


class TestWeightSharing:
    def test_less_noise_is_a_higher_tau(self):
        rows = summary(rankings({1: 2.0, 4: 0.5, 64: 0.1})).set_index("groups")
        assert rows.loc[1, "tau_mean"] < rows.loc[4, "tau_mean"] < rows.loc[64, "tau_mean"]
        assert rows.loc[4, "tau_mean_low"] > 0
        assert rows["n"].tolist() == [3, 3, 3]

    def test_no_instance_of_the_truth_is_compared_with_itself(self):
        """Rankings of pure noise agree with nothing, those that make up the truth included."""
        frame = rankings({1: 1e6, 4: 1e6, 64: 1e6})
        assert summary(frame)["tau_mean"].abs().max() < 0.2  # with itself in the truth: .37
        assert abs(reliability(frame)) < 0.2

    def test_the_truth_is_the_mean_of_what_was_trained_alone(self):
        frame = rankings({1: 1.0, 4: 1.0, 64: 1.0})
        alone = frame[(frame["groups"] == 64) & (frame["kind"] == "final")]
        expected = alone.groupby("architecture")["accuracy"].mean()
        assert truth(frame).to_numpy() == pytest.approx(expected.loc[CHILDREN].to_numpy())
        assert truth(frame, without=0).to_numpy() != pytest.approx(truth(frame).to_numpy())

    def test_instances_that_are_not_whole_are_left_out(self):
        frame = rankings({1: 1.0, 4: 1.0, 64: 1.0})
        part = frame[(frame["groups"] != 4) | (frame["seed"] < 2) | (frame["group"] < 3)]
        rows = summary(part).set_index("groups")
        assert rows["n"].to_dict() == {1: 3, 4: 2, 64: 3}
