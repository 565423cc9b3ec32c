"""Search by a score of untrained networks.

Mellor, Turner, Storkey, Crowley: Neural Architecture Search without Training (ICML 2021),
algorithm 1; the score itself is `trials.proxies.naswot`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import PositiveInt

from raynas.searchers.searcher import Scoring, Searcher
from search_spaces import Architecture, SearchSpace
from trials.proxies import Score, check_proxy


@dataclass
class Naswot(Searcher):
    """Draws N architectures, scores them untrained, and proposes the best-scoring one alone.

    Nothing is trained to choose it. The evaluation that it then asks for tells its accuracy.

    Args:
        candidates: N.
        proxy: the score; any of `trials.proxies.PROXIES`, or a function of the user's own.
    """

    candidates: PositiveInt = 100
    proxy: str | Score = "naswot"
    chosen: Architecture | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_proxy("proxy", self.proxy)

    def start(self, space: SearchSpace, seed: int) -> None:
        """Draw the candidates, with replacement."""
        super().start(space, seed)
        self.chosen = None
        drawn = [space.sample(self.rng) for _ in range(self.candidates)]
        self.scoring = Scoring(self.proxy, list(dict.fromkeys(drawn)))

    def tell_scores(self, scores: Mapping[Architecture, float]) -> None:
        """Choose the best; nothing, where no score is finite."""
        best = max(scores, key=lambda arch: scores[arch])
        self.chosen = best if math.isfinite(scores[best]) else None

    def ask(self) -> Architecture | None:
        """Return the best-scoring candidate, once."""
        chosen, self.chosen = self.chosen, None
        return chosen

    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """Do nothing: there is nothing to learn."""
