"""The flags of a verb: the parameters of what it calls, with their types, defaults, descriptions.

Those of a function or dataclass are read from its source: importing it would take torch and Ray,
and with them seconds, for a help text or the answer to a misspelled flag.
"""

import ast
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from raynas.config.config import Config

_KINDS: dict[str, type] = {"dict": str, "bool": bool, "int": int, "float": float, "Path": Path}


@dataclass(frozen=True)
class Flag:
    """A flag.

    Attributes:
        argument: the name of the parameter that it sets.
        annotation: of the parameter, as text.
        default: of the parameter.
        help: its description.
        spelling: the flag's own name.
    """

    argument: str
    annotation: str
    default: Any
    help: str
    spelling: str

    @property
    def kind(self) -> type:
        """Return the type of what is given on the command line."""
        if isinstance(self.default, tuple):
            return str
        words = re.findall(r"\w+", self.annotation)
        named = next((kind for word, kind in _KINDS.items() if word in words), None)
        return named or (type(self.default) if isinstance(self.default, float) else str)

    def parameter(self) -> inspect.Parameter:
        """Return the parameter by which Typer makes the flag."""
        name = self.spelling.replace("_", "-")
        spelling = f"--{name}/--no-{name}" if self.kind is bool else f"--{name}"
        kind: Any = self.kind if self.default is not None else Optional[self.kind]  # noqa: UP045
        joined = isinstance(self.default, tuple)
        return inspect.Parameter(
            self.argument,
            inspect.Parameter.KEYWORD_ONLY,
            default=",".join(self.default) if joined else self.default,
            annotation=Annotated[kind, typer.Option(spelling, help=self.help)],
        )


def config_flags() -> list[Flag]:
    """Return a flag for every field of `Config`."""
    return [
        Flag(name, str(field.annotation), field.default, field.description or "", name)
        for name, field in Config.model_fields.items()
    ]


def read_flags(
    place: str,
    without: Collection[str] = (),
    spellings: Mapping[str, str] | None = None,
    helps: Mapping[str, str] | None = None,
) -> list[Flag]:
    """Return a flag for every parameter of a function, or field of a dataclass.

    Args:
        place: `module:name`. The defaults are literals; the docstring describes the parameters
            under `Args:`.
        without: parameters that get none.
        spellings: {parameter: name of its flag}, where the two differ.
        helps: {parameter: description}, where the docstring's does not fit a command line.
    """
    definition = _definition(place)
    described = {**_descriptions(ast.get_docstring(definition) or ""), **(helps or {})}
    return [
        Flag(
            name,
            ast.unparse(annotation) if annotation else "str",
            ast.literal_eval(default),
            described[name],
            (spellings or {}).get(name, name),
        )
        for name, annotation, default in _parameters(definition)
        if name not in without
    ]


def with_flags(flags: Sequence[Flag]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a verb these flags.

    What of them is on the command line reaches the verb as the mapping `arguments`.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(verb).parameters.values() if p.name != "arguments"]

        def with_arguments(context: typer.Context, **values: Any) -> None:
            every = {flag.argument: values.pop(flag.argument) for flag in flags}
            verb(**values, arguments={k: v for k, v in every.items() if _is_given(context, k)})

        context = inspect.Parameter(
            "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
        )
        parameters = [context, *own, *(flag.parameter() for flag in flags)]
        with_arguments.__doc__ = verb.__doc__
        with_arguments.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return with_arguments

    return decorate


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _definition(place: str) -> ast.FunctionDef | ast.ClassDef:
    module, _, name = place.partition(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
    raise LookupError(place)


def _parameters(
    definition: ast.FunctionDef | ast.ClassDef,
) -> Iterator[tuple[str, ast.expr | None, ast.expr]]:
    """Yield (name, annotation, default) of what has a default."""
    if isinstance(definition, ast.FunctionDef):
        arguments, defaults = definition.args.args, definition.args.defaults
        for argument, default in zip(arguments[-len(defaults) :], defaults, strict=True):
            yield argument.arg, argument.annotation, default
        return
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.annotation, node.value


def _descriptions(docstring: str) -> dict[str, str]:
    """Return what the section `Args:` of a docstring says, {parameter: text}."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", docstring, re.MULTILINE)
    text = section[1] if section else ""
    entries = re.findall(r"^    (\w+): (.*\n?(?: {8}.*\n?)*)", text, re.MULTILINE)
    return {
        name: " ".join(text.split()).removesuffix(".").replace("None:", "default:")
        for name, text in entries
    }
