"""`retrain()`: the winner of a run, trained longer, or as the papers train it, in a run of its own.

It is a run over a list of one architecture: its folder has a journal, a model and a report as any
other, and a call that was interrupted goes on when it is made again. The folder of the search
stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raynas.config.continuation import check_named
from raynas.errors import InvalidArgument, UnknownName
from raynas.orchestration import run
from raynas.record.results import Result, load
from search_spaces import SearchSpace
from search_spaces.naming import parse, spell, suggestion


@dataclass(frozen=True)
class Recipe:
    """How a paper retrains what it has found; docs/training.md has what differs.

    Attributes:
        options: of the space: the larger network around the cells.
        evaluate: of the training.
        epochs: of it.
    """

    options: dict[str, str]
    evaluate: str
    epochs: int


_LARGE = {"auxiliary": "true", "cells": "20", "channels": "36"}
_REGULARIZED = "learning_rate=0.025,weight_decay=0.0003,drop_path=0.2"

#: by name; all for the cells of `darts`, `nasnet`, `amoebanet`, `pnas` and `enas`
RECIPES = {
    "darts": Recipe(_LARGE, f"train:batch_size=96,{_REGULARIZED},cutout=16", 600),
    "understanding": Recipe(_LARGE, f"train:batch_size=80,{_REGULARIZED},cutout=16", 600),
    "tiny-imagenet": Recipe(
        {**_LARGE, "stem": "tiny_imagenet"}, f"train:batch_size=80,{_REGULARIZED}", 300
    ),
    "imagenet": Recipe(
        {"auxiliary": "true", "cells": "14", "channels": "48", "stem": "imagenet"},
        "train:batch_size=128,learning_rate=0.1,weight_decay=0.00003,label_smoothing=0.1",
        250,
    ),
}
_CELLS = ("darts", "nasnet", "amoebanet", "pnas", "enas")


def retrain(
    path: str | Path,
    epochs: int | None = None,
    recipe: str | None = None,
    space: str | SearchSpace | None = None,
    name: str | None = None,
    cpus_per_trial: float | None = None,
    gpus_per_trial: float | None = None,
    **others: Any,
) -> Result:
    """Train the best architecture of a finished run anew, on training and validation part.

    Before that it is trained for one epoch on the training part, as the one evaluation that a run
    must have.

    Args:
        path: the run folder.
        epochs: of the training, passes over the images also after a run with a time budget; None:
            those of the recipe.
        recipe: `darts` (600 epochs, batches of 96), `understanding` (the same with 80),
            `tiny-imagenet` or `imagenet`, which also enlarge the network around the cells; or
            `train:batch_size=...`. None: as in the run.
        space: with other options than in the run, of the same notation: `darts:cells=20`. None: as
            in the run, with the options of the recipe.
        name: of the new run folder, beside the other; None: made from its name and the epochs.
        cpus_per_trial: CPU cores of the training; None: as in the run.
        gpus_per_trial: GPUs of the training; None: as in the run.
        others: further arguments of `run`, such as `data` where it was an object, or
            `retrain_workers`, which are else as in the run.

    Returns:
        The result of the new run.

    Raises:
        InvalidArgument: when the run is not finished, or the recipe is not for its space; and as of
            `run`.
    """
    result = load(path)
    if not result.finished:
        raise InvalidArgument(f"path={str(path)!r}: the run is not finished. raynas resume {path}")
    then, known = result.config, _recipe(recipe)
    if epochs is None and known is None:
        raise InvalidArgument("epochs: say how many, or give a recipe that has a number.")
    epochs = epochs or (known.epochs if known else None)
    evaluate = known.evaluate if known else recipe
    if evaluate is None:
        evaluate = _without_time(then)
    kept = ("data", "seed", "cpus_per_trial", "gpus_per_trial", "max_concurrent")
    said = {"cpus_per_trial": cpus_per_trial, "gpus_per_trial": gpus_per_trial, **others}
    arguments = {
        **{key: then[key] for key in kept},
        "retrain_workers": then.get("retrain_workers") or then.get("workers_per_trial"),
        "space": space or _enlarged(then["space"], recipe, known),
        **{key: value for key, value in said.items() if value is not None},
    }
    check_named(
        {key: arguments[key] for key in ("space", "data") if isinstance(arguments[key], str)}
    )
    best = result.best.architecture
    words = [result.path.name, "retrained", recipe if known else None, str(epochs)]
    return run(
        **{"storage_path": str(result.path.parent), **arguments}, architectures=[best], epochs=1,
        retrain_epochs=epochs, evaluate=evaluate, scheduler="fifo",
        name=name or "-".join(filter(None, words)),
    )  # fmt: skip


def _recipe(text: str | None) -> Recipe | None:
    """Return the recipe of a paper; None where the text is none, or says how to train.

    Raises:
        UnknownName: for another name.
    """
    if text is None or parse(text)[0] == "train":
        return None
    if text not in RECIPES:
        raise UnknownName(
            f"recipe={text!r} is unknown. {suggestion(text, RECIPES)} Or give `train:OPTIONS`."
        )
    return RECIPES[text]


def _without_time(then: Mapping[str, Any]) -> str:
    """Return how a run trained; where a time budget said how long an epoch is, it is a pass."""
    name, _, options = parse(then["evaluate"])
    if name != "train":
        return "train"
    if then.get("time_budget") is None:
        return str(then["evaluate"])
    kept = {key: value for key, value in options.items() if key not in ("epoch_seconds", "pace")}
    return spell(name, kept)


def _enlarged(space: str, recipe: str | None, known: Recipe | None) -> str:
    """Return a space with the options of a paper's recipe.

    Raises:
        InvalidArgument: when the recipe is for other spaces.
    """
    if known is None:
        return space
    name, positional, options = parse(space)
    if name not in _CELLS or positional:
        raise InvalidArgument(
            f"recipe={recipe!r} is for the spaces {', '.join(_CELLS)}, and this run searched"
            f" {space!r}. Say how to train instead: recipe='train:batch_size=...'."
        )
    return spell(name, {**options, **known.options})
