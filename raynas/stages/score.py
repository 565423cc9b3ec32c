"""The stage that scores architectures without training, where the searcher wants it."""

import math
from typing import ClassVar

from raynas.drivers.scoring import scores
from raynas.drivers.session import Session
from raynas.stages.stage import Stage
from search_spaces import Architecture
from trials.estimate import Estimate
from trials.proxies.scoring import Proxy


class ScoreStage(Stage):
    """Scores what the searcher wants to have scored before the search (a warm start)."""

    name: ClassVar[str] = "score"

    def done(self, session: Session) -> bool:
        """See `Stage`."""
        return not session.search.unscored

    def run(self, session: Session) -> None:
        """Score the architectures, in the order in which the searcher named them."""
        search, data = session.search, session.plan.data
        scoring = search.searcher.scoring
        assert scoring is not None
        proxy = Proxy(scoring.proxy, min(Proxy.batch_size, len(data.train)))
        canonical = search.space.canonical
        estimates: dict[Architecture, Estimate] = {}
        forms = list(dict.fromkeys(map(canonical, search.unscored)))
        for estimate in scores(search.space, proxy, forms, data, search.seed, session.pool):
            estimates[estimate.architecture] = estimate
            while search.unscored and canonical(search.unscored[0]) in estimates:
                first = estimates[canonical(search.unscored[0])]
                value = -math.inf if first.metrics is None else first.metrics[scoring.proxy]
                search.score(search.unscored[0], value, first.reason)
