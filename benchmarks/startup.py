"""Seconds until raynas is there: import, help, the answer to a mistake, a worker's imports.

Every measure is a new process of the same Python. The other side is `import torch`, the least that
whoever trains networks waits for; of a worker it is `import torch, ray.tune`. All sides take turns
in rounds; medians are reported. Of `import raynas` and its other side the start of Python itself
(`python -c pass`) is taken off. A ratio above 1 means that ours is faster.

    python -m benchmarks.startup [--quick] [--json]

Measures: `import`, `help`, `VERB_help` for every verb, `wrong_flag`, `wrong_verb`, `wrong_search`,
`wrong_space`, `worker`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from raynas.cli import app

#: seconds that the project asks for at the most
TARGETS = {"import": 0.5, "help": 1.0, "wrong_flag": 1.0, "wrong_search": 1.0, "wrong_space": 1.0}

PYTHON = {
    "python": "pass",
    "torch": "import torch",
    "tune": "import torch, ray.tune",
    "import": "import raynas",
    "worker": "import raynas.drivers.trainable, trials.training",
}
MISTAKES = {
    "wrong_flag": ["run", "--nonsense"],
    "wrong_verb": ["rnu"],
    "wrong_search": ["run", "--search", "evolutoin"],
    "wrong_space": ["run", "--space", "nasbench2O1"],
}


def seconds(arguments: list[str], status: int = 0) -> float:
    """Return how long a process takes that ends with this exit status."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    taken = time.perf_counter() - start
    if done.returncode != status:
        raise SystemExit(f"{arguments} ended with {done.returncode}: {done.stderr}")
    return taken


def measured(rounds: int) -> dict[str, float]:
    """Return the median seconds of every process."""
    verbs = [command.name for command in app.registered_commands]
    helps = {"help": ["--help"]} | {f"{verb}_help": [str(verb), "--help"] for verb in verbs}
    processes = {name: (["-c", code], 0) for name, code in PYTHON.items()}
    processes |= {name: (["-m", "raynas", *line], 0) for name, line in helps.items()}
    processes |= {name: (["-m", "raynas", *line], 2) for name, line in MISTAKES.items()}
    seconds(["-c", "import raynas.drivers.trainable"])  # from here on the files are in memory
    taken: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, (arguments, status) in processes.items():
            taken[name].append(seconds(arguments, status))
    return {name: statistics.median(values) for name, values in taken.items()}


def compared(medians: dict[str, float]) -> dict[str, dict[str, float | str]]:
    """Return every measure beside its other side."""
    bare = medians["python"]
    sides = {"import": (max(medians["import"] - bare, 1e-3), medians["torch"] - bare)}
    sides |= {
        name: (value, medians["tune" if name == "worker" else "torch"])
        for name, value in medians.items()
        if name not in (*sides, "python", "torch", "tune")
    }
    return {
        name: {
            "ours": round(ours, 3),
            "other": round(other, 3),
            "ratio": round(other / ours, 2),
            "unit": "s",
        }
        for name, (ours, other) in sides.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within a minute on two cores")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    results = compared(measured(2 if arguments.quick else 7))
    if arguments.json:
        print(json.dumps(results))
        return
    for name, row in results.items():
        target = f"  (target {TARGETS[name]:g} s)" if name in TARGETS else ""
        print(f"{name:14} {row['ours']:6.3f} s, {row['other']:6.3f} s: {row['ratio']:.2f}{target}")


if __name__ == "__main__":
    main()
