"""Weights of their own that children have behind a shared prefix.

Zhang et al.: Deeper Insights into Weight Sharing in NAS (arXiv 2001.01431), prefix sharing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture


class PrivateWeights:
    """The weights behind a shared prefix: each child has its own, buffers and momentum too.

    They are swapped in for the child that runs. A child keeps what it has used; all start alike.

    Args:
        modules: those behind the prefix.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self.parameters = [p for module in modules for p in module.parameters()]
        self.buffers = [b for module in modules for b in module.buffers()]
        self._start = [t.detach().clone() for t in self._tensors]
        #: {child: {number of a tensor: its value, ...}}
        self.kept: dict[Architecture, dict[int, Tensor]] = {}
        self.momenta: dict[Architecture, dict[int, Tensor]] = {}

    @property
    def _tensors(self) -> list[Tensor]:
        return [*self.parameters, *self.buffers]

    @contextmanager
    def of(
        self, arch: Architecture, optimizer: torch.optim.Optimizer | None = None
    ) -> Iterator[None]:
        """Use a child's own weights; with an optimizer, keep what it makes of them."""
        kept = self.kept.get(arch, {})
        momenta = self.momenta.get(arch, {})
        for i, tensor in enumerate(self._tensors):
            tensor.data = kept.get(i, self._start[i]).clone()
        if optimizer is not None:
            for i, p in enumerate(self.parameters):
                optimizer.state.pop(p, None)
                if i in momenta:
                    optimizer.state[p]["momentum_buffer"] = momenta[i]
        try:
            yield
        finally:
            if optimizer is not None:
                self._keep(arch, optimizer)

    def _keep(self, arch: Architecture, optimizer: torch.optim.Optimizer) -> None:
        """Keep the tensors that have a gradient, all buffers, and the momenta."""
        used = {i for i, p in enumerate(self.parameters) if p.grad is not None}
        used |= set(range(len(self.parameters), len(self._tensors)))
        untouched = {i: t for i, t in self.kept.get(arch, {}).items() if i not in used}
        self.kept[arch] = {i: self._tensors[i].data for i in used} | untouched
        self.momenta[arch] = {
            i: buffer
            for i, p in enumerate(self.parameters)
            if (buffer := optimizer.state.get(p, {}).get("momentum_buffer")) is not None
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the weights and momenta of all children, by their choices."""
        return {
            "private": {arch.choices: tensors for arch, tensors in self.kept.items()},
            "momenta": {arch.choices: tensors for arch, tensors in self.momenta.items()},
        }

    def load_state_dict(self, state: dict[str, Any], space: str) -> None:
        """Go on from where `state_dict` was taken.

        Args:
            state: what it returned; other keys are left alone.
            space: name of the children's search space.
        """
        for key, own in (("private", self.kept), ("momenta", self.momenta)):
            own.clear()
            own.update({Architecture(space, c): dict(t) for c, t in state[key].items()})
