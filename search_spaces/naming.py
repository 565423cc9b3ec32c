"""Names with arguments: `nasbench201:channels=8,cells=1`, wherever a name is taken.

The grammar is `name[:argument,...]`, an argument being `value` or `option=value`. A name
stands for a factory in one literal dict; the factory's signature says which options exist
and of what type they are, so a table of names needs no second description.
"""

import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, TypeVar, cast, get_type_hints

from search_spaces.errors import InvalidArgument, UnknownName

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Table(Mapping[str, T_co]):
    """Names that stand for things, each of which is imported when it is first asked for.

    Args:
        places: {name: "module:attribute"}.
    """

    def __init__(self, places: Mapping[str, str]):
        self._places = dict(places)

    def __getitem__(self, name: str) -> T_co:
        module, _, attribute = self._places[name].partition(":")
        return cast(T_co, getattr(import_module(module), attribute))

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def importer(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that imports its names when they are first asked for.

    Args:
        package: its `__name__`.
        modules: {name: the module that has it}.
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__


def parse(text: str) -> tuple[str, list[str], dict[str, str]]:
    """Split `name:a,b=c` into (`name`, [`a`], {`b`: `c`})."""
    name, _, rest = text.partition(":")
    positional: list[str] = []
    options: dict[str, str] = {}
    for argument in filter(None, rest.split(",")):
        key, equals, value = argument.partition("=")
        if equals:
            options[key.strip()] = value.strip()
        else:
            positional.append(argument.strip())
    return name.strip(), positional, options


def spell(name: str, options: Mapping[str, object]) -> str:
    """Write a name with its options in the form that `parse` reads."""
    arguments = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}:{arguments}" if arguments else name


def suggestion(text: str, names: Iterable[str]) -> str:
    """Write the tail of an error message: the closest known name, and all that exist."""
    names = sorted(names)
    return f"{closest(text, names)} Known: {', '.join(names)}.".lstrip()


def closest(text: str, names: Iterable[str]) -> str:
    """Write `Did you mean 'x'?`, or nothing where no known name is close."""
    close = difflib.get_close_matches(text, list(names), n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def lookup(argument: str, name: str, table: Mapping[str, T]) -> T:
    """Return the entry of `table` called `name`.

    Raises:
        UnknownName: naming `argument`, the value and the closest match.
    """
    if name not in table:
        raise UnknownName(f"{argument}={name!r} is unknown. {suggestion(name, table)}")
    return table[name]


def construct(argument: str, text: str, table: Mapping[str, Callable[..., T]]) -> T:
    """Build what `text` (a name with arguments) denotes, by the factories of `table`.

    Raises:
        UnknownName: for a name that is not in the table.
        InvalidArgument: for an option that the factory lacks, or of the wrong type, and for one
            that is missing.
    """
    name, positional, options = parse(text)
    factory = lookup(argument, name, table)
    parameters = inspect.signature(factory).parameters
    names = list(parameters)
    if len(positional) > len(names):
        raise InvalidArgument(f"{argument}={text!r}: {name} takes at most {len(names)} arguments.")
    values: dict[str, Any] = dict(zip(names, positional, strict=False))
    for key, value in options.items():
        if key in values:
            raise InvalidArgument(f"{argument}={text!r}: the option {key!r} is given twice.")
        values[key] = value
    checked = converted(argument, name, factory, values)
    for key, parameter in parameters.items():
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if named and parameter.default is parameter.empty and key not in values:
            raise InvalidArgument(
                f"{argument}={text!r}: the option {key!r} is missing: {name}:{key}=..."
            )
    return factory(**checked)


def converted(
    argument: str, name: str, factory: Callable[..., object], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Check options against the signature of `factory`, and turn them into its types.

    Raises:
        InvalidArgument: for an option that the factory lacks, or of the wrong type.
    """
    import pydantic  # takes a while, and `--help` needs none of it

    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = get_type_hints(target, include_extras=True)
    parameters = inspect.signature(factory).parameters
    result: dict[str, Any] = {}
    for key, value in options.items():
        if key not in parameters:
            raise InvalidArgument(
                f"{argument}: {name} has no option {key!r}. {suggestion(key, parameters)}"
            )
        try:
            result[key] = pydantic.TypeAdapter(hints.get(key, Any)).validate_python(value)
        except pydantic.errors.PydanticSchemaGenerationError:
            result[key] = value  # of a type that only the factory can check
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise InvalidArgument(f"{argument}: {name}:{key}={value!r}: {reason}.") from None
    return result
