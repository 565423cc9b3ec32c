"""`study()`: published cells and their variants, trained side by side and compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raynas.orchestration import run
from raynas.record.results import Result
from raynas.understanding.variants import variants as names_of_variants
from search_spaces import SearchSpace


def study(
    genotype: str,
    space: str | SearchSpace = "darts:channels=16,cells=8",
    data: Any = "digits",
    variants: int = 3,
    epochs: int = 10,
    snapshots: Sequence[int] = (),
    seed: int = 0,
    storage_path: str | Path = "runs",
    name: str | None = None,
    **others: Any,
) -> Result:
    """Train published cells, their adapted form and random variants; compare how they converge.

    It is a run over this list of architectures, in which nothing is stopped early: what was
    interrupted goes on with the same call, and the report, the tables in `understanding/` and
    TensorBoard have the curves by width and depth, the loss
    surfaces of the widest and the narrowest cells, and the variance of their gradients (Shu, Wang,
    Cai: Understanding Architectures Learnt by Cell-based NAS, ICLR 2020, sections 3 and 4).

    Args:
        genotype: name of published cells: `DARTS_V2`, `NASNet`.
        space: of DARTS-like cells, for the network around them.
        data: as of `run`.
        variants: with random operations, and as many with random connections.
        epochs: of each training.
        snapshots: early epochs after which the weights are kept, for surfaces of those too.
        seed: all randomness of the trainings derives from it.
        storage_path: where run folders lie.
        name: of the run folder; None: made from the other arguments.
        others: arguments of `run`: resources, `evaluate`, `retrain_epochs`.

    Raises:
        UnknownName: when there are no such cells.
        InvalidArgument: as of `run`.
    """
    return run(
        space=space, data=data, architectures=names_of_variants(genotype, variants), epochs=epochs,
        scheduler="fifo", snapshots=snapshots, understand=True, seed=seed,
        storage_path=storage_path, name=name, **others,
    )  # fmt: skip
