"""The network of stacked DARTS-like cells, its counts, its auxiliary head.

Liu, Simonyan, Yang: DARTS (ICLR 2019), section 3 and its code.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from search_spaces.cells.cell import Cell
from search_spaces.cells.genotypes import Genotype
from search_spaces.cells.operations import FactorizedReduce, operation, operation_counts
from search_spaces.counting import Counts, conv_counts, linear_counts
from search_spaces.modules import GlobalPoolClassifier, ReLUConvBN

Stem = Literal["cifar", "tiny_imagenet", "imagenet"]


@dataclass(frozen=True)
class Skeleton:
    """The way cells are stacked; the options of a `CellSpace`, which documents them."""

    channels: int
    cells: int
    stem: Stem
    auxiliary: bool
    dead_edges: bool

    @property
    def auxiliary_cell(self) -> int:
        """Index of the cell whose output the auxiliary head reads: the second reduction."""
        return 2 * self.cells // 3

    def places(self, genotype: Genotype) -> Iterator["Place"]:
        """Yield each cell with its channels and the cells before it, from the stem on."""
        imagenet = self.stem == "imagenet"
        c = self.channels
        before = last = c if imagenet else 3 * c
        reduced = imagenet
        for index in range(self.cells):
            reduction = index in (self.cells // 3, self.auxiliary_cell)
            c = 2 * c if reduction else c
            cell = genotype.reduction if reduction else genotype.normal
            yield Place(cell, before, last, c, 2 if reduction else 1, reduced)
            before, last, reduced = last, c * len(cell.concat), reduction

    def counts(self, genotype: Genotype, input_shape: Sequence[int], num_classes: int) -> Counts:
        """Count parameters, and MACs in evaluation mode, of the network with its dead edges."""
        shape, concats = tuple(input_shape), (genotype.normal.concat, genotype.reduction.concat)
        total = _frame_counts(self, concats, shape, num_classes)
        total += _edges_counts(self, 1, genotype.normal.edges, shape)
        return total + _edges_counts(self, 2, genotype.reduction.edges, shape)

    def sizes(
        self, genotype: Genotype, input_shape: Sequence[int]
    ) -> Iterator[tuple["Place", int, int]]:
        """Yield each cell with height and width of its input c_{k-1}."""
        _, (height, width) = _stem_counts(self, input_shape)
        for place in self.places(genotype):
            yield place, height, width
            height, width = -(-height // place.stride), -(-width // place.stride)


@dataclass(frozen=True)
class Place:
    """One cell of a network.

    Args:
        cell: what it is.
        before: channels of the output of the cell before the last.
        last: channels of the output of the last cell.
        channels: channels of its nodes.
        stride: 2 in a reduction cell.
        reduced: whether the last cell was a reduction cell.
    """

    cell: Cell
    before: int
    last: int
    channels: int
    stride: int
    reduced: bool


@lru_cache(maxsize=256)
def _frame_counts(
    skeleton: Skeleton,
    concats: tuple[tuple[int, ...], tuple[int, ...]],
    input_shape: tuple[int, ...],
    num_classes: int,
) -> Counts:
    """Count all but the edges, of cells whose outputs (normal, reduction) join these nodes."""
    total, _ = _stem_counts(skeleton, input_shape)
    bare = Genotype(*(Cell((), concat) for concat in concats))
    for index, (place, height, width) in enumerate(skeleton.sizes(bare, input_shape)):
        total += conv_counts(place.before, place.channels, 1, height * width)
        total += conv_counts(place.last, place.channels, 1, height * width)
        joined = place.channels * len(place.cell.concat)
        if skeleton.auxiliary and index == skeleton.auxiliary_cell:
            head = conv_counts(joined, 128, 1, 0) + conv_counts(128, 768, 4, 0)
            unused = Counts(params=-2 * 768 if skeleton.stem == "imagenet" else 0)
            total += head + unused + Counts(linear_counts(768, num_classes).params)
    return total + linear_counts(joined, num_classes)


@lru_cache(maxsize=4096)
def _edges_counts(
    skeleton: Skeleton, stride: int, edges: tuple[tuple[str, int], ...], shape: tuple[int, ...]
) -> Counts:
    """Count the edges of all cells of one kind; see `_edge_counts`."""
    each = [_edge_counts(skeleton, stride, name, source < 2, shape) for name, source in edges]
    return Counts(sum(edge.params for edge in each), sum(edge.macs for edge in each))


@lru_cache(maxsize=1024)
def _edge_counts(
    skeleton: Skeleton, stride: int, name: str, first: bool, input_shape: tuple[int, ...]
) -> Counts:
    """Count what one edge of all cells of this stride adds, wherever else they differ.

    Args:
        skeleton: of the network.
        stride: 2 for the edge of reduction cells, 1 for that of normal ones.
        name: its operation.
        first: whether it starts at an input of the cell.
        input_shape: (channels, height, width) of one image.
    """
    total = Counts()
    for place, height, width in skeleton.sizes(Genotype(Cell((), ()), Cell((), ())), input_shape):
        if place.stride == stride:
            if not first:
                height, width = -(-height // stride), -(-width // stride)
            steps = stride if first else 1
            total += operation_counts(name, place.channels, steps, height, width)
    return total


class CellModule(nn.Module):
    """A cell; input nodes that no edge reads have no module.

    Args:
        place: channels and surroundings.
        dead_edges: also build what cannot influence the output.
    """

    def __init__(self, place: Place, dead_edges: bool):
        super().__init__()
        c = place.channels
        self.concat = place.cell.concat
        edges = place.cell.triples(dead_edges)
        self.wiring = [(target, source) for target, _, source in edges]
        self.operations = nn.ModuleList(
            operation(name, c, place.stride if source < 2 else 1) for _, name, source in edges
        )
        read = {0, 1} if dead_edges else {source for _, source in self.wiring}
        self.inputs = sorted(read & {0, 1})
        first = FactorizedReduce if place.reduced else preprocess
        self.preprocess = nn.ModuleDict()
        if 0 in self.inputs:
            self.preprocess["0"] = first(place.before, c)
        if 1 in self.inputs:
            self.preprocess["1"] = preprocess(place.last, c)

    def forward(self, inputs: Sequence[Tensor | None], drop_path: float = 0.0) -> Tensor:
        """Map the outputs of the last two cells to the output of this one.

        Args:
            inputs: c_{k-2} and c_{k-1}; one that the cell does not read may be None.
            drop_path: probability of dropping an edge for an image, in training.
        """
        nodes = {i: self.preprocess[str(i)](inputs[i]) for i in self.inputs}
        for (target, source), module in zip(self.wiring, self.operations, strict=True):
            value = module(nodes[source])
            if self.training and drop_path and not isinstance(module, nn.Identity):
                value = _dropped(value, drop_path)
            nodes[target] = nodes[target] + value if target in nodes else value
        size = next(nodes[i] for i in self.concat if i in nodes)
        return torch.cat([nodes.get(i, torch.zeros_like(size)) for i in self.concat], dim=1)


class CellNetwork(nn.Module):
    """A stem, cells, global average pooling, a linear layer; images to logits.

    It is a `HasAuxiliaryHead` and a `HasDropPath` of `search_spaces.modules`.

    Attributes:
        drop_path: probability of dropping an edge for an image in training; 0 at first, for
            the trainer to raise.
        auxiliary_logits: in training and with an auxiliary head, its logits of the last batch
            (`batch x num_classes`), for the trainer's loss; else None.
    """

    def __init__(
        self, genotype: Genotype, skeleton: Skeleton, input_shape: Sequence[int], num_classes: int
    ):
        super().__init__()
        self.drop_path = 0.0
        self.auxiliary_logits: Tensor | None = None
        places = list(skeleton.places(genotype))
        self.stem = stem(skeleton, input_shape[0])
        cells = {len(places) - 1: CellModule(places[-1], skeleton.dead_edges)}
        head = skeleton.auxiliary_cell if skeleton.auxiliary else None
        for k in range(len(places) - 2, -1, -1):
            read = any(k == j + i - 2 for j, cell in cells.items() for i in cell.inputs)
            if read or k == head or skeleton.dead_edges:
                cells[k] = CellModule(places[k], skeleton.dead_edges)
        self.cells = nn.ModuleDict({str(k): cells[k] for k in sorted(cells)})
        self.head: AuxiliaryHead | None = None
        if head is not None:
            channels = places[head].channels * len(places[head].cell.concat)
            size = _size_after(skeleton, input_shape, head)
            self.head = AuxiliaryHead(channels, size, num_classes, skeleton.stem == "imagenet")
            self.head_cell = head
        last = places[-1]
        self.classifier = GlobalPoolClassifier(last.channels * len(last.cell.concat), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x channels x height x width` to `batch x num_classes`."""
        outputs: dict[int, Tensor] = {}
        for i, stem in enumerate(self.stem):
            x = outputs[i - 2] = stem(x)
        outputs[-1] = x
        for name, cell in self.cells.items():
            k = int(name)
            outputs[k] = cell((outputs.get(k - 2), outputs.get(k - 1)), self.drop_path)
        if self.head is not None:
            value = outputs[self.head_cell]
            self.auxiliary_logits = self.head(value) if self.training else None
        logits: Tensor = self.classifier(outputs[k])
        return logits


