"""The journal's listener that calls a tracker."""

from collections.abc import Callable

from raynas.record.events import Event
from raynas.trackers import TrackedRun, Tracker


class Tracking:
    """Calls a tracker with every event, until it fails.

    Args:
        tracker: called after the history has the event.
        run: that it shows.
        say: tells the user why the tracker is not called any more.
    """

    def __init__(self, tracker: Tracker, run: TrackedRun, say: Callable[[str], None]):
        self.tracker, self.run, self.say = tracker, run, say
        self._works = True

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if not self._works:
            return
        try:
            self.tracker.track(event, self.run)
        except Exception as error:  # a view never ends a run, whatever its tool raises
            self._works = False
            name = type(self.tracker).__name__
            self.say(
                f"{name} shows no more of this run, which itself goes on:"
                f" {type(error).__name__}: {error}."
            )
