"""Cheap evaluators: the shared suite."""

from pathlib import Path

import pytest

import trials.tables
from raynas import Estimator
from raynas.testing import EstimatorSuite
from search_spaces.naming import construct
from trials import EVALUATORS

#: small ones; others run as they are
SMALL = {
    "proxy": "proxy:batch_size=32",
    "supernet": "supernet:epochs=1,probes=0",
    "table": f"table:{Path(trials.tables.__file__).parent / 'digits-nb201.parquet'}",
}
CHEAP = [name for name, kind in EVALUATORS.items() if issubclass(kind, Estimator)]


class TestEstimators(EstimatorSuite):
    @pytest.fixture(params=CHEAP)
    def estimator(self, request):
        return construct("evaluate", SMALL.get(request.param, request.param), EVALUATORS)
