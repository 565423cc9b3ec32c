"""Checks that the parts of a run go together: each declares what it needs."""

from raynas.config.config import Config
from raynas.ensemble.saep import SAEP
from raynas.errors import InvalidArgument
from raynas.record.events import METRIC
from raynas.schedulers import Scheduler
from raynas.searchers import Constraint, Searcher
from trials.data import Data
from trials.training import Train
from trials.trial import AnyEvaluator, Evaluator


def check_searcher(
    config: Config, searcher: Searcher, evaluator: AnyEvaluator, scheduler: Scheduler
) -> None:
    """Refuse what a searcher cannot work with.

    Raises:
        InvalidArgument: naming the argument that does not go with the searcher.
    """
    if searcher.needs_predictions and not evaluator.trains:
        raise InvalidArgument(
            f"evaluate={config.evaluate!r}: search={config.search!r} grows an ensemble of trained"
            " networks: use evaluate='train'."
        )
    if config.samples < searcher.fewest_samples:
        raise InvalidArgument(
            f"samples={config.samples}: search={config.search!r} comes to something only with"
            f" {searcher.fewest_samples} or more."
        )
    if config.samples < scheduler.fewest_samples:
        raise InvalidArgument(
            f"samples={config.samples}: with scheduler={config.scheduler!r} nothing goes on before"
            f" {scheduler.fewest_samples} have reached the first rung: evaluate more, or choose"
            " fewer peers."
        )
    if searcher.driver is not None and scheduler.needs_architectures:
        raise InvalidArgument(
            f"scheduler={config.scheduler!r} compares architectures with those like them, and"
            f" search={config.search!r} runs whole searches, which are of no one architecture:"
            " use scheduler='asha' or 'fifo'."
        )
    if searcher.driver is not None and (scheduler.promotes or scheduler.audits):
        raise InvalidArgument(
            f"scheduler={config.scheduler!r}: search={config.search!r} runs whole searches, which"
            " are stopped early, but not promoted or audited: use scheduler='asha' or 'fifo'."
        )
    if searcher.needs_full_training and scheduler.stops:
        raise InvalidArgument(
            f"scheduler={config.scheduler!r}: search={config.search!r} compares candidates that are"
            " trained to the end: use scheduler='fifo'."
        )


def check_retraining(evaluator: AnyEvaluator) -> None:
    """Refuse an evaluator with trials of its own that leaves the retraining to another recipe.

    Raises:
        InvalidArgument: saying what to implement.
    """
    if not isinstance(evaluator, Evaluator):
        return
    of_trials, of_retraining = (
        next(kind for kind in type(evaluator).__mro__ if name in vars(kind))
        for name in ("trial", "retraining")
    )
    if not issubclass(of_retraining, of_trials):
        name = type(evaluator).__name__
        raise InvalidArgument(
            f"evaluate: {name} has trials of its own, but does not say how the best architecture is"
            " retrained, which would be by the built-in recipe of `train`. Give it a method"
            " retraining(self, space, arch, data, epochs, seed, device) that returns a trial which"
            " learns from data.train_and_validation and is judged on data.test, with the state of"
            " the network under 'network' in its state_dict(). Where it returns None, Train() with"
            " its defaults retrains."
        )


def check_workers(config: Config, searcher: Searcher, evaluator: AnyEvaluator, data: Data) -> None:
    """Refuse trials of several processes where the evaluator's do not share their work.

    Raises:
        InvalidArgument: naming the argument, and saying why.
    """
    trial = ("workers_per_trial", config.workers_per_trial)
    retraining = ("retrain_workers", config.retrain_workers or 1)
    if config.workers_per_trial > 1:
        if searcher.driver is not None or not evaluator.trains:
            culprit = "search" if searcher.driver else "evaluate"
            raise InvalidArgument(
                f"workers_per_trial={config.workers_per_trial}:"
                f" {culprit}={getattr(config, culprit)!r} trains no architecture alone, in several"
                " processes: leave it at 1; retrain_workers says how many retrain the best."
            )
        _check_workers(trial, evaluator, "trial", data)
        if config.retrain_workers is None:
            retraining = trial
    if retraining[1] > 1:
        own = type(evaluator).retraining is not AnyEvaluator.retraining
        _check_workers(retraining, evaluator if own else Train(), "retraining", data)


def _check_workers(
    argument: tuple[str, int], evaluator: AnyEvaluator, method: str, data: Data
) -> None:
    """Ask an evaluator whether what a method of it makes shares its work among so many.

    What a base says of its own trials does not hold for those of a class that overrides `method`.
    """
    name, workers = argument
    asked, of_method = (
        next(kind for kind in type(evaluator).__mro__ if each in vars(kind))
        for each in ("check_workers", method)
    )
    try:
        if issubclass(asked, of_method) or asked is AnyEvaluator:
            evaluator.check_workers(workers, data)
        else:
            AnyEvaluator.check_workers(evaluator, workers, data)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}={workers}: {error}") from None