class AuxiliaryHead(nn.Module):
    """A second classifier on the output of the second reduction cell, used in training only.

    Average pooling to 2x2 (5x5 of stride 3 where the input is 8x8, as DARTS has it; adaptive
    elsewhere), 1x1 convolution to 128 channels, 2x2 convolution to 768, linear layer.
    """

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int, imagenet: bool):
        super().__init__()
        strided = nn.AvgPool2d(5, 2 if imagenet else 3, count_include_pad=False)
        fits = size == ((7, 7) if imagenet else (8, 8))
        self.features = nn.Sequential(
            nn.ReLU(),
            strided if fits else nn.AdaptiveAvgPool2d(2),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.Identity() if imagenet else nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = GlobalPoolClassifier(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x channels x height x width` to `batch x num_classes`."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def preprocess(in_channels: int, out_channels: int) -> nn.Module:
    """Make what brings a cell's input to the cell's channels."""
    return ReLUConvBN(in_channels, out_channels, 1)


def _dropped(x: Tensor, probability: float) -> Tensor:
    keep = 1 - probability
    return x / keep * torch.empty_like(x[:, :1, :1, :1]).bernoulli_(keep)


def _stem_plan(skeleton: Skeleton, image_channels: int) -> list[list[tuple[int, int, int]]]:
    """List (channels in, out, stride) of the 3x3 convolutions of each stem part."""
    c = skeleton.channels
    if skeleton.stem == "imagenet":
        return [[(image_channels, c // 2, 2), (c // 2, c, 2)], [(c, c, 2)]]
    return [[(image_channels, 3 * c, 2 if skeleton.stem == "tiny_imagenet" else 1)]]


def stem(skeleton: Skeleton, image_channels: int) -> nn.ModuleList:
    """Make the parts in front of the first cell, each of which gives one of its inputs."""
    parts = nn.ModuleList()
    for i, plan in enumerate(_stem_plan(skeleton, image_channels)):
        layers: list[nn.Module] = []
        for j, (in_channels, out_channels, stride) in enumerate(plan):
            layers += [nn.ReLU()] if i or j else []
            layers.append(nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False))
            layers.append(nn.BatchNorm2d(out_channels))
        parts.append(nn.Sequential(*layers))
    return parts


def _stem_counts(skeleton: Skeleton, input_shape: Sequence[int]) -> tuple[Counts, tuple[int, int]]:
    """Return the counts of the stem, and height and width of its output."""
    total = Counts()
    channels, height, width = input_shape
    for plan in _stem_plan(skeleton, channels):
        for in_channels, out_channels, stride in plan:
            height, width = -(-height // stride), -(-width // stride)
            total += conv_counts(in_channels, out_channels, 9, height * width)
    return total, (height, width)


def _size_after(skeleton: Skeleton, input_shape: Sequence[int], cell: int) -> tuple[int, int]:
    """Return height and width of the output of the cell with this index."""
    height, width = _stem_counts(skeleton, input_shape)[1]
    for reduction in {skeleton.cells // 3, skeleton.auxiliary_cell}:
        if cell >= reduction:
            height, width = -(-height // 2), -(-width // 2)
    return height, width
