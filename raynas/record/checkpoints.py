"""What a checkpoint holds, and the one way in which it is read: tensors and plain values only."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from raynas.record.folder import write
from trials.trial import VALIDATION_LOGITS, WEIGHTS


@dataclass(frozen=True)
class Checkpoint:
    """The state of a trial, or of a retraining.

    Attributes:
        trial: what `Trial.state_dict` gave.
        history: the metrics of every epoch done.
        architecture: what is trained, in the notation of its space; None: not known.
        data: the fingerprint of the data; None: not known.
    """

    trial: dict[str, Any]
    history: Sequence[dict[str, float]]
    architecture: str | None = None
    data: str | None = None

    @property
    def weights(self) -> dict[str, torch.Tensor] | None:
        """Return the weights of what the space builds, where the trial stores them."""
        return self.trial.get(WEIGHTS)

    @property
    def validation_logits(self) -> torch.Tensor | None:
        """Return what the network predicts, `images x classes`, where the trial stores it."""
        return self.trial.get(VALIDATION_LOGITS)

    def save(self, path: Path) -> None:
        """Write the checkpoint.

        Raises:
            StorageError: when it cannot be written.
        """
        content: dict[str, Any] = {"trial": self.trial, "history": list(self.history)}
        optional = {"architecture": self.architecture, "data": self.data}
        content |= {key: value for key, value in optional.items() if value is not None}
        save_state(content, path)

    def only_weights(self) -> "Checkpoint":
        """Return the same without what training goes on with; empty where there are no weights."""
        return replace(self, trial={} if self.weights is None else {WEIGHTS: self.weights})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "Checkpoint":
        """Read a checkpoint.

        Raises:
            Exception: whatever a file that is damaged, or holds more than tensors and plain
                values, makes of the reading.
        """
        return cls.read(path.read_bytes(), device)

    @classmethod
    def read(cls, content: bytes, device: torch.device | str = "cpu") -> "Checkpoint":
        """Return the checkpoint that a file's content is; see `load`."""
        state = _state(content, device)
        return cls(state["trial"], list(state["history"]), state.get("architecture"),
                   state.get("data"))  # fmt: skip


def save_state(content: Mapping[str, Any], path: Path) -> None:
    """Write what `load_state` reads.

    Raises:
        StorageError: when it cannot be written.
    """
    buffer = io.BytesIO()  # torch's own writing to a full disk raises anything
    torch.save(content, buffer)
    write(path, lambda partial: partial.write_bytes(buffer.getbuffer()))


def load_state(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what `torch.save` wrote, if it is tensors and plain values."""
    return _state(path.read_bytes(), device)  # so that errors of the file are errors of reading


def _state(content: bytes, device: torch.device | str) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    return state
