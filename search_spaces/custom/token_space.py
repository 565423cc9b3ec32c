"""A space read off a list of architectures: what differs between their texts is a decision."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from search_spaces.architecture import Architecture, Decision
from search_spaces.errors import InvalidArchitecture, InvalidArgument
from search_spaces.space import SearchSpace

if TYPE_CHECKING:  # it takes long to import
    from torch import nn

_TOKEN = re.compile(r"\w+")


class TokenSpace(SearchSpace):
    """The space of a tabular benchmark whose networks nobody here can build.

    The texts are split into words (or, where each is one word of the same length, into
    characters). All have the same words but at some places; each such place is a decision,
    the words found there are its choices.

    Args:
        texts: all architectures, in whatever notation.

    Raises:
        InvalidArgument: when the texts have different numbers of words.
    """

    name = "table"

    def __init__(self, texts: Sequence[str]):
        characters = all(_TOKEN.fullmatch(text) for text in texts)
        self._token = re.compile(r"\w") if characters else _TOKEN
        split = [self._token.findall(text) for text in texts]
        if len({len(words) for words in split}) != 1 or len(set(texts)) < 2:
            raise InvalidArgument(
                "table: its architectures are in the notation of no built-in space, and cannot be"
                f" told apart word by word ({texts[0]!r}, ...). Name the space, or pass one."
            )
        columns = list(zip(*split, strict=True))
        self._places = [i for i, column in enumerate(columns) if len(set(column)) > 1]
        self._choices = [tuple(sorted(set(columns[i]))) for i in self._places]
        self._pattern = self._token.sub("{}", texts[0].replace("{", "{{").replace("}", "}}"))
        self._words = split[0]

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """One for every place in which the texts differ."""
        return tuple(
            Decision(f"word{place}", choices)
            for place, choices in zip(self._places, self._choices, strict=True)
        )

    def to_string(self, arch: Architecture) -> str:
        """Write the text with the words chosen."""
        words = list(self._words)
        for place, choices, choice in zip(
            self._places, self._choices, self.check(arch).choices, strict=True
        ):
            words[place] = choices[choice]
        return self._pattern.format(*words)

    def from_string(self, text: str) -> Architecture:
        """Read what `to_string` writes."""
        words = self._token.findall(text) if isinstance(text, str) else []
        try:
            choices = [
                options.index(words[place])
                for place, options in zip(self._places, self._choices, strict=True)
            ]
        except (IndexError, ValueError):
            raise InvalidArchitecture(f"{self.name}: {text!r} is not of this table.") from None
        arch = self.architecture(choices)
        if self.to_string(arch) != text:
            raise InvalidArchitecture(f"{self.name}: {text!r} is not of this table.")
        return arch

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> "nn.Module":
        """Refuse: nobody here knows the network.

        Raises:
            InvalidArchitecture: always.
        """
        raise InvalidArchitecture(f"{self.name}: only the table knows these architectures.")
