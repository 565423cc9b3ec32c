"""The run on the README's first screen, and the figures that it shows.

The search is run (or found finished in DIR). Printed are, of the first evaluations, which are
random draws, the mean validation accuracy where each stopped and of those that were trained to the
end; the winner's validation and test accuracy; and how long all of it took, from the first event of
the journal to the last. The picture is `search.png` in the run folder.

    python -m benchmarks.first_screen DATA DIR [--json]

The README's: `cifar10:fraction=0.4 DIR`.
"""

import argparse
import json
from typing import Any

import raynas
from raynas.record.journal import read_events
from raynas.searchers import Evolution

_EPOCHS = 4


def figures(run: raynas.Result) -> dict[str, Any]:
    """Return what the README says of a run."""
    draws = run.trials[run.trials["evaluation"] < Evolution().population]
    whole = draws[draws["status"] == "completed"]
    events = read_events(run.path)
    return {
        "random draws": len(draws),
        "their mean validation accuracy, %": 100 * draws["val_accuracy"].mean(),
        "random draws trained to the end": len(whole),
        "their mean validation accuracy at the end, %": 100 * whole["val_accuracy"].mean(),
        "the winner's validation accuracy, %": 100 * run.best.metrics["val_accuracy"],
        "the winner's test accuracy, %": 100 * run.best.metrics["test_accuracy"],
        "minutes": (events[-1].time - events[0].time) / 60,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("folder")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    run = raynas.run(
        space="nasbench201:channels=8,cells=1", data=given.data, search="evolution",
        scheduler="asha", samples=24, epochs=_EPOCHS, retrain_epochs=8, seed=0,
        storage_path=given.folder, name="first-screen",
    )  # fmt: skip
    found = figures(run)
    if given.json:
        print(json.dumps(found))
        return
    for what, value in found.items():
        print(f"{what:46}{value:.2f}")


if __name__ == "__main__":
    main()
