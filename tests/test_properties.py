"""Properties of architectures, by which they are grouped, limited or compared."""

import numpy as np
import pytest

import search_spaces
from search_spaces.errors import InvalidArgument, UnknownName
from search_spaces.properties import PROPERTIES, measure


def test_properties_of_the_published_darts_cell():
    space = search_spaces.get("darts")
    arch = space.genotype("DARTS_V2")
    measured = {of: measure(of, space)(arch) for of in PROPERTIES[:4]}
    assert measured == {
        "width": 3.5, "depth": 3.0, "reduction_width": 2.5, "reduction_depth": 3.0,
    }  # fmt: skip


@pytest.mark.parametrize("of", ["params", "macs"])
def test_counts_are_those_of_the_images(of):
    space = search_spaces.get("nasbench201:channels=4,cells=1")
    arch = space.sample(np.random.default_rng(0))
    expected = getattr(space, of)(arch, (1, 8, 8), 7)
    assert measure(of, space, (1, 8, 8), 7)(arch) == expected
    assert measure(of, space)(arch) != expected


def test_a_function_of_space_and_architecture():
    space = search_spaces.get("nasbench201")
    arch = space.from_string("|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|")
    count = measure(lambda space, arch: space.to_string(arch).count("nor_conv_3x3"), space)
    assert count(arch) == 2.0


def test_what_cannot_be_measured_is_said():
    with pytest.raises(UnknownName, match="Did you mean 'depth'"):
        measure("deph", search_spaces.get("darts"))
    with pytest.raises(InvalidArgument, match=r"natsbench_size have no cells as graphs, so no wid"):
        measure("width", search_spaces.get("natsbench_size"))
    with pytest.raises(InvalidArgument, match="only normal cells, so no reduction_depth"):
        measure("reduction_depth", search_spaces.get("nasbench201"))
