"""How far a comparison of searchers has come: a line on standard error."""

import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raynas.benchmarking.contest import Outcome

_LINE_SECONDS = 5.0  # between plain lines


def shown(
    outcomes: Mapping[str, Iterator[Outcome]], runs: int, console: Console | None = None
) -> Iterator[Outcome]:
    """Yield the outcomes of all searchers, one searcher after the other, and show how many.

    On a terminal one line is updated, and gone in the end; elsewhere a line is printed every few
    seconds, so that what is over in a moment prints none.

    Args:
        outcomes: {label of a searcher: its outcomes}.
        runs: of each.
        console: where; None: standard error.
    """
    console = console or Console(stderr=True)
    number, done, printed = runs * len(outcomes), 0, time.monotonic()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("runs"),
        TimeRemainingColumn(),
    )  # fmt: skip
    terminal = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not terminal) as progress:
        task = progress.add_task("", total=number)
        for label, own in outcomes.items():
            progress.update(task, description=label)
            for outcome in own:
                done += 1
                progress.advance(task)
                if not terminal and time.monotonic() - printed >= _LINE_SECONDS:
                    printed = time.monotonic()
                    line = f"{done}/{number} runs, now {label}"
                    console.print(line, highlight=False, markup=False, soft_wrap=True)
                yield outcome
