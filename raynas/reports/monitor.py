"""What the user sees while a run is on: one live display, or plain lines without a terminal."""

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raynas.search.search import Evaluation, Search, Status

_LINE_SECONDS = 10.0  # between plain lines when nothing better was found
_MAX_RUNNING = 8  # running trials shown


class Monitor:
    """Shows the progress of a search; `update` may be called as often as one likes.

    Args:
        search: what to show.
        console: where; standard error by default, so that standard output stays for results.
    """

    def __init__(self, search: Search, console: Console | None = None):
        self.search = search
        self.console = console or Console(stderr=True)
        self._live: Live | None = None
        self._start = time.monotonic()
        self._already = search.finished
        self._shown: Evaluation | None = search.best
        self._printed = self._start

    def __enter__(self) -> "Monitor":
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._display, console=self.console, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self.search.finished > self._already:
            self._print_line()

    def update(self) -> None:
        """Print a line when there is a new best, or none has been printed for a while."""
        if self._live is not None:
            return  # it refreshes itself
        best = self.search.best
        if best is not self._shown or time.monotonic() - self._printed > _LINE_SECONDS:
            self._print_line()

    def say(self, message: str) -> None:
        """Print a line that stays."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def supernet(
        self, group: int, groups: int, epoch: int, epochs: int, metrics: Mapping[str, float]
    ) -> None:
        """Tell of the supernet's training, every now and then and at its end."""
        done, total = group * epochs + epoch, groups * epochs
        if done < total and time.monotonic() - self._printed < _LINE_SECONDS:
            return
        self._printed = time.monotonic()
        left = duration((total - done) * metrics["seconds"])
        self.say(
            f"supernet: {done}/{total} epochs, loss {metrics['train_loss']:.4f}"
            + (f", about {left} left" if done < total else "")
        )
        self._start = time.monotonic()  # of the evaluations

    def _print_line(self) -> None:
        self._shown, self._printed = self.search.best, time.monotonic()
        self.say(f"{self._progress()}  best: {describe(self._shown)}")

    def _progress(self) -> str:
        search = self.search
        done = search.finished - self._already
        text = f"{search.finished}/{search.samples} evaluations"
        if done and search.finished < search.samples:
            rest = (search.samples - search.finished) * (time.monotonic() - self._start) / done
            text += f", about {duration(rest)} left"
        return text

    def _display(self) -> Table:
        search = self.search
        table = Table.grid(padding=(0, 2))
        width = 30
        filled = width * search.finished // max(search.samples, 1)
        bar = Text("━" * filled, style="green") + Text("━" * (width - filled), style="dim")
        table.add_row("search", bar, self._progress())
        table.add_row("best", f"{describe(search.best)}", "")
        running = [e for e in search.evaluations if e.status is Status.RUNNING]
        for evaluation in running[:_MAX_RUNNING]:
            table.add_row(
                f"#{evaluation.index}",
                Text(evaluation.notation, overflow="ellipsis", no_wrap=True),
                f"epoch {evaluation.epochs}/{search.epochs}",
            )
        return table


def describe(evaluation: Evaluation | None) -> str:
    """An evaluation in half a line."""
    if evaluation is None:
        return "none yet"
    value = shown(evaluation.metric, evaluation.value)
    return f"{value} {evaluation.metric} after {evaluation.epochs} epochs, {evaluation.notation}"


def shown(metric: str, value: float) -> str:
    """A value for people: accuracies in percent, scores as they are."""
    return f"{value:.2%}" if metric.endswith("accuracy") else f"{value:.6g}"


def duration(seconds: float) -> str:
    """A duration for people: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
