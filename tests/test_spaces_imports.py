"""What importing spaces imports: nothing that takes long."""

import subprocess
import sys

import pytest

import search_spaces

SLOW = ("torch", "torchvision", "matplotlib", "networkx", "scipy", "pandas", "sklearn", "ray")


def loaded(statement):
    """The slow packages that a new process has after a statement."""
    code = f"import sys; {statement}; print([name for name in {SLOW} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import search_spaces; search_spaces.names()",
        "import search_spaces.naming, search_spaces.errors, search_spaces.notation",
        "from search_spaces import Architecture, Decision, SearchSpace, UserSpace",
        "import search_spaces.graph, search_spaces.neighbors, search_spaces.cells.genotypes",
        "from search_spaces.weight_sharing.space import WeightSharingSpace, sharing",
    ],
)
def test_names_and_contracts_need_no_slow_package(statement):
    assert loaded(statement) == "[]"


def test_a_wrong_name_is_answered_without_slow_packages():
    statement = """
import search_spaces
try:
    search_spaces.get("darst")
except search_spaces.errors.UnknownName as error:
    assert "Did you mean 'darts'?" in str(error)
"""
    assert loaded(f"exec({statement!r})") == "[]"


def test_everything_public_is_there():
    assert all(getattr(search_spaces, name) is not None for name in search_spaces.__all__)
    names: dict = {}
    exec("from search_spaces import *", names)
    assert set(search_spaces.__all__) <= names.keys()
    with pytest.raises(AttributeError, match="no attribute 'Searchspace'"):
        search_spaces.Searchspace  # noqa: B018


def test_a_table_is_a_mapping_that_imports_late():
    table = search_spaces.SPACES
    assert len(table) == len(list(table)) == 17
    assert "darts" in table
    assert 5 not in table
    assert table["darts"].name == "darts"
    with pytest.raises(KeyError):
        table["darst"]
