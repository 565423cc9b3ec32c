"""The verb `score`. Its flags are the parameters of `raynas.score`."""

import json
from typing import Annotated, Any, Optional

import typer

import raynas
from raynas.cli.flags import read_flags, with_flags
from raynas.cli.output import AsJson, finite
from raynas.config.config import check_names
from search_spaces import SPACES
from trials.proxies import PROXIES


@with_flags(
    read_flags(
        "raynas.drivers.scoring:score",
        without=("cpus_per_actor", "gpus_per_actor"),
        spellings={"architectures": "samples", "path": "to"},
        helps={
            "architectures": "architectures drawn at random",
            "proxy": f"one of {', '.join(PROXIES)}",
        },
    )
)
def score(
    architecture: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="one to score, instead of --samples; may be repeated"),
    ] = None,
    as_json: AsJson = False,
    *,
    arguments: dict[str, Any],
) -> None:
    """Score architectures without training, the best first."""
    check_names(arguments, {"space": SPACES, "proxy": PROXIES})
    if architecture:
        arguments["architectures"] = architecture
    frame = raynas.score(**arguments)
    proxy = frame.columns[1]
    frame = frame.sort_values(proxy, ascending=False)
    if as_json:
        rows = [{k: finite(v) for k, v in row.items()} for row in frame.to_dict("records")]
        print(json.dumps({"proxy": proxy, "scores": rows}))
        return
    for row in frame.itertuples(index=False):
        print(f"{row[1]:>12.6g}  {row[0]}{f'  {row[2]}' if row[2] else ''}")
