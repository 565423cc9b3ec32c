"""Views of a run that is on: what cannot be written does not end it."""

from collections.abc import Callable

from raynas.errors import StorageError
from raynas.record.events import Event


class View:
    """Does the writing of a view until it fails, which is told once; the run goes on.

    Args:
        name: of the view, for people.
        say: tells the user a sentence.
    """

    def __init__(self, name: str, say: Callable[[str], None]):
        self.name, self.say = name, say
        self.failed = False

    def attempt(self, write: Callable[[], object], always: bool = False) -> None:
        """Write, unless that has failed before.

        Args:
            write: does it.
            always: also where it has failed before: what is written anew each time, not appended.
        """
        if self.failed and not always:
            return
        try:
            write()
        except (OSError, StorageError) as error:
            if not self.failed:
                self.say(f"{self.name} cannot be written, and the run goes on without: {error}")
            self.failed = True

    def listener(self, listen: Callable[[Event], object]) -> Callable[[Event], None]:
        """Return what listens to the journal in place of the view itself."""
        return lambda event: self.attempt(lambda: listen(event))
