"""`trials.parquet`: the evaluations and how flat their surroundings are, kept up to date."""

import time
from pathlib import Path

from raynas.record.events import Event, Finished
from raynas.record.folder import write
from raynas.record.table import trials_table
from raynas.search.search import Search
from raynas.understanding.flatness import with_flatness

_SECONDS = 30.0  # between two writings, while a search goes on


class TrialsTable:
    """Listens to the journal, and writes the table now and then and at the end.

    Args:
        search: whose evaluations; how its searcher judges them is a column, `merit`.
        path: of the file.
    """

    def __init__(self, search: Search, path: Path):
        self.search, self.path = search, path
        self._changed = not path.exists()
        self._written = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Take notice of an evaluation that has ended."""
        if isinstance(event, Finished):
            self._changed = True
            if time.monotonic() - self._written > _SECONDS:
                self.write()

    def write(self) -> None:
        """Write the table, unless it is as it was."""
        if not self._changed:
            return
        search = self.search
        table = with_flatness(
            trials_table(search.history), search.space, search.merits, search.metric
        )
        write(self.path, table.to_parquet)
        self._changed, self._written = False, time.monotonic()
