"""Reading events from JSON data: every kind by its name, every field by its type."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_origin, get_type_hints

from raynas.errors import JournalError
from raynas.record.events import (
    FORMAT,
    Allotted,
    Audited,
    Complete,
    Discarded,
    EnsembleMade,
    Event,
    Exhausted,
    Finished,
    Grown,
    Leading,
    Placed,
    Planned,
    Promoted,
    Reported,
    Retrained,
    Retraining,
    RetrainingFailed,
    Retried,
    Scored,
    Searched,
    SearchEnded,
    Selected,
    Selecting,
    SelectingFailed,
    Session,
    Status,
    Suggested,
    SupernetTrained,
    Understood,
    Waited,
)

KINDS: dict[str, type[Event]] = {
    kind.kind: kind
    for kind in (
        Session, Planned, Allotted, Scored, Suggested, Waited, Exhausted, Promoted, Audited,
        Placed, Reported, Finished, Retried, Discarded, Leading, Grown, SupernetTrained, Searched,
        SearchEnded, Selecting, SelectingFailed, Selected, Retraining, RetrainingFailed,
        Retrained, EnsembleMade, Understood, Complete,
    )
}  # fmt: skip
_FIELDS = {kind: {f.name for f in dataclasses.fields(kind)} for kind in KINDS.values()}
_STATUSES = {kind for kind in KINDS.values() if get_type_hints(kind).get("status") is Status}
_PLAIN: dict[Any, tuple[type, ...]] = {
    int: (int,), str: (str,), float: (int, float), Mapping: (dict,), Sequence: (list,)
}  # fmt: skip
#: {kind: {field: what JSON has there}}
_TYPES = {
    kind: {
        name: _PLAIN[get_origin(hint) or hint]
        for name, hint in get_type_hints(kind).items()
        if (get_origin(hint) or hint) in _PLAIN
    }
    for kind in KINDS.values()
}


def from_json(record: Mapping[str, Any]) -> Event:
    """Return the event that JSON data describe; fields that are not known are left out.

    Raises:
        JournalError: when the kind is not known, a field is missing, or the format is newer.
    """
    kind = KINDS.get(str(record["event"]))
    if kind is None or record.get("format", 1) not in range(1, FORMAT + 1):
        raise JournalError(
            f"The journal has an event {record['event']!r} of a newer raynas; this one reads format"
            f" {FORMAT}. Install the version that run.yaml names."
        )
    fields = _FIELDS[kind]
    values = {key: value for key, value in record.items() if key in fields}
    try:
        for key, types in _TYPES[kind].items():
            if key in values and not isinstance(values[key], types):
                raise TypeError(f"{key}={values[key]!r} is a {type(values[key]).__name__}")
        if kind in _STATUSES:
            values["status"] = Status(values["status"])
        return kind(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(
            f"An event {record['event']!r} of the journal is damaged: {error}."
        ) from error
