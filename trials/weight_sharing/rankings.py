"""Rankings of some children towards the end of a supernet's training.

Zhang et al.: Deeper Insights into Weight Sharing in NAS (arXiv 2001.01431): how far a ranking by
shared weights can be trusted shows in how it changes from one mini-batch or epoch to the next.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from search_spaces import Architecture
from trials.trial import derived_seed
from trials.weight_sharing.children import Children
from trials.weight_sharing.judging import Judge
from trials.weight_sharing.recipe import Recipe
from trials.weight_sharing.seeds import Role

Kind = Literal["batch", "epoch", "final"]
#: (kind, offset from the end, architecture in its notation, accuracy 0..1)
Row = tuple[str, int, str, float]


@dataclass
class Rankings:
    """Ranks the probes of one group again and again.

    Args:
        recipe: how many probes, and when they are ranked.
        children: of the space.
        group: whose.
        judge: evaluates them.
        rows: what came of it so far.
    """

    recipe: Recipe
    children: Children
    group: int
    judge: Judge
    rows: list[Row] = field(default_factory=list)

    @cached_property
    def probes(self) -> list[Architecture]:
        """This group's share of the children that are ranked."""
        share = -(-self.recipe.probes // len(self.children))
        return self.children.some(self.group, share, derived_seed(0, Role.PROBES, self.group))

    def after_batch(self, epochs_left: int, steps_left: int) -> None:
        """Rank after one of the last mini-batches of the last epoch.

        Args:
            epochs_left: to be trained, the present one included.
            steps_left: of the present epoch.
        """
        if epochs_left == 1 and steps_left < self.recipe.ranked_batches:
            self._rank("batch", steps_left)

    def after_epoch(self, epochs_left: int) -> None:
        """Rank after one of the last epochs, and once more after the very last."""
        if epochs_left < self.recipe.ranked_epochs:
            self._rank("epoch", epochs_left)
        if epochs_left == 0:
            self._rank("final", 0)

    def _rank(self, kind: Kind, offset: int) -> None:
        if not self.recipe.probes:
            return
        training = self.judge.supernet.training
        judged = self.judge.evaluate(self.probes, self.judge.ranked_images)
        for arch, (_, accuracy) in zip(self.probes, judged, strict=True):
            notation = self.children.space.to_string(arch)
            self.rows.append((kind, offset, notation, accuracy))
        self.judge.supernet.train(training)
