"""How long training steps take: what is counted, predicted and fitted."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import search_spaces
from raynas import InvalidArgument
from trials.pace import Pace, Work, step_seconds

WORKS = [
    Work(100_000, 4_000, 30),
    Work(2_000_000, 9_000, 8),
    Work(3_000_000, 90_000, 60),
    Work(40_000_000, 200_000, 12),
    Work(90_000_000, 1_500_000, 40),
]
seconds = st.floats(1e-4, 1.0)


@st.composite
def paces(draw):
    """Each coefficient counts: it makes .1 ms to 1 s of a step of the middle network."""
    work = WORKS[2]
    counts = (64 * work.macs, 64 * work.activations, work.layers)
    return Pace(*(draw(seconds) / count for count in counts))


def test_work_is_what_one_counts_by_hand():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 8 * 8, 10),
    )  # fmt: skip
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert Work.of(network, (1, 8, 8)) == Work(4 * 9 * 64 + 2560, 4 * 64 + 10, 2)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_layer_counts_as_often_as_it_is_used():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.layer(self.layer(x.flatten(1)))

    assert Work.of(Twice(), (1, 2, 4)) == Work(128, 16, 2)


def test_the_hooks_of_a_network_that_fails_are_gone():
    network = nn.Sequential(nn.Flatten(), nn.Linear(7, 2))
    with pytest.raises(RuntimeError):
        Work.of(network, (1, 2, 4))
    assert not any(module._forward_hooks for module in network.modules())


def test_macs_are_those_of_the_space():
    space = search_spaces.get("convnet")
    arch = space.from_string("c16-w2d1-w1.5d0-w1d2")
    work = Work.of(space.build(arch, (3, 16, 16), 10), (3, 16, 16))
    assert work.macs == space.counts(arch, (3, 16, 16), 10).macs
    assert work.layers == 1 + 3 + 2 * 3 + 1


def test_seconds_of_a_step_by_hand():
    pace = Pace(mac=1e-9, activation=1e-6, layer=1e-3)
    assert pace.seconds(Work(1000, 100, 10), 50) == pytest.approx(5e-5 + 5e-3 + 1e-2)


@settings(deadline=None)
@given(paces())
def test_text_is_read_as_it_is_written(pace):
    again = Pace.parse(str(pace))
    assert str(again) == str(pace)
    for work in WORKS:
        assert again.seconds(work, 64) == pytest.approx(pace.seconds(work, 64), rel=0.005)


@pytest.mark.parametrize(
    "text",
    ["", "1e-9", "1/2", "1/2/3/4", "a/b/c", "-1/1/1", "1/1/-1", "0/0/0", "nan/1/1", "1/inf/1"],
)
def test_what_is_no_pace_is_refused_with_an_example(text):
    with pytest.raises(InvalidArgument, match=r"like 1\.1e-11/5e-09/2e-05") as refused:
        Pace.parse(text)
    assert f"pace={text!r}" in str(refused.value)


@settings(deadline=None)
@given(paces(), st.integers(1, 512))
def test_a_fit_finds_the_coefficients_that_made_the_times(pace, batch_size):
    times = [pace.seconds(work, batch_size) for work in WORKS]
    fitted = Pace.fitted(WORKS, batch_size, times)
    predicted = [fitted.seconds(work, batch_size) for work in WORKS]
    np.testing.assert_allclose(predicted, times, rtol=1e-6)
    coefficients = [pace.mac, pace.activation, pace.layer]
    np.testing.assert_allclose(
        [fitted.mac, fitted.activation, fitted.layer], coefficients, rtol=1e-4
    )


@settings(deadline=None)
@given(st.lists(seconds, min_size=1, max_size=len(WORKS)))
def test_a_fit_is_never_negative_and_can_be_written(times):
    fitted = Pace.fitted(WORKS[: len(times)], 32, times)
    assert min(fitted.mac, fitted.activation, fitted.layer) >= 0
    assert Pace.parse(str(fitted)).seconds(WORKS[0], 32) > 0


def test_the_error_of_a_slow_network_counts_no_more_than_that_of_a_fast_one():
    """Both are off by a factor, in opposite directions: the fit errs by as much for each."""
    works = [Work(1_000, 0, 0), Work(1_000_000, 0, 0)]
    fitted = Pace.fitted(works, 1, [1.1e-3, 0.9])
    errors = [fitted.seconds(w, 1) / s for w, s in zip(works, [1.1e-3, 0.9], strict=True)]
    assert errors[0] < 1 < errors[1]
    assert fitted.activation == fitted.layer == 0


def test_a_step_is_measured_without_the_first_ones():
    calls = []

    def step():
        calls.append(len(calls))
        start = time.process_time()  # which another program does not use up
        while time.process_time() - start < (0.3 if len(calls) <= 2 else 0.02):
            pass

    measured = step_seconds(step, torch.device("cpu"))
    assert len(calls) == 5
    assert 0.01 < measured * torch.get_num_threads() < 0.15
