"""`trials.parquet`: the evaluations and how flat their surroundings are, kept up to date."""

import time
from pathlib import Path

from raynas.record.events import Event, Finished
from raynas.record.folder import write
from raynas.record.table import trials_table
from raynas.search.search import Search
from raynas.understanding.flatness import with_flatness

_SECONDS = 30.0  # between two writings, while a search goes on
_SHARE = 0.05  # of the time, at most, that goes into writing
_FLAT = 10_000  # evaluations, beyond which finding all neighbors takes minutes and gigabytes


class TrialsTable:
    """Listens to the journal, and writes the table now and then and at the end.

    How flat surroundings are is in the tables of up to 10,000 evaluations (`raynas.flatness` tells
    it of any run).

    Args:
        search: whose evaluations; how its searcher judges them is a column, `merit`.
        path: of the file.
    """

    def __init__(self, search: Search, path: Path):
        self.search, self.path = search, path
        self._changed = not path.exists()
        self._written, self._pause = time.monotonic(), _SECONDS

    def __call__(self, event: Event) -> None:
        """Take notice of an evaluation that has ended."""
        if isinstance(event, Finished):
            self._changed = True
            if time.monotonic() - self._written > self._pause:
                self.write()

    def write(self) -> None:
        """Write the table, unless it is as it was."""
        if not self._changed:
            return
        search, start = self.search, time.monotonic()
        table = trials_table(search.history)
        if len(table) <= _FLAT:
            table = with_flatness(table, search.space, search.merits, search.metric)
        write(self.path, table.to_parquet)
        self._changed, self._written = False, time.monotonic()
        self._pause = max(_SECONDS, (self._written - start) / _SHARE)
