"""The candidates for an ensemble: trained architectures of a run, and what they predict."""

import statistics
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import nn

from raynas.cluster import Resources, prepare_process, reason_of
from raynas.ensemble.saep import unusable
from raynas.record.checkpoints import Checkpoint
from raynas.record.folder import RunFolder
from raynas.record.history import Evaluation
from search_spaces import Architecture, SearchSpace
from search_spaces.counting import Counts, count_macs, count_params
from trials.data import Data
from trials.training import predict

_PASSES = 20  # of one image
_REASON = 300  # letters


@dataclass(frozen=True)
class Member:
    """One trained architecture.

    Attributes:
        evaluation: its index in the run.
        architecture: in the notation of the search space.
        epochs: that it was trained for.
        validation: its logits on the validation part, `images x classes`.
        test: its logits on the test part.
        counts: parameters and MACs of one image.
        latency_ms: of one image on the CPU, with the threads of a trial.
    """

    evaluation: int
    architecture: str
    epochs: int
    validation: NDArray[np.float32]
    test: NDArray[np.float32]
    counts: Counts
    latency_ms: float


class ValidationLogits:
    """What the trials of a run predict on the validation part; a `HeldOut`.

    As the trials stored it, or where they store weights only, from these, on the CPU.

    Args:
        folder: the run folder.
        space: of the run.
        data: of the run.
    """

    def __init__(self, folder: RunFolder, space: SearchSpace, data: Data):
        self.folder, self.space, self.data = folder, space, data
        self.labels = data.validation.labels
        self._computed: dict[int, torch.Tensor] = {}

    def logits(self, evaluation: int) -> NDArray[np.float32] | None:
        """Return logits; None when there are neither predictions nor weights that can be used."""
        try:
            state = read_state(self.folder.checkpoint(evaluation), self.data)
            stored = state.validation_logits
            if stored is None:
                if evaluation not in self._computed:
                    assert state.architecture is not None
                    arch = self.space.from_string(state.architecture)
                    network = load_network(self.space, arch, self.data, state)
                    cpu = torch.device("cpu")
                    self._computed[evaluation], _ = predict(network, self.data.validation, cpu)
                stored = self._computed[evaluation]
            return _usable(stored, self.data)
        except Exception:  # whatever the network or a damaged file raises
            return None


class _Unusable(Exception):
    """Why an evaluation cannot be a member."""


def collect(
    folder: RunFolder,
    space: SearchSpace,
    data: "ray.ObjectRef[Data]",
    evaluations: Sequence[Evaluation],
    resources: Resources,
) -> tuple[list[Member], dict[int, str]]:
    """Return the members among some evaluations, and {evaluation: why it cannot be one}."""
    task: Any = ray.remote(_examine).options(num_cpus=resources.cpus, num_gpus=resources.gpus)
    waiting = [
        task.remote(space, space.from_string(e.notation), data, folder.checkpoint(e.index),
                    resources.threads)
        for e in evaluations
    ]  # fmt: skip
    members, excluded = [], {}
    for evaluation, reference in zip(evaluations, waiting, strict=True):
        try:
            examined = ray.get(reference)
        except ray.exceptions.RayError as error:  # the worker died
            examined = reason_of(error)
        if isinstance(examined, str):
            excluded[evaluation.index] = textwrap.shorten(examined, _REASON)
        else:
            members.append(
                Member(evaluation.index, evaluation.notation, evaluation.epochs, *examined)
            )
    return members, excluded


def read_state(path: Path, data: Data) -> Checkpoint:
    """Return the checkpoint of an evaluation, on the CPU.

    Raises:
        _Unusable: when there is none, or not of these data.
    """
    if not path.exists():
        raise _Unusable(f"its weights are missing: there is no {path}")
    try:
        state = Checkpoint.load(path)
    except Exception as error:  # damaged files raise anything
        raise _Unusable(
            f"its weights cannot be read from {path}, which is damaged or holds more than tensors"
            f" and plain values: {error}"
        ) from error
    if state.data not in (None, data.fingerprint):
        raise _Unusable(
            f"it was trained on other data, or another division of them ({state.data}; the run"
            f" has {data.fingerprint})"
        )
    return state


def load_network(
    space: SearchSpace, arch: Architecture, data: Data, state: Checkpoint
) -> nn.Module:
    """Return the trained network of an evaluation, on the CPU.

    Raises:
        _Unusable: when the checkpoint has no weights.
    """
    if state.weights is None:
        raise _Unusable("its evaluator stores no weights (`network` in the trial's state)")
    network = space.build(arch, data.input_shape, data.num_classes)
    network.load_state_dict(state.weights)
    return network.eval()


def _usable(stored: torch.Tensor, data: Data) -> NDArray[np.float32]:
    """Return logits on the validation part, when an ensemble can use them."""
    shape = (len(data.validation), data.num_classes)
    if tuple(stored.shape) != shape:
        raise _Unusable(f"its validation logits are {tuple(stored.shape)}, not {shape}")
    validation: NDArray[np.float32] = stored.float().cpu().numpy()
    if reason := unusable(validation):
        raise _Unusable(reason)
    return validation


def latency_ms(network: nn.Module, input_shape: Sequence[int], threads: int) -> float:
    """Return the milliseconds of one image's forward pass on the CPU: the median of 20."""
    image = torch.zeros(1, *input_shape)
    network = network.cpu().eval()
    before, seconds = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    with torch.inference_mode():
        for _ in range(_PASSES + 3):
            start = time.perf_counter()
            network(image)
            seconds.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    return 1000 * statistics.median(seconds[3:])


def _examine(
    space: SearchSpace, arch: Architecture, data: Data, path: Path, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], Counts, float] | str:
    """Examine a trained network; return its part of a `Member`, or why it cannot be one."""
    device = prepare_process(threads)
    try:
        state = read_state(path, data)
        network = load_network(space, arch, data, state).to(device)
        counts = Counts(count_params(network), count_macs(network, data.input_shape))
        stored = state.validation_logits
        if stored is None:
            stored, _ = predict(network, data.validation, device)
        test, _ = predict(network, data.test, device)
        validation = _usable(stored, data)
        seconds = latency_ms(network, data.input_shape, threads)
        return validation, test.float().cpu().numpy(), counts, seconds
    except _Unusable as error:
        return str(error)
    except Exception as error:  # whatever the network or a damaged file raises
        return reason_of(error)
