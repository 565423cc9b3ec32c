"""What a run folder that holds a run already asks of the next call: the same arguments."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from raynas.config.config import CHANGEABLE, TABLES
from raynas.config.resolve import Plan
from raynas.errors import ConfigurationMismatch, InvalidArgument, StorageError
from search_spaces.naming import parse
from trials import data as trial_data
from trials.places import is_url


def check_folder(plan: Plan) -> None:
    """Refuse a run folder that cannot be used for a plan, as far as is known before it is opened.

    Raises:
        InvalidArgument: when `resume` forbids what is there, or wants what is not.
        ConfigurationMismatch: when it holds a run with other arguments.
        StorageError: when it cannot be read, or is no run folder.
    """
    folder = plan.folder
    resume: Literal["auto", "must", "never"] = plan.config.resume
    if folder.holds_run:
        if resume == "never":
            raise InvalidArgument(
                f"resume='never': {folder.path} holds a run already. Choose another name."
            )
        _check_same(plan)
    elif resume == "must":
        raise InvalidArgument(f"resume='must': {folder.path} holds no run.")
    elif folder.holds_something_else:
        raise StorageError(f"{folder.path} is there and is not a run folder. Choose another name.")


def _check_same(plan: Plan) -> None:
    """Compare a plan with the run that its folder holds."""
    then = plan.folder.read_configuration()
    fingerprint = then.pop("recorded").get("data_fingerprint")
    now = plan.config.model_dump()
    differences = [
        f"{key} was {then.get(key)!r} and is now {value!r}"
        for key, value in now.items()
        if key not in (*CHANGEABLE, "data") and then.get(key) != value
    ]
    if fingerprint != plan.data.fingerprint:
        differences.append(
            f"data was {then.get('data')!r} ({fingerprint}) and is now {now['data']!r}"
            f" ({plan.data.fingerprint})"
        )
    if differences:
        raise ConfigurationMismatch(
            f"The run folder {plan.folder.path} belongs to another configuration:"
            f" {'; '.join(differences)}. Choose another name, or give the same arguments."
        )


def check_named(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments read from a `run.yaml` that stand for objects of the user's.

    Raises:
        InvalidArgument: naming the argument, and how to continue such a run.
    """
    tables: dict[str, Iterable[str]] = {**TABLES, "data": trial_data.names()}
    for key, names in tables.items():
        text = str(arguments.get(key) or next(iter(names)))
        is_place = key == "data" and (is_url(text) or Path(text).is_absolute())
        other = parse(text)[0] not in names and not is_place
        if other or "=function-" in text:
            raise InvalidArgument(
                f"{key} was an object when this run was started ({text}), which its folder does"
                " not hold. To continue the run, call run() again with the same arguments, or give"
                f" it again: resume(path, {key}=...)."
            )
