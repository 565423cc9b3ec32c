"""A list of architectures in the place of a search: each is evaluated, in order."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from raynas.searchers.searcher import Searcher
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import InvalidArgument


@dataclass
class Listed(Searcher):
    """Asks for the architectures of a list, in order; results change nothing.

    Of those that compute the same function it asks for the first. Under a constraint it asks for
    what is admitted first, so that a quota which is full now may have room for the rest later.

    Args:
        architectures: in the notation of the space, or the names of published cells.
    """

    #: not compared: `run(architectures=...)` has them, and a run is found by that
    architectures: Sequence[str] = field(default=(), compare=False)
    _left: list[Architecture] = field(default_factory=list, init=False, repr=False)

    def check(self, space: SearchSpace) -> None:
        """Refuse an empty list, and what is not of the space.

        Raises:
            InvalidArgument: saying which.
            InvalidArchitecture: likewise, pointing at the position.
        """
        if not self.architectures:
            raise InvalidArgument(
                "search='listed' needs a list of architectures: run(architectures=[...]), on the"
                " command line --architectures FILE."
            )
        for notation in self.architectures:
            space.check(space.from_string(notation))

    def start(self, space: SearchSpace, seed: int) -> None:
        """Begin with the first."""
        super().start(space, seed)
        listed = [space.from_string(notation) for notation in self.architectures]
        first = {space.canonical(arch): arch for arch in reversed(listed)}
        once = dict.fromkeys(first[space.canonical(arch)] for arch in listed)
        self._left = list(reversed(once))

    def ask(self) -> Architecture | None:
        """Return the next of the list, of what is admitted if anything is; None at its end."""
        if not self._left:
            return None
        admits = self.admits or (lambda _: True)
        last = len(self._left) - 1
        return self._left.pop(next((i for i in range(last, -1, -1) if admits(self._left[i])), last))

    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """Do nothing: there is nothing to learn."""

    def decline(self, architecture: Architecture) -> None:
        """End the list where it admits nothing: only an evaluation could change that."""
        if self.admits is not None:
            self._left.clear()
