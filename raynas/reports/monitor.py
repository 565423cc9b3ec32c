"""What the user sees while a run is on: one live display, or plain lines without a terminal."""

import time
from contextlib import suppress

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raynas.record.events import (
    Event,
    Finished,
    Leading,
    Planned,
    Reported,
    Searched,
    SearchEnded,
    Status,
    Suggested,
)
from raynas.record.formatting import describe, duration
from raynas.record.history import Evaluation
from raynas.search.search import Search

_LINE_SECONDS = 10.0  # between plain lines when nothing better was found
_MAX_RUNNING = 8  # running trials or searches shown


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
        self._already, _ = self._counts()
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
        if isinstance(event, Planned):
            self._print_plan(event)
        if isinstance(event, SearchEnded) or (isinstance(event, Suggested) and not self._start):
            self._start = time.monotonic()  # what searches derive is evaluated after the last
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
            with suppress(OSError):  # a terminal that is gone, a file on a full disk
                self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def _print_plan(self, event: Planned) -> None:
        """Say what will be done in the time, and why."""
        self.say(f"What will be done in {duration(event.seconds)}, and why:")
        for choice in event.choices:
            self.say(f"  {choice['argument']}: {choice['value']}\n      {choice['why']}")

    def _print_line(self) -> None:
        self._shown, self._printed = self.search.best, time.monotonic()
        self.say(f"{self._progress()}  best: {describe(self._shown)}")

    def _counts(self) -> tuple[int, int]:
        """Return how many evaluations have ended, and of how many; without those passed over.

        Of what differentiable searches derive only the best is trained.
        """
        search = self.search
        passed_over = sum(e.status is Status.STOPPED and not e.epochs for e in search.evaluations)
        return search.finished - passed_over, search.samples - passed_over

    def _progress(self) -> str:
        finished, samples = self._counts()
        done = finished - self._already
        text = f"{finished}/{samples} evaluations"
        if done > 0 and self._start is not None and finished < samples:
            rest = (samples - finished) * (time.monotonic() - self._start) / done
            text += f", about {duration(rest)} left"
        return text

    def _searches(self) -> list[Searched]:
        """Return the last epoch of each differentiable search that has not ended."""
        history = self.search.history
        running = history.searches.keys() - history.searches_ended.keys()
        return [history.searches[number][-1] for number in sorted(running)]

    def _selecting(self) -> list[Evaluation]:
        """Return the candidates of a last decision that is being made."""
        candidates = self.search.candidates if self.search.history.selecting else []
        decided = self.search.history.selected_of(candidates) is not None
        return [] if decided else candidates

    def _display(self) -> Table:
        search = self.search
        table = Table.grid(padding=(0, 2))
        searches = self._searches()
        if searches:
            ended = len(search.history.searches_ended)
            table.add_row("searches", f"{len(searches)} running, {ended} ended", "")
            for event in searches[:_MAX_RUNNING]:
                accuracy = event.metrics["architecture_accuracy"]
                table.add_row(
                    f"search {event.search}",
                    Text(event.architecture, overflow="ellipsis", no_wrap=True),
                    f"epoch {event.epoch}/{search.searcher.epochs_of_search},"
                    f" search accuracy {accuracy:.2%}",
                )
            return table
        width = 30
        finished, samples = self._counts()
        filled = width * finished // max(samples, 1)
        bar = Text("━" * filled, style="green") + Text("━" * (width - filled), style="dim")
        table.add_row("search", bar, self._progress())
        table.add_row("best", f"{describe(search.best)}", "")
        for candidate in self._selecting():
            epochs = len(search.history.selecting.get(candidate.index, []))
            table.add_row(
                f"#{candidate.index}",
                Text(candidate.notation, overflow="ellipsis", no_wrap=True),
                f"full training, {epochs} epochs done",
            )
        for evaluation in search.history.running[:_MAX_RUNNING]:
            table.add_row(
                f"#{evaluation.index}",
                Text(evaluation.notation, overflow="ellipsis", no_wrap=True),
                f"epoch {evaluation.epochs}/{search.epochs}",
            )
        return table
