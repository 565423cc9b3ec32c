"""Differentiable search in a run: several searches, then what they have derived.

`Gradients` runs searches (`trials.differentiable`) that differ in their seeds and, where more than
one rule is given, in their rules or these rules' options. What a search derives after an epoch is
an evaluation like any other. Of those, the best of each model size of all searches are trained
alone (He et al.: MiLeNAS, CVPR 2020, section 3.3); the others end as they are. `milenas`, `darts`,
`gdas`, `na-darts` and `single-level` are names for it with one rule, whose options and those of the
loop (`trials.differentiable.options`) go along: `milenas:lambda_=0.5,searches=2,batch_size=32`.
"""

import dataclasses
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import InstanceOf, PositiveInt

from raynas.errors import InvalidArgument
from raynas.record.events import Searched
from raynas.searchers.searcher import Searcher
from search_spaces import Architecture, SearchSpace
from search_spaces.naming import converted, lookup, parse, spell
from trials.differentiable import RULES, Differentiable, Rule
from trials.differentiable.records import size_names

_LOOP = tuple(f for f in dataclasses.fields(Differentiable) if f.name != "rule")
#: options that hold several numbers, in a text separated by `/`
_TUPLES = {f.name for f in _LOOP if "tuple" in str(f.type)}


@dataclass
class Gradients(Searcher):
    """Runs several differentiable searches and asks for what they derive.

    Args:
        rule: how a search moves weights and architecture parameters: a rule, a name in
            `trials.differentiable.RULES` with options separated by `;` (`milenas:lambda_=0.5`), or
            several, separated by `|`, which the searches take in turn.
        searches: how many; each has a seed of its own.
        epochs: of each search.
        options: of the loop, likewise separated by `;` (`batch_size=32;expected_size=6/0`), or a
            mapping; see `trials.differentiable.options.Options`.
    """

    rule: str | InstanceOf[Rule] | Sequence[InstanceOf[Rule]] = "milenas"
    searches: PositiveInt = 4
    epochs: PositiveInt = 50
    options: str | Mapping[str, Any] = ""
    #: one for each rule; searches take them in turn
    recipes: tuple[Differentiable, ...] = field(init=False, repr=False, compare=False)
    _queue: deque[Architecture] = field(
        default_factory=deque, init=False, repr=False, compare=False
    )

    driver = "gradients"

    def __post_init__(self) -> None:
        for name in ("searches", "epochs"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name}={getattr(self, name)} is less than 1.")
        self.epochs_of_search = self.epochs
        rules = _rules(self.rule)
        options = _options(self.options)
        self.recipes = tuple(Differentiable(rule=rule, **options) for rule in rules)
        self.rule = "|".join(
            _nested(spell(_name(r), {f.name: _text(getattr(r, f.name)) for f in _set(r)}))
            for r in rules
        )
        self.options = _nested(spell("", {k: _text(v) for k, v in options.items()})[1:])

    def start(self, space: SearchSpace, seed: int) -> None:
        """Begin: nothing has been derived."""
        super().start(space, seed)
        self._queue.clear()

    def learn(self, architecture: Architecture) -> None:
        """Take what a search has derived after an epoch."""
        self._queue.append(architecture)

    def ask(self) -> Architecture | None:
        """Return what was derived and not asked for yet."""
        return self._queue.popleft() if self._queue else None

    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """Do nothing: gradients, not values, lead the search."""


def best_of_each_size(space: SearchSpace, epochs: Iterable[Searched]) -> list[Searched]:
    """Return the epoch with the highest search accuracy for each model size; the best first.

    Args:
        space: of the architectures.
        epochs: of all searches; of equal ones the first counts.
    """
    names = size_names(space)
    best: dict[tuple[float, ...], Searched] = {}
    for event in epochs:
        size = tuple(event.metrics[name] for name in names)
        if size not in best or _accuracy(event) > _accuracy(best[size]):
            best[size] = event
    return sorted(best.values(), key=_accuracy, reverse=True)


def _accuracy(event: Searched) -> float:
    return event.metrics["architecture_accuracy"]


def _rules(rule: str | Rule | Sequence[Rule]) -> list[Rule]:
    """Return the rules that an argument names or holds."""
    if isinstance(rule, Rule):
        return [rule]
    if not isinstance(rule, str):
        if not rule or not all(isinstance(r, Rule) for r in rule):
            raise InvalidArgument(f"rule={rule!r:.80}: give a Rule, a name, or a list of Rules.")
        return list(rule)
    rules = []
    for text in rule.split("|"):
        name, positional, options = parse(text.replace(";", ","))
        kind = lookup("rule", name, RULES)
        if positional:
            raise InvalidArgument(f"rule={text!r}: write options as option=value.")
        rules.append(kind(**converted("rule", name, kind, options)))
    return rules


def _options(options: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the loop that an argument names or holds."""
    if isinstance(options, str):
        _, positional, options = parse(f":{options.replace(';', ',')}")
        if positional:
            raise InvalidArgument(f"options={positional[0]!r}: write options as option=value.")
    values = {
        key: value.split("/") if isinstance(value, str) and key in _TUPLES else value
        for key, value in options.items()
    }
    if "rule" in values:
        raise InvalidArgument("options: the rule is an argument of its own.")
    return converted("options", "the loop", Differentiable, values)


def _name(rule: Rule) -> str:
    """Return the name of a rule; that of its class where it is none of ours, a subclass, say."""
    return rule.name if RULES.get(rule.name) is type(rule) else type(rule).__name__


def _set(rule: Rule) -> list["dataclasses.Field[Any]"]:
    """Return the fields of a rule that have a value."""
    assert dataclasses.is_dataclass(rule)
    return [f for f in dataclasses.fields(rule) if getattr(rule, f.name) is not None]


def _text(value: object) -> object:
    return "/".join(map(str, value)) if isinstance(value, tuple) else value


def _nested(text: str) -> str:
    """Return arguments as they stand within an argument."""
    return text.replace(",", ";")


def _named(name: str) -> Callable[..., Gradients]:
    """Return the factory of searches by one rule, with its options and those of the loop."""
    kind: Any = RULES[name]
    of_rule = dict(inspect.signature(kind).parameters)
    of_loop = {f.name: inspect.signature(Differentiable).parameters[f.name] for f in _LOOP}
    own = {n: inspect.signature(Gradients).parameters[n] for n in ("searches", "epochs")}

    def make(**values: Any) -> Gradients:
        rule = kind(**{k: v for k, v in values.items() if k in of_rule})
        options = {k: v for k, v in values.items() if k in of_loop}
        return Gradients(rule, **{k: v for k, v in values.items() if k in own}, options=options)

    parameters = {**own, **of_rule, **of_loop}
    hints = {**_hints(Gradients), **_hints(Differentiable), **_hints(kind)}
    make.__annotations__ = {key: hints[key] for key in parameters}
    make.__annotations__ |= dict.fromkeys(_TUPLES, Any)  # `6/0`, as text
    make.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters.values()]
    )
    make.__name__ = make.__qualname__ = name.replace("-", "_")
    make.__doc__ = f"Search by the rule `{name}`; see `Gradients` and `{kind.__name__}`."
    return make


def _hints(kind: Any) -> dict[str, Any]:
    return inspect.get_annotations(kind.__init__)


darts = _named("darts")
gdas = _named("gdas")
milenas = _named("milenas")
na_darts = _named("na-darts")
single_level = _named("single-level")
