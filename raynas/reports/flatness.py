"""What a report shows of how flat the surroundings of the evaluated architectures are."""

from raynas.record.folder import RunFolder
from raynas.record.history import Evaluation, History
from raynas.reports.figures import flatness_figure
from raynas.reports.rendering import png, render, svg
from search_spaces import SearchSpace

_FEWEST = 10  # evaluations; the neighborhoods of fewer tell nothing


def section(folder: RunFolder, history: History, space: SearchSpace, best: Evaluation) -> str:
    """Return the section about flatness, in HTML; empty where too little is known of it.

    Writes its figure to the run folder, `flatness.png`.

    Args:
        folder: of the run.
        history: of the run.
        space: of its architectures.
        best: the evaluation that was chosen.
    """
    figure = flatness_figure(history, space, best)
    if figure is None or len(history.finished) < _FEWEST:
        return ""
    (folder.path / "flatness.png").write_bytes(png(figure))
    return render("flatness", figure=svg(figure, f"{history.metric} against flatness"))
