"""How long training steps take on this machine, told from what a network computes.

Networks of one budget should train for the same time, not for the same number of passes over the
images: small ones see more images then, as they would if nothing else were compared. The time is
not measured in each trial, where another program may disturb it and no second run would repeat it,
but predicted from three counts by a linear model whose coefficients are measured once.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from search_spaces.counting import count_macs
from search_spaces.errors import InvalidArgument

_WARM_UP = 2  # steps that are not timed: the first ones allocate memory and choose kernels
_TIMED = 3


@dataclass(frozen=True)
class Work:
    """What a network computes for one image, as far as it takes time.

    Attributes:
        macs: multiply-accumulates of the forward pass.
        activations: outputs of convolutions and linear layers.
        layers: convolutions and linear layers; at least 1.
    """

    macs: int
    activations: int
    layers: int

    @classmethod
    def of(cls, network: nn.Module, input_shape: Sequence[int]) -> "Work":
        """Count what a network computes for an image of (channels, height, width)."""
        outputs: list[int] = []
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        hooks = [
            layer.register_forward_hook(lambda _, __, output: outputs.append(output.numel()))
            for layer in layers
        ]
        try:
            macs = count_macs(network, input_shape)  # one forward pass
        finally:
            for hook in hooks:
                hook.remove()
        return cls(macs, sum(outputs), max(1, len(outputs)))  # of other layers, no time would pass


@dataclass(frozen=True)
class Pace:
    """Seconds of a training step: a sum over what its images take and what its layers take.

    Written as text, `1.1e-11/5e-09/2e-05`, it is an option of `Train`.

    Attributes:
        mac: seconds for each multiply-accumulate of each image.
        activation: seconds for each activation of each image.
        layer: seconds for each layer, whatever the batch.
    """

    mac: float
    activation: float
    layer: float

    @classmethod
    def parse(cls, text: str) -> "Pace":
        """Read what `str()` writes.

        Raises:
            InvalidArgument: for anything else, and where all three are 0.
        """
        try:
            pace = cls(*(float(part) for part in text.split("/")))
        except (TypeError, ValueError):
            pace = cls(-1.0, 0.0, 0.0)
        numbers = (pace.mac, pace.activation, pace.layer)
        if not np.isfinite(numbers).all() or min(numbers) < 0 or not any(numbers):
            raise InvalidArgument(
                f"pace={text!r}: give seconds per multiply-accumulate, activation and layer, like"
                " 1.1e-11/5e-09/2e-05."
            )
        return pace

    def __str__(self) -> str:
        return "/".join(f"{number:.3g}" for number in (self.mac, self.activation, self.layer))

    def seconds(self, work: Work, batch_size: int) -> float:
        """Predict the seconds of a training step."""
        image = self.mac * work.macs + self.activation * work.activations
        return batch_size * image + self.layer * work.layers

    @classmethod
    def fitted(cls, works: Sequence[Work], batch_size: int, seconds: Sequence[float]) -> "Pace":
        """Fit the coefficients to measured steps by least squares of the relative errors.

        Args:
            works: of the networks that were measured.
            batch_size: images of a step.
            seconds: of a step of each.
        """
        from scipy.optimize import nnls  # which no trial needs

        counts = [(batch_size * w.macs, batch_size * w.activations, w.layers) for w in works]
        rows = np.array(counts, float) / np.array(seconds)[:, None]
        scales = rows.max(0)
        scales[scales == 0] = 1.0
        coefficients: npt.NDArray[np.float64] = nnls(rows / scales, np.ones(len(rows)))[0] / scales
        return cls(*coefficients.tolist())


def step_seconds(step: Callable[[], object], device: torch.device) -> float:
    """Measure a training step: the median of three after two that are not counted.

    On a CPU it is the processor's time of this thread and those it has started, over their number,
    so that what else runs on the machine counts little; on a GPU the time that passes.
    """
    times = []
    for number in range(_WARM_UP + _TIMED):
        start = _clock(device)
        step()
        if number >= _WARM_UP:
            times.append(_clock(device) - start)
    return float(np.median(times))


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()
