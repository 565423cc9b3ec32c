"""Reading a notation from left to right, with errors that point at the position."""

import re
from collections.abc import Collection
from typing import NoReturn

from search_spaces.errors import InvalidArchitecture
from search_spaces.naming import closest

_DIGITS = 18  # of the largest integers; Python refuses to read very long ones


class Scanner:
    """A text that is read from left to right; each method reads one thing, or raises.

    Args:
        space: name of the space, for messages.
        text: what is read; white space at its ends does not count.
        spaces: whether white space may stand between any two things.

    Raises:
        InvalidArchitecture: in every method, naming the position (from 0), what is wanted
            there, what was found, and the closest match.
    """

    def __init__(self, space: str, text: str, spaces: bool = False):
        if not isinstance(text, str):
            raise InvalidArchitecture(f"{space}: {text!r:.80} is no text; give the notation.")
        self.space = space
        self.text = text.rstrip()
        self.position = len(self.text) - len(self.text.lstrip())
        self.spaces = spaces

    def fail(self, wanted: str, position: int | None = None, hint: str = "") -> NoReturn:
        """Raise the error that says what was `wanted` at `position` (default: here)."""
        position = self.position if position is None else position
        rest = repr(self.text[position : position + 24]) if self.text[position:] else "the end"
        raise InvalidArchitecture(
            f"{self.space}: cannot read {self.text!r}: at position {position}, wanted {wanted},"
            f" found {rest}. {hint}".rstrip()
        )

    def accept(self, token: str) -> bool:
        """Read `token` if it comes next, and tell whether it did."""
        self._skip()
        if not self.text.startswith(token, self.position):
            return False
        self.position += len(token)
        return True

    def literal(self, token: str) -> None:
        """Read exactly `token`."""
        if not self.accept(token):
            self.fail(repr(token))

    def one_of(self, words: Collection[str], pattern: str = r"[\w.-]+") -> str:
        """Read one of `words`: the longest match of `pattern` must be among them."""
        start, word = self._match(pattern)
        if word not in words:
            self.fail(f"one of {', '.join(words)}", start, closest(word, words))
        return word

    def longest(self, texts: Collection[str]) -> str:
        """Read the longest of `texts` that comes next."""
        fitting = [text for text in texts if self.text.startswith(text, self.position)]
        if not fitting:
            word = self.text[self.position :].split(",")[0]
            self.fail(f"one of {', '.join(texts)}", hint=closest(word, texts))
        longest = max(fitting, key=len)
        self.position += len(longest)
        return longest

    def integer(self, least: int = 0, most: int | None = None) -> int:
        """Read a non-negative integer within `least..most`."""
        start, digits = self._match(r"[0-9]+")
        if not digits:
            self.fail("an integer", start)
        largest = 10**_DIGITS if most is None else most
        if len(digits) > _DIGITS or not least <= int(digits) <= largest:
            self.fail(f"an integer in {least}..{most if most is not None else ''}", start)
        return int(digits)

    def bit(self) -> int:
        """Read a 0 or a 1."""
        if self.accept("1"):
            return 1
        self.literal("0")
        return 0

    def end(self) -> None:
        """Check that the text ends here."""
        self._skip()
        if self.position < len(self.text):
            self.fail("the end")

    def _skip(self) -> None:
        while self.spaces and self.text[self.position : self.position + 1].isspace():
            self.position += 1

    def _match(self, pattern: str) -> tuple[int, str]:
        self._skip()
        start = self.position
        match = re.compile(pattern, re.ASCII).match(self.text, start)
        word = match.group() if match else ""
        self.position += len(word)
        return start, word
