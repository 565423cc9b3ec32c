"""Test suites: what every searcher, space, evaluator, ... must do, for parts of your own too.

    from raynas.testing import SearcherSuite, check

    class TestMine(SearcherSuite):   # in a file of tests
        part = MySearcher

    check(MySearcher)                # anywhere else

A suite is a class of tests for pytest. Everything here is imported when it is first asked for.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from search_spaces.naming import importer

if find_spec("pytest") is None or find_spec("hypothesis") is None:
    raise ImportError("raynas.testing needs more packages: pip install 'raynas[testing]'.")

import pytest

if TYPE_CHECKING:
    from raynas.testing.checking import check
    from raynas.testing.drivers import DriverSuite
    from raynas.testing.estimators import EstimatorSuite
    from raynas.testing.proxies import ProxySuite
    from raynas.testing.pruning import RuleSuite
    from raynas.testing.schedulers import SchedulerSuite
    from raynas.testing.searchers import SearcherSuite
    from raynas.testing.spaces import SpaceSuite
    from raynas.testing.supernets import SupernetSuite
    from raynas.testing.trials import TrialSuite

__all__ = [
    "DriverSuite",
    "EstimatorSuite",
    "ProxySuite",
    "RuleSuite",
    "SchedulerSuite",
    "SearcherSuite",
    "SpaceSuite",
    "SupernetSuite",
    "TrialSuite",
    "check",
]

_MODULES = {
    "DriverSuite": "raynas.testing.drivers",
    "EstimatorSuite": "raynas.testing.estimators",
    "ProxySuite": "raynas.testing.proxies",
    "RuleSuite": "raynas.testing.pruning",
    "SchedulerSuite": "raynas.testing.schedulers",
    "SearcherSuite": "raynas.testing.searchers",
    "SpaceSuite": "raynas.testing.spaces",
    "SupernetSuite": "raynas.testing.supernets",
    "TrialSuite": "raynas.testing.trials",
    "check": "raynas.testing.checking",
}

# Before they are imported, so that a failed test shows the values that it compared.
pytest.register_assert_rewrite(*_MODULES.values())

if not TYPE_CHECKING:  # with it, type checkers would take any name for one of this package
    __getattr__ = importer(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
