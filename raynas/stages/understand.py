"""The stage that tells what the run has found out about its space and its own signals.

`understanding/` in the run folder: `topology.parquet`, `convergence.parquet`, `bias.parquet`,
`proxies.parquet`, `scores.parquet` (of what was trained, by proxies), `landscapes.parquet`, and
figures.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure

from raynas.drivers.landscapes import landscapes
from raynas.drivers.session import Session
from raynas.record.events import Understood
from raynas.reports.landscape_figure import landscape_figure
from raynas.reports.rendering import png
from raynas.reports.understanding_figures import figures
from raynas.stages.stage import Stage
from raynas.understanding.bias import FEWEST, at_rung, rungs_of
from raynas.understanding.findings import attempted, find, read_scores, write_scores
from raynas.understanding.proxy_trust import final_accuracies, trains_alone
from trials.places import make_folder
from trials.proxies.scoring import Proxies
from trials.trial import derived_seed

#: cheap signals that a search might have used instead
_PROXIES = ("naswot", "synflow", "snip", "jacov")
_SCORED = 50  # trained architectures, at most
_BATCH = 128


class UnderstandStage(Stage):
    """Computes what costs something, and writes all that a run tells.

    It never costs a run its report: what cannot be told is in the journal as a problem, is said,
    and stands in the report. A part that failed is tried again when `understanding/` is removed.
    """

    name: ClassVar[str] = "understand"

    def done(self, session: Session) -> bool:
        """See `Stage`."""
        if not session.plan.config.understand:
            return True
        last, winner, folder = session.history.understood, session.search.winner, session.folder
        if last is None or winner is None or not folder.understanding.is_dir():
            return False
        return (last.evaluations, last.winner) == (len(session.history.finished), winner.index)

    def run(self, session: Session) -> None:
        """Score what was trained, compare, write."""
        plan, history, winner = session.plan, session.history, session.search.winner
        assert winner is not None
        session.say("Understanding: proxies and loss surfaces of what was trained")
        folder = session.folder.understanding
        make_folder(folder)
        problems: dict[str, str] = {}
        scores = attempted("scores", problems, partial(_scores, session)) or {}
        surfaces = attempted(
            "landscapes", problems, partial(landscapes, session, folder / "landscapes.parquet")
        )
        images = (tuple(plan.data.input_shape), plan.data.num_classes)
        found = find(
            history, plan.space, plan.config.model_dump(), images, winner.notation, scores
        )  # fmt: skip
        problems |= found.problems
        drawn = attempted("figures", problems, partial(figures, found, history.metric)) or {}
        if surfaces is not None:
            image = attempted("landscapes", problems, partial(landscape_figure, surfaces))
            drawn |= {} if image is None else {"landscapes": image}
        pictures = attempted("figures", problems, partial(_pictures, drawn)) or {}
        for name, picture in pictures.items():
            (folder / f"{name}.png").write_bytes(picture)
        attempted("tables", problems, partial(found.write, folder))
        for part, problem in problems.items():
            session.say(f"Understanding, {part}: {problem}")
        session.record(
            Understood(len(history.finished), winner.index, tuple(pictures), problems)
        )  # fmt: skip


def _pictures(drawn: Mapping[str, Figure]) -> dict[str, bytes]:
    """Return {name: PNG file} of figures."""
    return {name: png(figure) for name, figure in drawn.items()}


def _scores(session: Session) -> dict[str, dict[str, float]]:
    """Return {proxy: {architecture: score}} of some of what was trained.

    What an earlier session has scored is not scored again.
    """
    plan, folder = session.plan, session.folder.understanding
    known = read_scores(folder)
    texts = [
        text for text in _trained(session) if any(text not in known.get(p, {}) for p in _PROXIES)
    ]
    if not texts:
        return known
    scores: dict[str, dict[str, float]] = {p: dict(known.get(p, {})) for p in _PROXIES}
    of = {plan.space.from_string(text): text for text in texts}
    proxies = Proxies(_PROXIES, min(_BATCH, len(plan.data.train)))
    with session.pool(proxies) as pool:
        for estimate in pool.map(of):
            for name, score in (estimate.metrics or {}).items():
                scores[name][of[estimate.architecture]] = score
    write_scores(folder, scores)
    return scores


def _trained(session: Session) -> Sequence[str]:
    """Return up to 50 architectures to score: those trained to the end, then others, drawn.

    The others have reached the first epoch after which some were stopped, and are compared by their
    accuracies there. None where too few were trained to the end.
    """
    history = session.history
    trains = trains_alone(session.plan.config.evaluate)
    full = sorted(final_accuracies(history, trains))
    if len(full) < FEWEST:
        return []
    rungs = rungs_of(history) if trains else []
    reached = at_rung(history.evaluations, rungs[0])[0] if rungs else []
    rng = np.random.default_rng(derived_seed(session.search.seed))
    others = sorted(set(reached) - set(full))
    chosen = [*rng.permutation(full), *rng.permutation(others)][:_SCORED]
    return [history.evaluations[int(i)].notation for i in sorted(chosen)]
