"""What the user sees while a run is on: one live display, or plain lines without a terminal."""

import time

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raynas.record.events import Event, Finished, Leading, Reported, Suggested
from raynas.record.formatting import describe, duration
from raynas.record.history import Evaluation
from raynas.search.search import Search

_LINE_SECONDS = 10.0  # between plain lines when nothing better was found
_MAX_RUNNING = 8  # running trials shown


class Monitor:
    """Listens to the journal and shows the progress of a search.

    Args:
        search: what to show.
        console: where; standard error by default, so that standard output stays for results.
    """

    def __init__(self, search: Search, console: Console | None = None):
        self.search = search
        self.console = console or Console(stderr=True)
        self._live: Live | None = None
        #: when the first evaluation began
        self._start: float | None = None
        self._already = search.finished
        self._shown: Evaluation | None = search.best
        self._printed = time.monotonic()

    def __enter__(self) -> "Monitor":
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._display, console=self.console, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Print a line when there is a new best, or none has been printed for a while."""
        if isinstance(event, Suggested) and self._start is None:
            self._start = time.monotonic()
        if self._live is not None or not isinstance(event, Reported | Finished | Leading):
            return  # a display refreshes itself
        search = self.search
        ended = isinstance(event, Finished) and search.finished >= search.samples
        late = time.monotonic() - self._printed > _LINE_SECONDS
        if search.best is not self._shown or ended or (late and search.finished):
            self._print_line()

    def say(self, message: str, important: bool = True) -> None:
        """Print a line that stays; one that is not important, only now and then."""
        if important or time.monotonic() - self._printed > _LINE_SECONDS:
            self._printed = time.monotonic()
            self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def _print_line(self) -> None:
        self._shown, self._printed = self.search.best, time.monotonic()
        self.say(f"{self._progress()}  best: {describe(self._shown)}")

    def _progress(self) -> str:
        search = self.search
        done = search.finished - self._already
        text = f"{search.finished}/{search.samples} evaluations"
        if done and self._start is not None and search.finished < search.samples:
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
        for evaluation in search.history.running[:_MAX_RUNNING]:
            table.add_row(
                f"#{evaluation.index}",
                Text(evaluation.notation, overflow="ellipsis", no_wrap=True),
                f"epoch {evaluation.epochs}/{search.epochs}",
            )
        return table
