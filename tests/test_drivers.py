"""Drivers: the shared suite over every one that is registered."""

import pytest
from test_estimators import SMALL

from raynas.drivers import DRIVERS
from raynas.testing import DriverSuite
from trials import EVALUATORS

#: evaluations that wait in line behind those at work: the supernet's judges take turns
WAITING = {"supernet": 1}


class Registered(DriverSuite):
    @pytest.fixture(scope="class")
    def cluster(self, local_ray):
        return None


def classes():
    """One class for each driver, with the first evaluator that names it."""
    for name, driver in DRIVERS.items():
        evaluator = next(text for text, kind in EVALUATORS.items() if kind.driver == name)
        given = {
            "part": driver,
            "evaluator": SMALL.get(evaluator, evaluator),
            "waiting": WAITING.get(name, 0),
        }
        title = f"Test{type(driver).__name__}"
        yield title, type(title, (Registered,), given)


globals().update(classes())
