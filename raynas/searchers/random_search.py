"""Random search: every architecture is drawn uniformly from the space."""

from dataclasses import dataclass

from raynas.searchers.searcher import Searcher
from search_spaces import Architecture


@dataclass
class RandomSearch(Searcher):
    """Uniform sampling; results change nothing."""

    def ask(self) -> Architecture:
        """Draw an architecture."""
        return self.space.sample(self.rng)

    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """Do nothing: there is nothing to learn."""