def check_snapshots(config: Config, evaluator: AnyEvaluator) -> None:
    """Refuse snapshots of epochs that no evaluation has.

    Raises:
        InvalidArgument: saying why.
    """
    if not config.snapshots:
        return
    if not evaluator.trains:
        raise InvalidArgument(
            f"snapshots={list(config.snapshots)} are weights of trained architectures, and"
            f" evaluate={config.evaluate!r} trains none: use evaluate='train'."
        )
    if config.snapshots[-1] > config.epochs:
        raise InvalidArgument(
            f"snapshots={list(config.snapshots)}: an evaluation has only epochs={config.epochs}."
        )


def check_limits(config: Config, searcher: Searcher, evaluator: AnyEvaluator) -> None:
    """Refuse a target that the best of the search could never reach, and ends that come too early.

    Raises:
        InvalidArgument: naming what the search maximizes, or its range, or the search.
    """
    limited = [name for name in ("gpu_hours", "target") if getattr(config, name) is not None]
    if limited and searcher.needs_full_training:
        raise InvalidArgument(
            f"{limited[0]}={getattr(config, limited[0])}: search={config.search!r} compares"
            " candidates that are trained to the end, and what runs would be stopped. End it by"
            " samples."
        )
    metric = evaluator.metric_name
    for name, value in (config.target or {}).items():
        if name != metric:
            raise InvalidArgument(
                f"target={config.target}: this search maximizes {metric}, and its best is judged by"
                f" nothing else: target={{{metric!r}: ...}}."
            )
        if name.endswith("accuracy") and not 0 < value <= 1:
            raise InvalidArgument(
                f"target={config.target}: an accuracy is a fraction, greater than 0 and at most 1,"
                " such as 0.95."
            )
    if config.target == {}:
        raise InvalidArgument(f"target={{}}: name what to reach: target={{{metric!r}: 0.95}}.")


def check_constraint(
    config: Config, constraint: Constraint | None, searcher: Searcher, evaluator: AnyEvaluator
) -> None:
    """Refuse a constraint on a searcher that is not free in what it asks for.

    And a penalty that the last decision could not take into account.

    Raises:
        InvalidArgument: saying which searchers are; or naming the metric that the penalty is of.
    """
    if constraint is None:
        return
    if constraint.penalizes and config.select > 1 and evaluator.metric_name != METRIC:
        raise InvalidArgument(
            f"select={config.select}: full training decides by {METRIC}, and the weight of"
            f" constraint={config.constraint!r} is in units of {evaluator.metric_name}: use a limit"
            " or a quota, or select=1."
        )
    if not (searcher.needs_predictions or searcher.driver):
        return
    why = "derives architectures by gradients" if searcher.driver else "grows an ensemble"
    raise InvalidArgument(
        f"constraint={config.constraint!r}: search={config.search!r} {why}, so nothing can be"
        " evaluated in place of what breaks it: use search='auto', 'evolution', 'local', 'random'."
    )


def check_select(config: Config) -> None:
    """Refuse a last decision among more architectures than there will be.

    Raises:
        InvalidArgument: naming both numbers.
    """
    if config.select > config.samples:
        raise InvalidArgument(
            f"select={config.select}: only samples={config.samples} architectures are evaluated."
        )


def check_ensemble(config: Config, ensemble: SAEP | None, evaluator: AnyEvaluator) -> None:
    """Refuse an ensemble that cannot come about.

    Raises:
        InvalidArgument: saying what it needs.
    """
    if ensemble is None:
        return
    if not evaluator.trains:
        raise InvalidArgument(
            f"ensemble={config.ensemble!r} needs trained architectures, and"
            f" evaluate={config.evaluate!r} trains none: use evaluate='train'."
        )
    least = max(2, ensemble.size or 0)
    if config.samples < least:
        raise InvalidArgument(
            f"samples={config.samples}: an ensemble of {least} members needs as many architectures:"
            " evaluate more, or choose a smaller size."
        )


def check_kept(config: Config, ensemble: SAEP | None) -> None:
    """Refuse to keep fewer trained networks than an ensemble needs.

    Raises:
        InvalidArgument: naming both numbers.
    """
    least = max(2, ensemble.size or 0) if ensemble else 0
    if config.kept is not None and config.kept < least:
        raise InvalidArgument(
            f"keep_checkpoints={config.kept}: an ensemble of {least} members needs the weights of"
            " as many: keep more, or choose a smaller size."
        )
