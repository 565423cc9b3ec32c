"""Drivers: the shared suite over every one that is registered, with every evaluator."""

import pytest
from test_estimators import SMALL

from raynas import Gradients
from raynas.drivers import DRIVERS
from raynas.testing import DriverSuite
from trials import EVALUATORS

#: evaluations that wait in line behind those at work: the supernet's judges take turns
WAITING = {"supernet": 1}


class Registered(DriverSuite):
    @pytest.fixture
    def cluster(self, local_ray):
        return None


def classes():
    for name, kind in EVALUATORS.items():
        given = {
            "part": DRIVERS[kind.driver](),
            "evaluator": SMALL.get(name, name),
            "waiting": WAITING.get(kind.driver, 0),
        }
        title = f"Test{kind.__name__}"
        yield title, type(title, (Registered,), given)


globals().update(classes())


def test_every_driver_is_among_them():
    """But that of searchers by gradients, which makes ready what others evaluate."""
    assert {kind.driver for kind in EVALUATORS.values()} | {Gradients.driver} == set(DRIVERS)
