"""What a report says of the search itself: its bias, convergence, how far to trust its signals."""

from functools import partial
from pathlib import Path

from markupsafe import Markup

from raynas.config.config import Config
from raynas.record.folder import RunFolder
from raynas.record.history import Evaluation, History
from raynas.record.table import read_parquet
from raynas.reports.landscape_figure import landscape_figure
from raynas.reports.rendering import render, svg
from raynas.reports.understanding_figures import figures
from raynas.understanding.findings import Findings, attempted, find, read_scores
from search_spaces import SearchSpace
from trials.data import Data

_TITLES = {
    "topology": "shares of the space, of the proposals and of the survivors",
    "convergence": "mean learning curves of groups of architectures",
    "signals": "final accuracy against every cheap signal",
}
_TOLD = ("topology", "bias", "convergence", "proxies")


def section(
    folder: RunFolder, config: Config, space: SearchSpace, history: History, best: Evaluation,
    data: Data,
) -> str:  # fmt: skip
    """Return the section about what the search favors and which of its signals were good.

    A part that cannot be told says why; no error goes through.

    Args:
        folder: of the run; scores that the stage `understand` has left are used.
        config: of the run.
        space: of its architectures.
        history: of the run, its search finished.
        best: the evaluation that was chosen.
        data: of the run.
    """
    problems: dict[str, str] = {}
    scores = attempted("scores", problems, partial(read_scores, folder.understanding)) or {}
    images = (tuple(data.input_shape), data.num_classes)
    found = find(history, space, config.model_dump(), images, best.notation, scores)
    drawn = attempted("figures", problems, partial(_pictures, found, history.metric)) or {}
    surfaces = folder.understanding / "landscapes.parquet"
    if (folder.understanding / "landscapes.png").exists() and surfaces.exists():
        picture = attempted("landscapes", problems, partial(_surfaces, surfaces))
        drawn |= {} if picture is None else {"landscapes": picture}
    told = history.understood.problems if history.understood else {}
    problems = {**told, **found.problems, **problems}
    stopped = found.bias is not None and "survived" in set(found.bias.steps["step"])
    return render(
        "understanding",
        bias=found.bias,
        trust=found.trust,
        figures=drawn,
        stopped=stopped,
        problems=list(dict.fromkeys(_said(part, why) for part, why in problems.items())),
        asked=config.understand,
    )


def _pictures(found: Findings, metric: str) -> dict[str, Markup]:
    """Return {name: SVG} of what there is to draw."""
    return {name: svg(figure, _TITLES[name]) for name, figure in figures(found, metric).items()}


def _surfaces(path: Path) -> Markup:
    """Return the loss surfaces that the stage `understand` has computed."""
    return svg(landscape_figure(read_parquet(path)), "test loss and gradient variance")


def _said(part: str, problem: str) -> str:
    """Return why a part is missing; the parts with sentences of their own are not named."""
    return problem if part in _TOLD else f"{part}: {problem}"
