"""The errors that every layer raises; `raynas.errors` draws the whole tree."""


class RaynasError(Exception):
    """An error that raynas raises on purpose."""


class InvalidArgument(RaynasError, ValueError):
    """A wrong argument; the message names it, its value, what is allowed and the remedy."""


class UnknownName(InvalidArgument):
    """A name that no table holds; the message suggests the closest one."""


class InvalidArchitecture(InvalidArgument):
    """An architecture, or a text that denotes one, that its search space does not contain."""
