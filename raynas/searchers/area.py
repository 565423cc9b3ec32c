"""AREA: regularized evolution whose first population a proxy has picked.

Mellor, Turner, Storkey, Crowley: Neural Architecture Search without Training (ICML 2021),
algorithm 2.
"""

from dataclasses import dataclass

from pydantic import PositiveInt

from raynas.searchers.evolution import Evolution
from raynas.searchers.naswot import Naswot
from trials.proxies import Score


@dataclass
class Area(Evolution):
    """Assisted regularized evolution: M = 20 random candidates, the best N = 10 by NASWOT begin.

    With `candidates` equal to `population` it is `Evolution`. The size of the tournament is not
    published; it is that of NAS-Bench-201's R-EA.
    """

    population: PositiveInt = 10
    sample: PositiveInt = 3
    warm_start: str | Score | Naswot | None = "naswot"
    candidates: PositiveInt = 20
