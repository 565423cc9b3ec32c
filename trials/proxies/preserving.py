"""Running a network without leaving a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from search_spaces.errors import InvalidArgument


@contextmanager
def untouched(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Let the network be run, and its modules be given other attributes, within this context.

    Afterwards it is as it was found: attributes (training flags among them), registered
    parameters, buffers and hooks, contents of buffers. PyTorch's generators, of the CPU and of
    `device`, start at the same state in here, so that a network with dropout behaves the same
    every time; they return to where they were. Inference mode is off.

    Raises:
        InvalidArgument: for a network with lazy modules that have never been run.
    """
    modules = list(network.modules())
    _check(network, modules)
    attributes = [(vars(m), vars(m).copy(), _tables(vars(m))) for m in modules]
    buffers = [
        (buffer, buffer.detach().clone())
        for module in modules
        for buffer in vars(module)["_buffers"].values()
        if buffer is not None
    ]
    cuda = device.type == "cuda"
    try:
        with torch.inference_mode(False), torch.random.fork_rng([device] if cuda else []):
            torch.default_generator.manual_seed(0)
            if cuda:
                torch.cuda.default_generators[device.index or 0].manual_seed(0)
            yield
    finally:
        for current, before, tables in attributes:
            current.clear()
            current.update(before)
            for name, table in before.items():  # in place: handles of hooks refer to the tables
                if isinstance(table, dict) and (table or name in tables):
                    table.clear()
                    table.update(tables.get(name, {}))
        with torch.no_grad():
            for buffer, content in buffers:
                buffer.copy_(content)


def _check(network: nn.Module, modules: list[nn.Module]) -> None:
    for module in modules:
        if any(map(is_lazy, vars(module)["_parameters"].values())):
            raise InvalidArgument(
                f"{type(network).__name__} has lazy modules without parameters yet; run it on a"
                " batch first."
            )


def _tables(attributes: dict[str, Any]) -> dict[str, dict[Any, Any]]:
    """Copy the dicts among a module's attributes: parameters, hooks...; without empty ones."""
    return {k: v.copy() for k, v in attributes.items() if isinstance(v, dict) and v}
