"""What verbs print: one JSON object with `--json`, otherwise lines."""

import math
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]


def plain(value: Any) -> Any:
    """Return what JSON has no type for as something that it has one for."""
    import pandas as pd  # takes long; whoever comes here has a result in hand

    return value.item() if hasattr(value, "item") else None if value is pd.NA else str(value)


def finite(value: Any) -> Any:
    """Return the same, or None for a number that JSON cannot write."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
