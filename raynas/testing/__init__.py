"""Test suites: what every searcher, space, evaluator, ... must do, for parts of your own too.

    from raynas.testing import SearcherSuite, check

    class TestMine(SearcherSuite):   # in a file of tests
        part = MySearcher

    check(MySearcher)                # anywhere else

A suite is a class of tests for pytest. Everything here is imported when it is first asked for.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

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
    "DriverSuite": "drivers",
    "EstimatorSuite": "estimators",
    "ProxySuite": "proxies",
    "RuleSuite": "pruning",
    "SchedulerSuite": "schedulers",
    "SearcherSuite": "searchers",
    "SpaceSuite": "spaces",
    "SupernetSuite": "supernets",
    "TrialSuite": "trials",
    "check": "checking",
}

# Before they are imported, so that a failed test shows the values that it compared.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES.values()))

if not TYPE_CHECKING:  # with it, type checkers would take any name for one of this package

    def __getattr__(name: str) -> Any:
        """Import what is in `__all__`, when it is first asked for."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"{__name__}.{_MODULES[name]}")
        value = globals()[name] = getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
