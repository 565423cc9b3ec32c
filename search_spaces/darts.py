"""DARTS, and the cell spaces of NASNet, AmoebaNet, PNAS and ENAS on the same cell code.

Liu, Simonyan, Yang: DARTS (ICLR 2019). Operations, number of nodes and output of the others as in
Radosavovic et al.: On Network Design Spaces for Visual Recognition (NDS, ICCV 2019).
"""

from dataclasses import dataclass
from typing import ClassVar

from search_spaces.cells.space import CellSpace
from search_spaces.cells.supernet import SharingCellSpace


@dataclass(frozen=True)
class DARTS(SharingCellSpace):
    """4 nodes, two different sources each, 7 operations: about 10^9 cells of each kind.

    NDS takes a larger population: with `none` and `replacement` it is this space.

    Args:
        replacement: whether both edges of a node may start at the same node.
        none: whether the operation "none" can be chosen.
    """

    replacement: bool = False
    none: bool = False

    name: ClassVar[str] = "darts"
    paper: ClassVar[str] = "Liu, Simonyan & Yang: DARTS, ICLR 2019"
    operations: ClassVar[tuple[str, ...]] = (
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )
    nodes: ClassVar[int] = 4

    @property
    def distinct(self) -> bool:
        """True unless sources are drawn with replacement."""
        return not self.replacement

    @property
    def choices(self) -> tuple[str, ...]:
        """The operations, "none" last where it can be chosen."""
        return (*self.operations, "none") if self.none else self.operations


@dataclass(frozen=True)
class NASNet(CellSpace):
    """5 nodes, 13 operations; the output joins the loose ends."""

    name: ClassVar[str] = "nasnet"
    paper: ClassVar[str] = "Zoph et al.: NASNet, CVPR 2018; Radosavovic et al.: NDS, ICCV 2019"
    operations: ClassVar[tuple[str, ...]] = (
        "skip_connect",
        "conv_3x1_1x3",
        "conv_7x1_1x7",
        "dil_conv_3x3",
        "avg_pool_3x3",
        "max_pool_3x3",
        "max_pool_5x5",
        "max_pool_7x7",
        "conv_1x1",
        "conv_3x3",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "sep_conv_7x7",
    )
    nodes: ClassVar[int] = 5
    loose: ClassVar[bool] = True


@dataclass(frozen=True)
class AmoebaNet(CellSpace):
    """5 nodes, 8 operations; the output joins the loose ends."""

    name: ClassVar[str] = "amoebanet"
    paper: ClassVar[str] = "Real et al.: AmoebaNet, AAAI 2019; Radosavovic et al.: NDS, ICCV 2019"
    operations: ClassVar[tuple[str, ...]] = (
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "sep_conv_7x7",
        "avg_pool_3x3",
        "max_pool_3x3",
        "dil_sep_conv_3x3",
        "conv_7x1_1x7",
    )
    nodes: ClassVar[int] = 5
    loose: ClassVar[bool] = True


@dataclass(frozen=True)
class PNAS(SharingCellSpace):
    """5 nodes, 8 operations; the output joins all nodes.

    As in NDS the reduction cell is searched apart; in PNAS itself both cells are the same.
    """

    name: ClassVar[str] = "pnas"
    paper: ClassVar[str] = "Liu et al.: PNAS, ECCV 2018; Radosavovic et al.: NDS, ICCV 2019"
    operations: ClassVar[tuple[str, ...]] = (
        "sep_conv_3x3",
        "sep_conv_5x5",
        "sep_conv_7x7",
        "conv_7x1_1x7",
        "skip_connect",
        "avg_pool_3x3",
        "max_pool_3x3",
        "dil_conv_3x3",
    )
    nodes: ClassVar[int] = 5


@dataclass(frozen=True)
class ENAS(CellSpace):
    """5 nodes, 5 operations; the output joins the loose ends."""

    name: ClassVar[str] = "enas"
    paper: ClassVar[str] = "Pham et al.: ENAS, ICML 2018; Radosavovic et al.: NDS, ICCV 2019"
    operations: ClassVar[tuple[str, ...]] = (
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "avg_pool_3x3",
        "max_pool_3x3",
    )
    nodes: ClassVar[int] = 5
    loose: ClassVar[bool] = True
