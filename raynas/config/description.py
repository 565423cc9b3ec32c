"""Objects as text: equal for equal ones in every process, so that runs can be compared by it.

What has a name is spelled by it, all defaults spelled out; of what is the user's own there is the
type and what it was made with, functions and large values as digests.
"""

import dataclasses
import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, cast

from ray import cloudpickle

from raynas.errors import InvalidArgument
from raynas.schedulers import Scheduler
from raynas.searchers import Searcher
from search_spaces import UserSpace
from search_spaces.naming import spell


def described(value: object, table: Mapping[str, Callable[..., Any]]) -> str:
    """Return an object as text, equal for equal ones: a name with all arguments spelled out.

    Where only the user can make such an object: its type and what it was made with.
    """
    name = table_name(value, table)
    if name is not None:
        named = options_of(value).items()
        return spell(name, {k: function_text(o) if callable(o) else o for k, o in named})
    if isinstance(value, UserSpace):
        options = {"name": value.name, "decisions": _digest(value.decisions)}
        if value.canonical_function is not None:  # by which a search goes another way
            options["canonical"] = function_text(value.canonical_function)
        return spell("search_spaces.user_space.UserSpace", options)  # the name in older runs
    if "__dataclass_fields__" in vars(type(value)):  # and not only its base's
        options = {key: _stable(option) for key, option in options_of(value).items()}
    else:
        options = {"attributes": _digest(_attributes(value))}
    return spell(kind_of(value), options)


def table_name(value: object, table: Mapping[str, Callable[..., Any]]) -> str | None:
    """Return the name that the type of an object has, if any."""
    return next((name for name, factory in table.items() if factory is type(value)), None)


def options_of(value: Any) -> dict[str, Any]:
    """Return what a dataclass object was made with, but for what is None, as in names.

    So is what makes no difference to the outcome, the fields that are not compared.
    """
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    options = {f.name: getattr(value, f.name) for f in fields if f.init and f.compare}
    return {name: option for name, option in options.items() if option is not None}


def kind_of(value: object) -> str:
    """Return the full name of an object's type."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _attributes(value: object) -> dict[str, Any]:
    """Return the attributes of an object that are there from the start."""
    kind = type(value)
    attributes = {
        key: attribute
        for key, attribute in getattr(value, "__dict__", {}).items()
        if not isinstance(getattr(kind, key, None), cached_property)
    }
    if isinstance(value, Searcher | Scheduler):  # which a search changes
        arguments = inspect.signature(kind).parameters
        attributes = {k: v for k, v in attributes.items() if k.lstrip("_") in arguments}
    return attributes


def function_text(function: Callable[..., Any]) -> str:
    """Return a function's name and a digest of what it does, the same in every process.

    Raises:
        InvalidArgument: for one that no other process could call.
    """
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        code: bytes = cloudpickle.dumps(function)  # type: ignore[no-untyped-call]
    except Exception as error:  # pickling runs the user's code
        raise InvalidArgument(
            f"The function {name} cannot be sent to the workers: {error}."
        ) from error
    return f"function-{name}-{hashlib.blake2b(code, digest_size=4).hexdigest()}"


def _digest(value: object) -> str:
    return hashlib.blake2b(_stable(value).encode(), digest_size=4).hexdigest()


def _stable(value: object) -> str:
    """Return `repr` without what differs between processes: places in memory, order of sets."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_stable(k)}: {_stable(v)}' for k, v in value.items())}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_stable, value)))}}}"
    if type(value) in (list, tuple):
        return f"({', '.join(map(_stable, cast(Iterable[object], value)))})"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
