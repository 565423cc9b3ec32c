"""The forward pass of a supernet as data: its steps, and what one architecture computes of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One value of a supernet's forward pass.

    Args:
        inputs: numbers of the values before it that it is made of; 0 are the images.
        join: whether several inputs are added or concatenated along the channels.
        slot: the number of the slot that chooses its module; None: always the same one.
        like: the value whose shape the result has where no input is there; None: then this one
            is not there either.
        layer: the number of its layer; the stem has 0.
        modules: for each choice (or the only one) the name of its module; "" where the value is
            passed on as it is, None where nothing comes out.
        stride: by which nothing is smaller than what is read, where it is filled up with zeros.
    """

    inputs: tuple[int, ...]
    join: Literal["sum", "cat"] = "sum"
    slot: int | None = None
    like: int | None = None
    layer: int = 0
    modules: tuple[str | None, ...] = ("",)
    stride: int = 1


@dataclass(frozen=True)
class Call:
    """A computation of a child: a module (or none) on values that are there.

    Calls that are equal compute the same, whatever the child: that is how children share work.

    Args:
        step: the number of its step.
        module: its name in `GraphSupernet.operations`; "" only joins its inputs, "zeros" makes
            zeros of the shape of its input.
        inputs: numbers of calls in the same list; -1 are the images.
        join: see `Step`.
    """

    step: int
    module: str
    inputs: tuple[int, ...]
    join: Literal["sum", "cat"] = "sum"


def needed(numbered: Mapping[Call, int], outputs: Iterable[int]) -> dict[int, Call]:
    """List the calls that outputs need, by number, in an order in which they can be made."""
    calls = list(numbered)
    required = set(outputs)
    for i in range(len(calls) - 1, -1, -1):
        if i in required:
            required.update(calls[i].inputs)
    return {i: call for i, call in enumerate(calls) if i in required}


def joined(values: Sequence[Tensor], join: Literal["sum", "cat"]) -> Tensor:
    """Add values, or concatenate them along the channels."""
    if join == "cat":
        return torch.cat(list(values), dim=1)
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
