"""One line for all suites: `check(part)` runs the ones that are for a part of this type."""

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from raynas.errors import InvalidArgument

#: suites by the type of what they test; by name, as importing all types takes long
_SUITES = {
    "raynas.searchers.searcher.Searcher": ("searchers", "SearcherSuite"),
    "search_spaces.space.SearchSpace": ("spaces", "SpaceSuite"),
    "search_spaces.weight_sharing.space.WeightSharingSpace": ("supernets", "SupernetSuite"),
    "trials.trial.Evaluator": ("trials", "TrialSuite"),
    "trials.trial.Estimator": ("estimators", "EstimatorSuite"),
    "raynas.schedulers.scheduler.Scheduler": ("schedulers", "SchedulerSuite"),
    "raynas.ensemble.rules.Rule": ("pruning", "RuleSuite"),
    "raynas.drivers.driver.Driver": ("drivers", "DriverSuite"),
}

#: What pytest collects: the classes of the check that is running.
_FILE = "from raynas.testing.checking import running\n\nglobals().update(running[-1].classes())\n"

running: list["_Check"] = []

_CHECKING = "RAYNAS_TESTING_CHECK"  # set in the processes that a check starts


def check(part: Any, suite: type | None = None, **options: Any) -> None:
    """Run the suites that a part must pass; pytest prints what they find.

    Args:
        part: a searcher, scheduler or pruning rule (the class, or an object that is as it was
            made), a search space, an evaluator or a driver (objects).
        suite: for a part whose type does not tell, such as the function of a proxy.
        options: attributes of the suite, `check(MySearcher, most=1)`.

    Raises:
        InvalidArgument: when no suite is for such a part, or it has no such option.
        AssertionError: when tests fail; says which.
    """
    if _CHECKING in os.environ and not running:
        return  # a test has started this process, which imports the module that checks the part
    checked = _Check(part, suite, options)
    running.append(checked)
    try:
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setenv(_CHECKING, "1")
            (Path(folder) / "pytest.ini").write_text("[pytest]\n")
            file = Path(folder) / f"test_{Path(folder).name}.py"  # imported once in a process
            file.write_text(_FILE)
            code = pytest.main(
                ["-q", "--tb=short", "--import-mode=importlib", "-p", "no:cacheprovider",
                 "-p", "no:timeout", "--rootdir", folder, str(file)],
                plugins=[checked],
            )  # fmt: skip
    finally:
        running.pop()
    if checked.refusal is not None:
        raise checked.refusal
    if code != pytest.ExitCode.OK:
        raise AssertionError(
            f"{part!r} fails {len(checked.failed)} of {checked.tests} tests:"
            f" {', '.join(checked.failed) or pytest.ExitCode(code).name}."
        )


class _Check:
    """A part under test, and a plugin of pytest that counts."""

    def __init__(self, part: Any, suite: type | None, options: dict[str, Any]):
        self.part, self.suite, self.options = part, suite, options
        self.failed: list[str] = []
        self.refusal: InvalidArgument | None = None
        self.tests = 0
        kind = part if isinstance(part, type) else type(part)
        bases = [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__]
        self.suites = [_SUITES[base] for base in bases[::-1] if base in _SUITES]
        if suite is None and not self.suites:
            known = ", ".join(name.rpartition(".")[2] for name in _SUITES)
            raise InvalidArgument(
                f"part={part!r:.80} is of none of the types {known}: say which suite is to be"
                " run, check(part, suite=ProxySuite)."
            )

    def classes(self) -> Iterator[tuple[str, type]]:
        """Yield (name, class) of the tests; imports the suites, which pytest rewrites."""
        suites = [self.suite] if self.suite else [
            getattr(import_module(f"raynas.testing.{room}"), name) for room, name in self.suites
        ]  # fmt: skip
        for option in self.options:
            if not any(hasattr(base, option) for base in suites):
                names = " and ".join(base.__name__ for base in suites)
                self.refusal = InvalidArgument(f"{option}: {names} has no such option.")
                raise self.refusal
        for base in suites:
            name = f"Test{base.__name__.removesuffix('Suite')}"
            yield name, type(name, (base,), {"part": self.part, **self.options})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test, and note that it failed."""
        self.tests += report.when == "call"
        if report.failed:
            self.failed.append(report.nodeid.rpartition("::")[2])
