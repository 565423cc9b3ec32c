"""The processes that train one network together, each on its share of every batch.

They are those of PyTorch's process group (`torch.distributed`). A trial asks for them when it is
made; where no group is open, it is alone. All processes of a group must do the same in the same
order: what one of them does with the others returns only when all have come there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

#: after which a worker that no longer answers counts as lost
PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True)
class Workers:
    """The processes of a trial, as one of them sees them.

    Attributes:
        rank: the number of this one; the first, 0, reports and saves.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def present(cls) -> "Workers":
        """Return those of the process group that is open; without one, this process alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, length: int) -> slice:
        """Return which of `length` rows are this worker's: all have as many, or one more."""
        return slice(self._bound(self.rank, length), self._bound(self.rank + 1, length))

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of what all have."""
        if self.count == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def same(self, value: Tensor) -> Tensor:
        """Return what the first worker has, which all must have in the same shape."""
        if self.count == 1:
            return value
        value = value.contiguous()
        dist.broadcast(value, 0)
        return value

    @torch.no_grad()
    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Set tensors to what they are on the first worker, all of a type in one message."""
        if self.count == 1:
            return
        types: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            types.setdefault(tensor.dtype, []).append(tensor)
        for of_type in types.values():
            message = self.same(torch.cat([tensor.flatten() for tensor in of_type]))
            parts = torch.split(message, [tensor.numel() for tensor in of_type])
            for tensor, part in zip(of_type, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def gathered(self, rows: Tensor, length: int) -> Tensor:
        """Return the rows of all workers in order.

        Args:
            rows: `share(length)` of them.
            length: how many there are.
        """
        if self.count == 1:
            return rows
        most = -(-length // self.count)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        every = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(every, padded)
        shares = [self._bound(r + 1, length) - self._bound(r, length) for r in range(self.count)]
        return torch.cat([part[:share] for part, share in zip(every, shares, strict=True)])

    def _bound(self, rank: int, length: int) -> int:
        return rank * length // self.count


def listen(address: str, count: int) -> TCPStore:
    """Open the store where `count` workers meet, in the process of the first, at a free port."""
    return TCPStore(address, 0, count, is_master=True, timeout=PATIENCE, wait_for_workers=False)


def join(store: TCPStore | tuple[str, int], rank: int, count: int, device: torch.device) -> None:
    """Open this process's part of a group; returns when all of them have done so.

    Args:
        store: of `listen`; in the other processes its address and port.
        rank: of this process.
        count: of all.
        device: what they compute on: GPUs talk by NCCL, CPUs by Gloo.
    """
    if isinstance(store, tuple):
        address, port = store
        store = TCPStore(address, port, count, is_master=False, timeout=PATIENCE)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)


def leave() -> None:
    """Close the group, where one is open."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_lost_connection(error: BaseException) -> bool:
    """Tell whether an error says that another worker is gone, or no longer answers."""
    if isinstance(error, dist.DistError):  # of NCCL and the store
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)  # which has no type of its own
