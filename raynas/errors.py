"""All errors of raynas, from every layer.

RaynasError
├── InvalidArgument (ValueError)     a wrong argument: what came, what is allowed, the remedy
│   ├── UnknownName                  a name that does not exist, with the closest that does
│   ├── InvalidArchitecture          not an architecture of this search space
│   ├── DataError                    the data cannot be used as they are
│   └── ConfigurationMismatch        the run folder belongs to another configuration
├── StorageError (RuntimeError)      the run folder cannot be written, read, or is in use
│   └── JournalError                 the journal is damaged before its last line
├── DeadlineExceeded (TimeoutError)  the caller's time was over before the answer was there
└── SearchFailed (RuntimeError)      the search as a whole came to nothing

Terminated (KeyboardInterrupt) is no error: SIGTERM ended the run as Ctrl-C does.
"""

from search_spaces.errors import InvalidArchitecture, InvalidArgument, RaynasError, UnknownName
from trials.errors import DataError

__all__ = [
    "ConfigurationMismatch",
    "DataError",
    "DeadlineExceeded",
    "InvalidArchitecture",
    "InvalidArgument",
    "JournalError",
    "RaynasError",
    "SearchFailed",
    "StorageError",
    "Terminated",
    "UnknownName",
]


class ConfigurationMismatch(InvalidArgument):
    """The run folder holds a run with other arguments; the message names them."""


class StorageError(RaynasError, RuntimeError):
    """The run folder cannot be written or read, or another process is using it."""


class JournalError(StorageError):
    """The journal is damaged in a way that cannot be recovered from without losing results."""


class DeadlineExceeded(RaynasError, TimeoutError):
    """What was asked for was not there when the caller's time was over."""


class Terminated(KeyboardInterrupt):
    """SIGTERM ended a run like Ctrl-C does; the same call goes on."""


class SearchFailed(RaynasError, RuntimeError):
    """Every trial failed; the message gives their common reason."""
