"""Histories made by hand, for tests of what a finished run tells."""

from raynas.record.events import Finished, Reported, Retrained, Scored, Status, Suggested
from raynas.record.history import History


def history_of(space, archs, curves, epochs, losses=None, scores=None, retrained=None):
    """The history of a run; what has fewer epochs than the others was stopped early.

    Args:
        space: of the architectures.
        archs: what was evaluated.
        curves: of each the accuracy after every epoch.
        epochs: of a full evaluation.
        losses: of each the training loss after every epoch.
        scores: {architecture: proxy score} before the search.
        retrained: {evaluation: metrics}.
    """
    events = [Scored(space.to_string(a), s) for a, s in (scores or {}).items()]
    for index, (arch, curve) in enumerate(zip(archs, curves, strict=True)):
        events.append(Suggested(index, space.to_string(arch)))
        for epoch, value in enumerate(curve):
            metrics = {"val_accuracy": value}
            if losses:
                metrics["train_loss"] = losses[index][epoch]
            events.append(Reported(index, metrics))
        ended = Status.COMPLETED if len(curve) == epochs else Status.STOPPED
        events.append(Finished(index, ended))
    events += [Retrained(index, metrics) for index, metrics in (retrained or {}).items()]
    return History(events)
