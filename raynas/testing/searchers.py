"""What every search algorithm must do."""

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

import search_spaces
from raynas.searchers import Searcher
from raynas.testing.suite import Suite
from search_spaces import Architecture, SearchSpace, UserSpace
from search_spaces.errors import InvalidArgument


def _no_network(config: dict[str, Any], input_shape: Sequence[int], classes: int) -> nn.Module:
    raise NotImplementedError


#: for a searcher whose networks grow
DEEP = UserSpace("deep", {"depth": (0, 1, 2, 3), "width": (8, 16, 32, 64)}, _no_network)

_DERIVED = 100  # architectures that a searcher's driver has derived before the first `ask`

_CHILD = (
    "import pickle, sys; suite, algorithm, space = pickle.load(sys.stdin.buffer);"
    "suite.begin(algorithm, space, 5); print(suite().drive(algorithm, 40))"
)


class SearcherSuite(Suite):
    """Tests of a search algorithm; `part` is the class, or another function that makes one.

    Attributes:
        most: architectures that it asks for in all.
        draws: whether it draws at random, so that seeds make a difference.
    """

    most: ClassVar[float] = math.inf
    draws: ClassVar[bool] = True

    @pytest.fixture
    def searcher(self) -> Callable[[], Searcher]:
        """What makes one that is not started."""
        return self.factory()

    @pytest.fixture
    def space(self, searcher: Callable[[], Searcher]) -> SearchSpace:
        """A space that it can search."""
        for space in (search_spaces.get("nasbench201"), DEEP):
            try:
                searcher().check(space)
            except InvalidArgument:
                continue
            return space
        raise NotImplementedError(f"{type(self).__name__}: say in which `space` it can search.")

    @staticmethod
    def value(arch: Architecture) -> float:
        """Return a made-up accuracy that a search can climb."""
        return sum(choice == 3 for choice in arch.choices) / len(arch.choices)

    @classmethod
    def begin(cls, algorithm: Searcher, space: SearchSpace, seed: int) -> None:
        """Start it, and tell it what it asks for: scores, or what its driver has derived."""
        algorithm.start(space, seed)
        if algorithm.driver is not None:
            rng = np.random.default_rng(seed)
            for _ in range(_DERIVED):
                algorithm.learn(space.sample(rng))
        if algorithm.scoring is not None:
            unscored = algorithm.scoring.architectures
            algorithm.tell_scores({arch: cls.value(arch) for arch in unscored})

    @staticmethod
    def tell(algorithm: Searcher, arch: Architecture, value: float, budget: int) -> None:
        """Tell a result; where a step of an ensemble is due then, have it taken."""
        algorithm.tell(arch, value, budget)
        if algorithm.undecided:
            algorithm.grow(algorithm.decide(MadeUp()))

    def drive(
        self, algorithm: Searcher, steps: int, delay: int = 0, budget: int = 4
    ) -> list[tuple[int, ...]]:
        """Ask `steps` times; results come `delay` asks later. Returns the choices asked for."""
        asked: list[Architecture] = []
        for step in range(steps):
            arch = algorithm.ask()
            if arch is not None:
                asked.append(arch)
            if 0 <= step - delay < len(asked):
                done = asked[step - delay]
                self.tell(algorithm, done, self.value(done), budget)
        return [arch.choices for arch in asked]

    def test_stays_in_the_space(self, searcher: Callable[[], Searcher], space: SearchSpace) -> None:
        algorithm = searcher()
        self.begin(algorithm, space, 0)
        asked = self.drive(algorithm, 60)
        assert asked
        for choices in asked:
            space.architecture(choices)

    def test_same_seed_same_search(
        self, searcher: Callable[[], Searcher], space: SearchSpace
    ) -> None:
        runs = []
        for seed in (5, 5, 6):
            algorithm = searcher()
            self.begin(algorithm, space, seed)
            runs.append(self.drive(algorithm, 60))
        assert runs[0] == runs[1]
        assert (runs[0] != runs[2]) == self.draws

    def test_same_search_in_another_process(
        self, searcher: Callable[[], Searcher], space: SearchSpace
    ) -> None:
        """Neither hash order nor process state may leak in."""
        algorithm = searcher()
        self.begin(algorithm, space, 5)
        here = self.drive(algorithm, 40)
        there = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=sent((SearcherSuite, searcher(), space)),
            stdout=subprocess.PIPE,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert there.stdout.decode().strip() == str(here)

    def test_start_begins_anew(self, searcher: Callable[[], Searcher], space: SearchSpace) -> None:
        algorithm = searcher()
        self.begin(algorithm, space, 1)
        first = self.drive(algorithm, 30)
        self.begin(algorithm, space, 1)
        assert self.drive(algorithm, 30) == first

    def test_results_may_be_late_or_never_come(
        self, searcher: Callable[[], Searcher], space: SearchSpace
    ) -> None:
        algorithm = searcher()
        self.begin(algorithm, space, 3)
        assert self.drive(algorithm, 50, delay=17)
        silent = searcher()
        self.begin(silent, space, 3)
        assert any(silent.ask() is not None for _ in range(3))

    def test_survives_failures_only(
        self, searcher: Callable[[], Searcher], space: SearchSpace
    ) -> None:
        algorithm = searcher()
        self.begin(algorithm, space, 4)
        for asked in range(40):
            arch = algorithm.ask()
            if asked >= self.most:
                break
            assert arch is not None
            self.tell(algorithm, arch, -math.inf, 1)

    def test_goes_on_when_it_is_declined(
        self, searcher: Callable[[], Searcher], space: SearchSpace
    ) -> None:
        """What is never evaluated, for a constraint, is not waited for."""
        algorithm = searcher()
        if algorithm.driver is not None or algorithm.needs_predictions:
            pytest.skip("goes with no constraint")
        self.begin(algorithm, space, 3)
        kept = 0
        for asked in range(60):
            arch = algorithm.ask()
            if asked >= self.most:
                break
            assert arch is not None
            if asked % 3:
                algorithm.decline(arch)
            else:
                self.tell(algorithm, arch, self.value(arch), 4)
                kept += 1
        assert kept == math.ceil(min(60, self.most) / 3)

    def test_takes_results_that_it_did_not_ask_for(
        self, searcher: Callable[[], Searcher], space: SearchSpace
    ) -> None:
        algorithm = searcher()
        self.begin(algorithm, space, 4)
        rng = np.random.default_rng(0)
        for _ in range(20):
            arch = space.sample(rng)
            algorithm.tell(arch, self.value(arch), 4)
        assert algorithm.ask() is not None

    def test_asks_for_what_its_driver_derives_and_nothing_else(
        self, searcher: Callable[[], Searcher], space: SearchSpace
    ) -> None:
        algorithm = searcher()
        algorithm.start(space, 0)
        derived = [space.sample(np.random.default_rng(seed)) for seed in range(3)]
        if algorithm.driver is None:
            with pytest.raises(NotImplementedError):
                algorithm.learn(derived[0])
            return
        assert algorithm.ask() is None
        for arch in derived:
            algorithm.learn(arch)
        assert [algorithm.ask() for _ in range(4)] == [*derived, None]

    def test_asking_for_nothing_changes_nothing(
        self, searcher: Callable[[], Searcher], space: SearchSpace
    ) -> None:
        """Where all results are awaited, more idle workers make no difference."""
        ends = []
        for times in (1, 5):
            algorithm = searcher()
            self.begin(algorithm, space, 2)
            waiting: list[Architecture] = []
            while len(waiting) < 200 and (arch := algorithm.ask()) is not None:
                waiting.append(arch)
            if len(waiting) < 200:
                assert not any(algorithm.ask() for _ in range(times))
            for arch in waiting:
                self.tell(algorithm, arch, self.value(arch), 4)
            ends.append((waiting, self.drive(algorithm, 20)))
        assert ends[0] == ends[1]

    def test_works_in_every_space_that_it_does_not_refuse(
        self, searcher: Callable[[], Searcher]
    ) -> None:
        searched = []
        for space in (DEEP, *map(search_spaces.get, search_spaces.names())):
            algorithm = searcher()
            try:
                algorithm.check(space)
            except InvalidArgument:
                continue
            searched.append(space.name)
            self.begin(algorithm, space, 0)
            for asked in range(15):
                arch = algorithm.ask()
                if asked >= self.most:
                    break
                assert arch is not None
                space.check(arch)
                self.tell(algorithm, arch, 0.5, 1)
        assert searched

    def test_pickles(self, searcher: Callable[[], Searcher], space: SearchSpace) -> None:
        algorithm = searcher()
        self.begin(algorithm, space, 5)
        self.drive(algorithm, 20)
        copy = pickle.loads(pickle.dumps(algorithm))
        assert self.drive(copy, 20) == self.drive(algorithm, 20)


def sent(value: tuple[type, Searcher, SearchSpace]) -> bytes:
    """Pickle what another process unpickles, also where its class is of a script or a notebook."""
    if all(type(part).__module__ != "__main__" for part in value):
        return pickle.dumps(value)
    from ray import cloudpickle  # takes seconds to import, there too

    by_value: bytes = cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
    return by_value


class MadeUp:
    """Made-up predictions on a held-out part; those of an evaluation are always the same."""

    labels: NDArray[np.int64] = np.arange(120) % 4

    def logits(self, evaluation: int) -> NDArray[np.float32]:
        """Return those of an evaluation, `images x classes`, which are right more often."""
        noise: NDArray[Any] = np.random.default_rng(evaluation).normal(size=(120, 4))
        return (noise + np.eye(4)[self.labels]).astype(np.float32)
