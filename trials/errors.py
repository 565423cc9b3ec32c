"""The error of data that no trial can use; `raynas.errors` draws the whole tree."""

from search_spaces.errors import InvalidArgument


class DataError(InvalidArgument):
    """Data that cannot be used: what is wrong, where, and the remedy."""
