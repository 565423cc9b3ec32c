"""What every driver must do."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from raynas.cluster import connected, resources
from raynas.config.resolve import resolve
from raynas.drivers.driver import Driver
from raynas.drivers.session import Session
from raynas.record.events import Finished, Reported, Suggested
from raynas.record.journal import Journal, read_events
from raynas.search.search import Search
from raynas.testing.suite import Suite


@dataclass(frozen=True)
class Carried:
    """A driver, and what it has done.

    Attributes:
        driver: it.
        folder: of the run.
        arguments: of the run.
    """

    driver: Driver
    folder: Path
    arguments: dict[str, Any]

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open the run, as far as its journal tells; it is not begun."""
        plan = resolve(self.arguments)
        config = plan.config
        share = resources(config.cpus_per_trial, config.gpus_per_trial, config.max_concurrent)
        self.driver.check(plan, share)
        with Journal(self.folder) as journal:
            search = Search(
                plan.space, plan.searcher, plan.scheduler, config.samples, plan.epochs,
                config.seed, journal, plan.evaluator.metric_name,
            )  # fmt: skip
            session = Session(plan, journal, search, share)
            session.write_plan()
            self.folder.joinpath("checkpoints").mkdir(exist_ok=True)
            search.begin()
            yield session

    def run(self) -> None:
        """Have the driver carry out what is left."""
        with self.session() as session:
            assert not session.search.exhausted
            self.driver.run(session)


class DriverSuite(Suite):
    """Tests of a driver, on the Ray that is there or one that is started; `part` is the driver.

    Attributes:
        evaluator: whose searches it carries out; a name or an object, as of `raynas.run`.
        space: where, likewise.
        data: on what, likewise.
        scheduler: likewise.
        samples: architectures to evaluate.
        waiting: evaluations that may wait in line behind the `max_concurrent` at work.
    """

    evaluator: ClassVar[Any] = "train"
    space: ClassVar[Any] = "nasbench201:channels=2,cells=1"
    data: ClassVar[Any] = "digits:fraction=0.3"
    scheduler: ClassVar[Any] = "fifo"
    samples: ClassVar[int] = 5
    waiting: ClassVar[int] = 0

    _carried: ClassVar[Carried | None] = None

    @pytest.fixture
    def driver(self) -> Driver:
        """The driver."""
        driver: Driver = self.given()
        return driver

    @pytest.fixture
    def cluster(self, request: pytest.FixtureRequest) -> None:
        """A Ray for the tests, until all have ended."""
        started = ExitStack()
        started.enter_context(connected())
        request.session.addfinalizer(started.close)

    @pytest.fixture
    def carried(
        self, driver: Driver, cluster: None, tmp_path_factory: pytest.TempPathFactory
    ) -> Carried:
        """A search that was carried out to its end, one evaluation at a time, once for a class."""
        suite = type(self)
        if suite._carried is None:
            carried = self.new(driver, tmp_path_factory.mktemp("driver"), max_concurrent=1)
            carried.run()
            suite._carried = carried
        return suite._carried

    def new(self, driver: Driver, folder: Path, **changes: Any) -> Carried:
        """Return a search that is not begun."""
        arguments = {
            "space": self.space, "data": self.data, "evaluate": self.evaluator,
            "search": "random", "scheduler": self.scheduler, "samples": self.samples, "epochs": 2,
            "seed": 1, "storage_path": folder, "name": "run", **changes,
        }  # fmt: skip
        return Carried(driver, folder / "run", arguments)

    def check_whole(self, carried: Carried) -> None:
        """Every evaluation began, was reported and has ended, each once."""
        with carried.session() as session:
            search, history = session.search, session.history
            assert search.exhausted
            assert len(search.evaluations) == self.samples
            assert search.best is not None
            assert set(history.finished) == set(range(self.samples))
        events = read_events(carried.folder)
        for kind in (Suggested, Finished):
            indices = [event.evaluation for event in events if isinstance(event, kind)]
            assert sorted(indices) == list(range(self.samples)), kind.__name__
        reported = Counter(event.evaluation for event in events if isinstance(event, Reported))
        for evaluation in search.evaluations:
            assert reported[evaluation.index] == evaluation.epochs <= search.epochs

    def test_evaluates_everything_once(self, carried: Carried) -> None:
        self.check_whole(carried)

    def test_the_metric_of_the_evaluator_is_there(self, carried: Carried) -> None:
        with carried.session() as session:
            metric = session.plan.evaluator.metric_name
        reports = [e for e in read_events(carried.folder) if isinstance(e, Reported)]
        assert reports
        assert all(metric in report.metrics for report in reports)

    @pytest.mark.parametrize("concurrent", [1, 2])
    def test_no_more_at_a_time_than_may_be(
        self, carried: Carried, concurrent: int, tmp_path: Path
    ) -> None:
        if concurrent > 1:
            carried = self.new(carried.driver, tmp_path, max_concurrent=concurrent)
            carried.run()
            self.check_whole(carried)
        running = most = 0
        for event in read_events(carried.folder):
            running += isinstance(event, Suggested) - isinstance(event, Finished)
            most = max(most, running)
        assert 1 <= most <= concurrent + self.waiting

    def test_goes_on_after_an_interruption(self, carried: Carried, tmp_path: Path) -> None:
        """From what a driver leaves that is killed while its third evaluation is under way."""
        killed = self.new(carried.driver, tmp_path, max_concurrent=1)
        with killed.session() as session:
            folder = session.folder
        lines = (carried.folder / "journal" / "events.jsonl").read_text().splitlines()
        kinds = [json.loads(line)["event"] for line in lines]
        third = [i for i, kind in enumerate(kinds) if kind == "suggested"][2]
        left = lines[: third + 1]
        (folder.path / "journal" / "events.jsonl").write_text("\n".join(left) + "\n")
        killed.run()
        self.check_whole(killed)
        after = (killed.folder / "journal" / "events.jsonl").read_text().splitlines()
        assert after[: len(left)] == left
        assert self.outcome(killed) == self.outcome(carried)

    @staticmethod
    def outcome(carried: Carried) -> dict[int, list[dict[str, float]]]:
        """Return the metrics of every evaluation, without what a clock measured."""
        told: dict[int, list[dict[str, float]]] = {}
        for event in read_events(carried.folder):
            if isinstance(event, Reported):
                plain = {k: v for k, v in event.metrics.items() if not k.endswith("seconds")}
                told.setdefault(event.evaluation, []).append(plain)
        return told
