"""The mobile space: its blocks against torchvision's, resolutions, sizes worked out by hand."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig

import search_spaces
from search_spaces.counting import Counts, count_macs, count_params
from search_spaces.errors import InvalidArchitecture, InvalidArgument
from search_spaces.modules import MobileBlock

SPACE = search_spaces.get("mobile")
TEXT = "d1w16k3e3s0-d2w32k5e4s1-d1w64k7e6s0-d1w96k3e3s0-d1w128k3e3s0"


def resolutions(shape):
    """The height x width behind the stem and behind each block of one block a stage."""
    space = search_spaces.get("mobile:width_multiplier=0.125")
    network = space.build(next(iter(space)), shape, 2).eval()
    sizes = []
    x = torch.rand(1, *shape)
    for layer in list(network)[:-2]:
        x = layer(x)
        sizes.append((x.shape[2], x.shape[3]))
    return sizes


@pytest.mark.parametrize(
    ("size", "expected"),
    [  # stem, stages 1 to 5
        (5, [5, 5, 5, 5, 5, 5]),
        (8, [8, 8, 8, 8, 8, 4]),
        (28, [28, 28, 14, 7, 7, 4]),
        (32, [32, 32, 16, 8, 8, 4]),
        (64, [64, 32, 16, 8, 8, 4]),
        (96, [96, 48, 24, 12, 12, 6]),
        (100, [50, 25, 13, 7, 7, 4]),
        (224, [112, 56, 28, 14, 14, 7]),
    ],
)
def test_the_resolution_follows_from_the_images(size, expected):
    assert resolutions((3, size, size)) == [(length, length) for length in expected]


def test_the_shorter_side_decides():
    heights, widths = zip(*resolutions((1, 32, 200)), strict=True)
    assert heights == (32, 32, 16, 8, 8, 4)
    assert widths == (200, 200, 100, 50, 50, 25)
    assert resolutions((1, 200, 32)) == list(zip(widths, heights, strict=True))


@pytest.mark.parametrize("shape", [(3, 224, 224), (4, 64, 96), (1, 100, 33), (2, 3, 2), (1, 1, 1)])
def test_counts_at_every_resolution(shape):
    space = search_spaces.get("mobile:width_multiplier=0.125")
    rng = np.random.default_rng(0)
    for arch in (space.sample(rng) for _ in range(3)):
        network = space.build(arch, shape, 3)
        assert network.eval()(torch.rand(2, *shape)).shape == (2, 3)
        expected = Counts(count_params(network), count_macs(network, shape))
        assert space.counts(arch, shape, 3) == expected


def test_counts_worked_out_by_hand():
    """One 32 x 32 image; 3 halvings, in stages 2, 3 and 5."""

    def block(i, o, kernel, expansion, before, after, squeeze=False):
        h = i * expansion
        weights = h * i, h * kernel * kernel, o * h
        params = sum(weights) + 2 * (h + h + o)
        macs = weights[0] * before + (weights[1] + weights[2]) * after
        if squeeze:
            params, macs = params + 2 * h * (h // 4) + h // 4 + h, macs + 2 * h * (h // 4)
        return np.array([params, macs])

    expected = np.array([3 * 9 * 16 + 2 * 16, 3 * 9 * 16 * 1024])
    expected += block(16, 16, 3, 3, 1024, 1024)
    expected += block(16, 32, 5, 4, 1024, 256, squeeze=True)
    expected += block(32, 32, 5, 4, 256, 256, squeeze=True)
    expected += block(32, 64, 7, 6, 256, 64)
    expected += block(64, 96, 3, 3, 64, 64)
    expected += block(96, 128, 3, 3, 64, 16)
    expected += [128 * 960 + 2 * 960 + 960 * 10 + 10, 128 * 960 * 16 + 960 * 10]
    assert SPACE.counts(SPACE.from_string(TEXT)) == Counts(*expected.tolist())


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize(("out_channels", "stride"), [(16, 1), (24, 1), (16, 2)])
def test_a_block_is_that_of_mobilenetv3(squeeze, out_channels, stride):
    """With ReLU6 in place of ReLU: the same up to activations of 6, which are not reached."""
    config = InvertedResidualConfig(16, 5, 64, out_channels, squeeze, "RE", stride, 1, 1.0)
    theirs = InvertedResidual(config, partial(nn.BatchNorm2d, eps=1e-5)).eval()
    ours = MobileBlock(16, out_channels, 5, 4, stride, squeezed=16 if squeeze else 0).eval()
    state = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict(dict(state))
    x = torch.randn(2, 16, 9, 8)
    torch.testing.assert_close(ours(x), theirs(x))


def test_blocks_without_squeeze_have_the_names_of_weights_of_earlier_checkpoints():
    names = [name for name, _ in MobileBlock(2, 2, 3, 3, 1).named_parameters()]
    assert names == [
        "layers.0.weight", "layers.1.weight", "layers.1.bias",
        "layers.3.weight", "layers.4.weight", "layers.4.bias",
        "layers.6.weight", "layers.7.weight", "layers.7.bias",
    ]  # fmt: skip


def test_notation():
    arch = SPACE.from_string(TEXT)
    assert SPACE.to_string(arch) == TEXT
    config = SPACE.to_config(arch)
    assert config["depth_2"] == 2
    assert config["kernel_3"] == 7
    assert config["squeeze_2"] == 1
    narrow = search_spaces.get("mobile:width_multiplier=0.5")
    assert narrow.from_string(TEXT) == arch  # widths are those before the multiplier
    with pytest.raises(InvalidArchitecture, match="at position 15, wanted one of 32, 40, 48"):
        SPACE.from_string(TEXT.replace("w32", "w24"))


def test_the_multiplier_keeps_widths_apart():
    for multiplier in (0.125, 0.3, 1.4):
        space = search_spaces.get("mobile", width_multiplier=multiplier)
        first = next(iter(space))
        for stage in range(5):
            wider = [space.replaced(first, 5 * stage + 1, width) for width in range(3)]
            assert len({space.params(arch) for arch in wider}) == 3
    for wrong in (0.1, 0, -1, "nan", "inf", "wide"):
        with pytest.raises(InvalidArgument, match="width_multiplier"):
            search_spaces.get("mobile", width_multiplier=wrong)


def test_a_stage_is_drawn_as_one_box():
    text = SPACE.to_graphviz(SPACE.from_string(TEXT))
    for stage, written in enumerate(TEXT.split("-"), 1):
        assert f'"stage {stage}: {written}"' in text
    assert text.count("->") == 6
