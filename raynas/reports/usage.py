"""What a report says of how to use the winner, and of how to repeat the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from raynas.config.config import Config
from raynas.config.continuation import check_named
from raynas.errors import InvalidArgument
from raynas.record.folder import read_json
from raynas.reports.rendering import render
from trials.data import Data

_MODES = {1: "L", 3: "RGB"}  # of Pillow, by channels


def using(best: Path, data: Data) -> Markup:
    """Return the section about using the winner without raynas, in HTML.

    Args:
        best: folder of the winner; programs of older versions do not scale images by themselves.
        data: of the run; the example reads an image file where they are ordinary images.
    """
    ordinary = data.train.store.unit == 255
    mode = _MODES.get(data.input_shape[0]) if ordinary else None
    about = best / "architecture.json"  # not there: about to be exported, by this version
    scales = not about.exists() or bool(read_json(about).get("input_range"))
    return render("using", mode=mode, unit=data.unit, scales=scales)


def reproducing(config: Config, recorded: Mapping[str, Any]) -> Markup:
    """Return the section about repeating the run, in HTML.

    Args:
        config: of the run.
        recorded: versions and the fingerprint of the data, as `run.yaml` has them.
    """
    arguments = config.model_dump()
    try:
        check_named(arguments)
        own = ""
    except InvalidArgument as error:
        own = str(error).partition(", which")[0]
    serial = config.max_concurrent == 1
    return render(
        "reproducing",
        own=own,
        exact=serial and config.time_budget is None,
        arguments={key: value for key, value in arguments.items() if value not in (None, [], ())},
        versions=recorded.get("versions", {}),
        fingerprint=recorded.get("data_fingerprint"),
    )
