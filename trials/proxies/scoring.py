"""Scores of architectures without training: a proxy on the untrained network, on one batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import InvalidArgument
from trials.data import Data
from trials.proxies import Score, check_proxy, proxy_name
from trials.trial import Estimator, Role, derived_seed


@dataclass
class Scorer:
    """Scores architectures of one space with one proxy; higher is better.

    Every architecture gets the same seed for its initial weights and the same mini-batch of the
    training part, shuffled, without augmentation. A pickled scorer leaves the batch behind.

    Args:
        space: what the architectures are of.
        data: what the batch is of.
        proxy: a name of `trials.proxies.PROXIES`, or a function of network, images and labels;
            the names `params` and `macs` are those of the space and build no network.
        batch_size: images of the batch; scores with different ones do not compare.
        seed: of the weights and the batch.
        device: where the networks run.

    Raises:
        UnknownName: for a proxy that is not there.
        InvalidArgument: for one that is no function, or a batch larger than the training part.
    """

    space: SearchSpace
    data: Data
    proxy: str | Score = "naswot"
    batch_size: int = 128
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_proxy("proxy", self.proxy)
        images = len(self.data.train)
        if not 1 <= self.batch_size <= images:
            raise InvalidArgument(
                f"batch_size={self.batch_size} is not in 1..{images}, the number of training"
                f" images of {self.data.name}; choose a smaller one or give more images."
            )

    def score(self, arch: Architecture) -> float:
        """Score an architecture; what its network raises goes through.

        Raises:
            InvalidArgument: where a function of the user's own returns no number.
        """
        shape, classes = self.data.input_shape, self.data.num_classes
        if self.proxy == "params":
            return float(self.space.params(arch, shape, classes))
        if self.proxy == "macs":
            return float(self.space.macs(arch, shape, classes))
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(derived_seed(self.seed, Role.PROXY_WEIGHTS))
            network = self.space.build(arch, shape, classes).to(self.device)
        score = check_proxy("proxy", self.proxy)
        return _number(proxy_name(self.proxy), score(network, *self._batch))

    @cached_property
    def _batch(self) -> tuple[Tensor, Tensor]:
        """Images, `batch x channels x height x width`, and labels, `batch`."""
        seed = derived_seed(self.seed, Role.PROXY_BATCH)
        return next(self.data.train.batches(self.batch_size, self.device, seed=seed))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_batch"}


def _number(name: str, value: Any) -> float:
    """Return a score as a number; minus infinity for NaN, by which nothing can be ranked."""
    try:
        number = value.item() if hasattr(value, "item") else value  # of an array or a tensor
    except (ValueError, RuntimeError):  # it has several elements
        number = None
    if not isinstance(number, int | float):
        raise InvalidArgument(
            f"proxy: {name} returned {value!r:.80}. It must return one number, the higher the"
            " better, and minus infinity for a network that it cannot rank."
        )
    return -math.inf if math.isnan(number) else float(number)


@dataclass(frozen=True)
class Proxy(Estimator):
    """Judges architectures by a score of their untrained networks, as the evaluator `proxy`.

    Args:
        proxy: a name of `trials.proxies.PROXIES`, or a function of network, images and labels.
        batch_size: images of the one mini-batch.
    """

    proxy: str | Score = "naswot"
    batch_size: PositiveInt = 128

    def __post_init__(self) -> None:
        check_proxy("proxy", self.proxy)

    @property
    def metric_name(self) -> str:
        """The proxy's own name: a score is no accuracy."""
        return proxy_name(self.proxy)

    def open(
        self, space: SearchSpace, data: Data, seed: int, device: torch.device
    ) -> Callable[[Architecture], dict[str, float]]:
        """Return a function that scores architectures; see `Scorer`."""
        scorer = Scorer(space, data, self.proxy, self.batch_size, seed, str(device))
        return lambda arch: {self.metric_name: scorer.score(arch)}


@dataclass(frozen=True)
class Proxies(Estimator):
    """Scores architectures by several proxies at once.

    NaN by one that fails for a network: the others may do with it.

    Args:
        names: of `trials.proxies.PROXIES`.
        batch_size: images of the one mini-batch.
    """

    names: tuple[str, ...]
    batch_size: PositiveInt = 128

    def open(
        self, space: SearchSpace, data: Data, seed: int, device: torch.device
    ) -> Callable[[Architecture], dict[str, float]]:
        """Return a function that scores architectures; see `Scorer`."""
        scorers = [Scorer(space, data, p, self.batch_size, seed, str(device)) for p in self.names]
        return lambda arch: {
            name: _score(scorer, arch) for name, scorer in zip(self.names, scorers, strict=True)
        }


def _score(scorer: Scorer, arch: Architecture) -> float:
    try:
        return scorer.score(arch)
    except Exception:  # a network may raise anything
        return math.nan
