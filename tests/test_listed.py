"""A list of architectures in the place of a search."""

import pytest

import raynas
import search_spaces
from raynas.config.config import validated
from raynas.errors import InvalidArchitecture, InvalidArgument
from raynas.searchers import Listed
from raynas.testing import SearcherSuite

CELLS = (
    "|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
    "|skip_connect~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|",
    "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
)
SMALL = {"data": "digits", "epochs": 1, "scheduler": "fifo", "storage_path": "."}


class TestListed(SearcherSuite):
    most = len(CELLS) - 1  # two of them compute the same function
    draws = False

    @pytest.fixture
    def searcher(self):
        return lambda: Listed(CELLS)


def test_a_run_evaluates_the_list_and_nothing_else(tmp_path, monkeypatch, local_ray):
    monkeypatch.chdir(tmp_path)
    space = "nasbench201:channels=4,cells=1"
    result = raynas.run(space=space, architectures=list(CELLS), **SMALL)
    assert list(result.trials["architecture"]) == list(CELLS[:2])
    assert result.config["architectures"] == list(CELLS)
    assert raynas.resume(result.path).finished
    (tmp_path / "cells.txt").write_text("\n".join([*CELLS, ""]))
    again = raynas.run(space=space, architectures="cells.txt", **SMALL)
    assert again.path == result.path
    assert raynas.run(space=space, architectures=";".join(CELLS), **SMALL).path == result.path


def test_published_cells_outside_the_decisions_of_the_space(tmp_path, local_ray):
    names = ["DARTS_V2_CONN5", "DARTS_V2"]  # the first reads a node twice
    result = raynas.run(
        space="darts:channels=2,cells=2",
        architectures=names,
        **{**SMALL, "storage_path": tmp_path},
    )
    trials = result.trials
    assert trials["architecture"].iloc[0] == "DARTS_V2_CONN5"
    assert list(trials["status"]) == ["completed", "completed"]
    space = search_spaces.get("darts")
    assert space.from_string(trials["architecture"][1]) == space.genotype("DARTS_V2")


@pytest.mark.parametrize(
    ("architectures", "error", "message"),
    [
        ([], InvalidArgument, r"needs a list of architectures: run\(architectures="),
        (["|nor_conv_3x3~0|"], InvalidArchitecture, "nasbench201"),
        ("no-such-file.txt", InvalidArchitecture, "no-such-file.txt"),
        (3, InvalidArgument, "architectures=3"),
    ],
)
def test_bad_lists_are_refused_before_anything_starts(tmp_path, architectures, error, message):
    with pytest.raises(error, match=message):
        raynas.run(architectures=architectures, **{**SMALL, "storage_path": tmp_path})
    assert not list(tmp_path.iterdir())


def test_a_text_longer_than_a_file_name_may_be():
    space = search_spaces.get("darts")
    cells = [space.to_string(space.genotype(name)) for name in ("DARTS_V2", "SNAS")]
    text = ";".join(cells)
    assert len(text) > 255
    assert validated({"architectures": text}).architectures == cells


def test_listed_without_a_list():
    with pytest.raises(InvalidArgument, match="search='listed' needs a list"):
        raynas.run(search="listed", data="digits")
