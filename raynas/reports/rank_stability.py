"""What a report says of a supernet's ranking: how far to trust it, and the measures."""

from pathlib import Path

from raynas.errors import InvalidArgument
from raynas.record.folder import RunFolder
from raynas.reports.rendering import render
from raynas.understanding.rank_stability import rank_stability


def section(run: Path) -> str:
    """Return the section about a run's ranking by shared weights; empty where it has none.

    Args:
        run: the run folder.
    """
    if not RunFolder(run).rankings.exists():
        return ""
    try:
        stability = rank_stability(run)
    except InvalidArgument as error:  # a damaged file shall not cost the report
        return render("rank_stability", error=str(error))
    rows = stability.to_frame().round(3).to_dict("records")
    return render("rank_stability", error=None, stability=stability, rows=rows)
