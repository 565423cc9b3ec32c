"""What a report shows of differentiable searches: how each went, and the best of each size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from raynas.config.config import Config
from raynas.record.events import Searched
from raynas.record.folder import RunFolder
from raynas.record.history import Evaluation, History
from raynas.reports.figures import mixed_slots, mixtures_figure
from raynas.reports.rendering import png, render, svg
from raynas.searchers.gradients import best_of_each_size
from search_spaces import SearchSpace
from search_spaces.naming import parse
from trials.data import Data
from trials.differentiable.collapse import collapse
from trials.differentiable.records import size_names


class Derived(NamedTuple):
    """The best architecture of one size, of all searches.

    Attributes:
        event: the epoch that derived it.
        size: see `trials.differentiable.records.model_size`.
        evaluation: of it; None where there is none yet.
        value: what the run maximizes, of that evaluation; None where it has none.
    """

    event: Searched
    size: tuple[float, ...]
    evaluation: Evaluation | None
    value: float | None

    def dominates(self, other: "Derived") -> bool:
        """Return whether this one is no larger and no worse than another, and not its equal."""
        if self.value is None or other.value is None:
            return False
        smaller = all(x <= y for x, y in zip(self.size, other.size, strict=True))
        equal = (self.size, self.value) == (other.size, other.value)
        return smaller and self.value >= other.value and not equal

    @property
    def params(self) -> float | None:
        """Return the number of parameters; None where nobody has counted them."""
        measured = self.evaluation.history if self.evaluation else []
        metrics = measured[-1] if measured else self.event.metrics
        return metrics.get("params")


def section(
    folder: RunFolder, config: Config, space: SearchSpace, history: History, data: Data
) -> str:
    """Return the section about the differentiable searches of a run, in HTML; empty without any.

    Writes the figures of the mixtures to the run folder, `mixtures-<search>.png`.

    Args:
        folder: of the run.
        config: of the run.
        space: of its architectures.
        history: of the run, its search finished.
        data: of the run.
    """
    if not history.searches:
        return ""
    slots = mixed_slots(space, data)
    figures = {n: mixtures_figure(epochs, slots) for n, epochs in sorted(history.searches.items())}
    for number, figure in figures.items():
        (folder.path / f"mixtures-{number:03d}.png").write_bytes(png(figure))
    derived = best_derived(space, history)
    return render(
        "gradients",
        rows=list(_rows(config, space, history)),
        figures={
            number: svg(figure, f"weights of the operations of search {number} over its epochs")
            for number, figure in figures.items()
        },
        warnings={
            number: warning
            for number, epochs in sorted(history.searches.items())
            if (warning := collapse([event.metrics for event in epochs]))
        },
        size=" and ".join(size_names(space)).replace("_", " ").replace("params", "parameters"),
        metric=history.metric.replace("val_", "validation ").replace("_", " "),
        accuracy=history.metric.endswith("accuracy"),
        counted="params" not in size_names(space),
        derived=[(one, not any(other.dominates(one) for other in derived)) for one in derived],
    )


def best_derived(space: SearchSpace, history: History) -> list[Derived]:
    """Return the best architecture of each size of all searches, the smallest first."""
    epochs = [event for number in sorted(history.searches) for event in history.searches[number]]
    of = {space.canonical(space.from_string(e.notation)): e for e in history.evaluations}
    derived = []
    for event in best_of_each_size(space, epochs):
        evaluation = of.get(space.canonical(space.from_string(event.architecture)))
        has_value = evaluation is not None and evaluation.epochs and evaluation.reason is None
        value = evaluation.value if evaluation is not None and has_value else None
        derived.append(Derived(event, _size(space, event.metrics), evaluation, value))
    return sorted(derived, key=lambda one: one.size)


def _rows(config: Config, space: SearchSpace, history: History) -> Iterator[dict[str, Any]]:
    """Yield a row of the table for each search."""
    rules = _rules(config)
    for number in sorted({*history.searches, *history.searches_ended}):
        epochs = history.searches.get(number, [])
        end = history.searches_ended.get(number)
        last = epochs[-1].metrics if epochs else None
        yield {
            "number": number,
            "rule": rules[number % len(rules)],
            "epochs": len(epochs),
            "status": "running" if end is None else end.status.value,
            "reason": None if end is None else end.reason,
            "metrics": last,
            "size": None if last is None else _size(space, last),
        }


def _rules(config: Config) -> Sequence[str]:
    """Return the rules that the searches take in turn, as the run's arguments spell them."""
    text = parse(config.search)[2].get("rule", config.search)
    return [rule.replace(";", ", ") for rule in text.split("|")]


def _size(space: SearchSpace, metrics: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(metrics[name] for name in size_names(space))
