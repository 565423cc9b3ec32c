"""What starting imports: the command line nothing that takes long, a worker what its trial needs.

Modules are looked at, not seconds; those are in `benchmarks/startup.py`.
"""

import subprocess
import sys

import pytest

#: packages that take long to import, of which only a run or its report needs some
SLOW = frozenset(
    {
        "matplotlib", "networkx", "optuna", "pandas", "pyarrow", "ray", "safetensors", "scipy",
        "sklearn", "tensorboard", "torch", "torchvision",
    }
)  # fmt: skip
#: of those, what Ray Tune imports itself
TUNE = frozenset({"pandas", "pyarrow", "ray"})
#: what a worker has no use for
DRIVER = frozenset(
    {
        "raynas.benchmarking", "raynas.config", "raynas.drivers.driver", "raynas.ensemble",
        "raynas.orchestration", "raynas.record.results", "raynas.reports", "raynas.search",
        "raynas.searchers", "raynas.schedulers", "raynas.stages", "raynas.understanding",
    }
)  # fmt: skip
EVALUATORS = frozenset({"trials.proxies", "trials.tables", "trials.weight_sharing"})

VERBS = (
    "run", "resume", "status", "report", "predict", "export", "retrain", "ensemble", "understand",
    "spaces", "score", "bench",
)  # fmt: skip


def loaded(code, modules):
    """Those of the modules that a new process has after some code."""
    code += f"\nimport sys; print([name for name in {sorted(modules)} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def after(commands, status, slow=SLOW):
    """The slow packages that a new process has after these command lines, and after which of them.

    Each must end with this exit status.
    """
    code = f"""
import sys
from raynas.cli import main

for arguments in {commands!r}:
    sys.argv = ["raynas", *arguments]
    try:
        main()
    except SystemExit as exit_:
        assert exit_.code == {status}, (arguments, exit_.code)
    else:
        raise AssertionError(arguments)
    found = [name for name in {sorted(slow)} if name in sys.modules]
    if found:
        break
print(found, arguments if found else "")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].strip()


@pytest.mark.parametrize(
    "statement",
    ["import raynas", "import raynas.cli, raynas.errors, raynas.config.config, trials"],
)
def test_names_and_errors_need_no_slow_package(statement):
    assert loaded(statement, SLOW) == "[]"


def test_help_needs_no_slow_package():
    assert after([["--help"], *([verb, "--help"] for verb in VERBS)], 0) == "[]"


def test_a_mistake_is_answered_without_slow_packages():
    mistakes = [
        ["run", "--nonsense"],
        ["rnu"],
        ["run", "--space", "nasbench2O1"],
        ["run", "--search", "evolutoin:population=3"],
        ["run", "--scheduler", "ahsa"],
        ["run", "--evaluate", "trian"],
        ["run", "--ensemble", "sape"],
        ["run", "--samples", "0"],
        ["ensemble", "somewhere", "--size", "many"],
        ["score", "--proxy", "naswto"],
        ["score", "--space", "nasbench2O1"],
        ["bench", "--scheduler", "ahsa"],
        ["spaces", "nasbench2O1"],
    ]
    assert after(mistakes, 2) == "[]"


def test_a_missing_run_is_answered_without_torch(tmp_path):
    verbs = ("status", "resume", "export", "retrain", "ensemble", "understand")
    commands = [[verb, str(tmp_path)] for verb in verbs]
    commands.append(["predict", str(tmp_path), "image.png"])
    assert after(commands, 2, SLOW - {"pandas", "pyarrow"}) == "[]"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import raynas.drivers.trainable, trials.training", SLOW - TUNE - {"torch"} | EVALUATORS),
        (
            "import raynas.drivers.pools, trials.proxies.scoring",
            SLOW - {"ray", "torch"} | {"ray.tune", "trials.tables", "trials.weight_sharing"},
        ),
        (
            "import raynas.supernet.actor",
            SLOW - {"ray", "torch"} | {"ray.tune", "trials.tables", "trials.proxies"},
        ),
    ],
)
def test_a_worker_imports_what_its_trial_needs(statement, absent):
    assert loaded(statement, absent | DRIVER) == "[]"


def test_modules_are_told_apart():
    assert loaded("import typer, json", {"json", "ray", "typer"}) == "['json', 'typer']"
