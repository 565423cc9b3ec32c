"""What a report says of the search itself: its bias, convergence, how far to trust its signals."""

from functools import partial

from raynas.config.config import Config
from raynas.record.folder import RunFolder
from raynas.record.history import Evaluation, History
from raynas.reports.rendering import render
from raynas.reports.understanding_figures import figures
from raynas.understanding.findings import attempted, find, read_scores
from search_spaces import SearchSpace
from trials.data import Data


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
    drawn = attempted("figures", problems, partial(figures, found, history.metric)) or {}
    landscapes = folder.understanding / "landscapes.png"
    if landscapes.exists():
        drawn["landscapes"] = landscapes.read_bytes()
    told = history.understood.problems if history.understood else {}
    problems = {**told, **found.problems, **problems}
    stopped = found.bias is not None and "survived" in set(found.bias.steps["step"])
    return render(
        "understanding",
        bias=found.bias,
        trust=found.trust,
        figures=drawn,
        stopped=stopped,
        problems=problems,
        asked=config.understand,
    )
