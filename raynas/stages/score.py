"""The stage that scores architectures without training, where the searcher wants it."""

import math
from typing import ClassVar

from raynas.drivers.scoring import scores
from raynas.drivers.session import Session
from raynas.errors import SearchFailed
from raynas.stages.stage import Stage
from search_spaces import Architecture
from trials.estimate import Estimate
from trials.proxies import proxy_name
from trials.proxies.scoring import Proxy


class ScoreStage(Stage):
    """Scores what the searcher wants to have scored before the search (a warm start)."""

    name: ClassVar[str] = "score"

    def done(self, session: Session) -> bool:
        """See `Stage`."""
        return not session.search.unscored

    def run(self, session: Session) -> None:
        """Score the architectures, in the order in which the searcher named them.

        Raises:
            SearchFailed: when a proxy of the user's own can score none of them, of which nothing is
                recorded: mended, it is tried again.
        """
        search, data = session.search, session.plan.data
        scoring = search.searcher.scoring
        assert scoring is not None
        own = not isinstance(scoring.proxy, str)
        name = proxy_name(scoring.proxy)
        usable = not own or bool(session.history.scores)
        proxy = Proxy(scoring.proxy, min(Proxy.batch_size, len(data.train)))
        canonical = search.space.canonical
        estimates: dict[Architecture, Estimate] = {}
        forms = list(dict.fromkeys(map(canonical, search.unscored)))
        for estimate in scores(search.space, proxy, forms, data, search.seed, session.pool):
            estimates[estimate.architecture] = estimate
            usable = usable or estimate.metrics is not None
            while usable and search.unscored and canonical(search.unscored[0]) in estimates:
                first = estimates[canonical(search.unscored[0])]
                value = -math.inf if first.metrics is None else first.metrics[name]
                search.score(search.unscored[0], value, first.reason)
        if not usable:
            reason = next(iter(estimates.values())).reason
            raise SearchFailed(f"No architecture could be scored by the function {name}: {reason}.")
