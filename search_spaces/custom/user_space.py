"""A user's own space, from a list of decisions and a build function."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from search_spaces.architecture import Architecture, Decision, Kind
from search_spaces.errors import InvalidArchitecture, InvalidArgument
from search_spaces.naming import lookup
from search_spaces.notation import Scanner
from search_spaces.space import SearchSpace

if TYPE_CHECKING:  # it takes long to import
    from torch import nn

#: (configuration, input shape, number of classes) to the network
Build = Callable[[dict[str, Any], Sequence[int], int], "nn.Module"]

#: a configuration to the one that stands for all that build the same network
Canonical = Callable[[dict[str, Any]], Mapping[str, Any]]


class UserSpace(SearchSpace):
    """A space of named choices, whose networks a function builds.

    The notation is `name=value` for every decision, values as `str` writes them.

    Args:
        name: what the space is called in run folders.
        decisions: {decision: what can be chosen}, in the order in which they are listed.
        build: called with {decision: chosen value}, the input shape (channels, height, width)
            and the number of classes; returns the untrained network, images to logits.
        valid: tells of a configuration whether it is an architecture at all.
        kinds: {decision: "operation", "wiring" or "size"} where that of `Decision` does not fit.
        canonical: returns of a configuration the one that stands for all that build the same
            network, so that it is paid for once: it sets a decision that does not matter to its
            first choice, say. None: every architecture stands for itself.

    Raises:
        InvalidArgument: for a decision without choices, or with the same choice twice, or with
            choices that the notation could not tell apart.
        UnknownName: for the kind of a decision that is not there.

    Example:
        >>> from torch import nn
        >>> def build(config, input_shape, num_classes):
        ...     channels = config["channels"]
        ...     convolution = nn.Conv2d(input_shape[0], channels, config["kernel"])
        ...     pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        ...     return nn.Sequential(convolution, pool, nn.Linear(channels, num_classes))
        >>> space = UserSpace("mine", {"channels": (8, 16), "kernel": (3, 5)}, build)
        >>> [space.to_string(arch) for arch in space][:2]
        ['channels=8,kernel=3', 'channels=8,kernel=5']
        >>> space.params(space.from_string("channels=16,kernel=3"), (1, 28, 28), 10)
        330
    """

    def __init__(
        self,
        name: str,
        decisions: Mapping[str, Sequence[Any]],
        build: Build,
        valid: Callable[[dict[str, Any]], bool] | None = None,
        kinds: Mapping[str, Kind] | None = None,
        canonical: Canonical | None = None,
    ):
        self._name = name
        self._build = build
        self._valid = valid
        self._canonical = canonical
        kinds = kinds or {}
        for key in kinds:
            lookup("kinds: decision", key, decisions)
        self._decisions = tuple(
            Decision(key, tuple(values), kinds.get(key)) for key, values in decisions.items()
        )
        following = [f",{decision.name}=" for decision in self._decisions[1:]]
        for decision, next_one in itertools.zip_longest(self._decisions, following):
            _check_notation(decision, next_one)
            pairs = itertools.combinations(decision.choices, 2)
            same = any(a == b or str(a) == str(b) for a, b in pairs)
            if same or not decision.choices:
                raise InvalidArgument(
                    f"decisions: {decision.name!r} has the choices {decision.choices!r}; give at"
                    " least one, and each only once."
                )

    @property
    def name(self) -> str:
        """The one given."""
        return self._name

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """The one given."""
        return self._decisions

    @property
    def notation(self) -> str:
        """One example with all its decisions."""
        first = ",".join(f"{d.name}={d.choices[0]}" for d in self.decisions)
        return f"decision=value, joined by commas: {first}"

    def is_valid(self, arch: Architecture) -> bool:
        """Ask the function `valid`."""
        return self._valid is None or self._valid(self.to_config(arch))

    @property
    def canonical_function(self) -> Canonical | None:
        """The function given, if any."""
        return self._canonical

    def canonical(self, arch: Architecture) -> Architecture:
        """Ask the function `canonical`.

        Raises:
            InvalidArgument: for what it returns, if that is no configuration, or is not its own
                canonical form.
        """
        if self._canonical is None:
            return arch
        form = self._form(arch)
        if form != arch and (again := self._form(form)) != form:
            texts = [self.to_string(a) for a in (arch, form, again)]
            raise InvalidArgument(
                f"canonical: it makes {texts[1]!r} of {texts[0]!r}, and of that {texts[2]!r}. What"
                " it returns must stand for itself too."
            )
        return form

    def _form(self, arch: Architecture) -> Architecture:
        assert self._canonical is not None
        config = self._canonical(self.to_config(arch))
        try:
            if not isinstance(config, Mapping):
                raise InvalidArchitecture("that is no configuration")
            return self.check(self.from_config(config))
        except InvalidArchitecture as error:
            raise InvalidArgument(
                f"canonical: of {self.to_string(arch)!r} it makes {config!r:.200}: {error}. It must"
                " return {decision: chosen value} of an architecture of this space."
            ) from None

    def to_string(self, arch: Architecture) -> str:
        """Write `channels=8,kernel=3`."""
        config = self.to_config(self.check(arch))
        return ",".join(f"{name}={value}" for name, value in config.items())

    def from_string(self, text: str) -> Architecture:
        """Read what `to_string` writes."""
        scanner = Scanner(self.name, text)
        choices = []
        for i, decision in enumerate(self.decisions):
            scanner.literal(f"{',' if i else ''}{decision.name}=")
            labels = [str(value) for value in decision.choices]
            choices.append(labels.index(scanner.longest(labels)))
        scanner.end()
        return self.architecture(choices)

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> "nn.Module":
        """Call the build function."""
        return self._build(self.to_config(self.check(arch)), input_shape, num_classes)


def _check_notation(decision: Decision, next_one: str | None) -> None:
    """Refuse what would not be read as it was written, in this process or another one.

    Args:
        decision: whose choices are written.
        next_one: what is written after a choice; None: nothing, it is the last decision.
    """
    labels = [str(value) for value in decision.choices]
    for value, label in zip(decision.choices, labels, strict=True):
        if getattr(value, "ndim", 0):
            reason = "is an array; choose between names, or between tuples of numbers"
        elif label != label.strip():
            reason = "begins or ends with a blank"
        elif next_one and any(_confusing(other, label, next_one) for other in labels):
            reason = f"followed by {next_one!r} could be taken for another choice"
        elif re.search(r" at 0x[0-9a-f]+", label):
            reason = "is written with its place in memory; choose between names"
        else:
            continue
        raise InvalidArgument(f"decisions: the choice {label!r} of {decision.name!r} {reason}.")
    if decision.name != decision.name.strip():
        raise InvalidArgument(f"decisions: the name {decision.name!r} begins or ends with a blank.")


def _confusing(other: str, label: str, next_one: str) -> bool:
    """Tell whether `label` and what follows it begins like `other`, or the other way round."""
    rest = other.removeprefix(label)
    return other.startswith(f"{label},") and (
        rest.startswith(next_one) or next_one.startswith(rest)
    )
