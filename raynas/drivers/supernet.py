"""The driver of weight sharing: a supernet is trained, then architectures are judged with it."""

import itertools
from typing import cast

from raynas.cluster import Resources
from raynas.config.resolve import Plan
from raynas.drivers.batches import evaluate_batches, largest_batch
from raynas.drivers.driver import Driver
from raynas.drivers.pools import Pool
from raynas.drivers.session import Session
from raynas.errors import InvalidArgument, SearchFailed
from raynas.record.events import Metrics, SupernetTrained
from raynas.supernet.client import SharedSupernet, shared_supernet
from trials.trial import Diverged
from trials.weight_sharing.recipe import WeightSharing


class Supernet(Driver):
    """Evaluates with the weights that all architectures share."""

    def check(self, plan: Plan, resources: Resources) -> None:
        """Refuse more replicas than the cluster holds."""
        recipe = cast(WeightSharing, plan.evaluator)
        if recipe.replicas >= resources.held:
            raise InvalidArgument(
                f"evaluate: replicas={recipe.replicas} and the supernet itself are more than the"
                f" {resources.held} processes that the cluster holds"
                f" (cpus_per_trial={resources.cpus:g}, gpus_per_trial={resources.gpus:g} each)."
            )

    def run(self, session: Session) -> None:
        """See `Driver`."""
        recipe, search = cast(WeightSharing, session.plan.evaluator), session.search
        with shared_supernet(
            recipe, search.space, session.data, search.seed, session.folder,
            session.resources.cpus, session.resources.gpus,
        ) as supernet:  # fmt: skip
            _train(session, recipe, supernet)
            # As many batches at a time as there are judges, and one that waits.
            judges = 2 + supernet.replicas
            with Pool(
                lambda: supernet.actor, judges, largest_batch(search), end=lambda _: None
            ) as pool:
                evaluate_batches(search, pool.run)


def _train(session: Session, recipe: WeightSharing, supernet: SharedSupernet) -> None:
    """Train all groups to the end; what is trained already only comes back."""
    for group, epoch in itertools.product(range(supernet.groups), range(recipe.epochs)):
        try:
            metrics = supernet.train_epoch(group, epoch)
        except Diverged as error:
            raise SearchFailed(
                f"evaluate: {error}. Choose a smaller learning_rate for the supernet, and start"
                " again under another name."
            ) from error
        if (group, epoch + 1) not in session.history.supernet:
            session.record(SupernetTrained(group, epoch + 1, metrics))
            done = group * recipe.epochs + epoch + 1
            _tell(session, done, supernet.groups * recipe.epochs, metrics)


def _tell(session: Session, done: int, total: int, metrics: Metrics) -> None:
    """Tell of the training, every now and then and at its end."""
    left = (total - done) * metrics["seconds"]
    rest = f", about {left:.0f} s left" if done < total else ""
    session.say(
        f"supernet: {done}/{total} epochs, loss {metrics['train_loss']:.4f}{rest}",
        important=done == total,
    )
