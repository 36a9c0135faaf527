"""A network in words: its blocks, the legend of its notation, and a drawing of its shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from search_space import Architecture
from search_space.architecture import (
    INPUT_SHAPE,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    LayerCost,
    Linear,
    MaxPool,
    ReLU,
    Shape,
)

WORDS: dict[type[Layer], str] = {
    BatchNorm: "batch norm",
    ReLU: "ReLU",
    GlobalAvgPool: "average pooling over the whole map",
    Flatten: "flatten",
    Linear: "linear layer",
}

PIXELS_PER_CELL = 4  # of the drawing, per row of a map
VECTOR_WIDTH = 8
COLUMN_WIDTH = 86


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A convolution, pooling or linear layer with the norm, activation and dropout behind it.

    Attributes:
        kind: of its first layer, in short, such as ``3x3 conv``.
        layers: all of its layers in words.
        share: of the parameters of the network.
    """

    kind: str
    layers: str
    output_shape: Shape
    num_params: int
    share: float
    multiply_adds: int


def blocks(architecture: Architecture) -> list[Block]:
    """The blocks of a network, from input to output."""
    groups: list[list[LayerCost]] = []
    for cost in architecture.costs():
        if not groups or _starts_block(cost.layer, groups[-1][-1].layer):
            groups.append([])
        groups[-1].append(cost)
    total = architecture.num_params()
    return [_block(group, total) for group in groups]


def _starts_block(layer: Layer, previous: Layer) -> bool:
    if isinstance(layer, Flatten):
        return not isinstance(previous, GlobalAvgPool)
    return isinstance(layer, Conv | Linear | MaxPool | GlobalAvgPool)


def _block(costs: list[LayerCost], total: int) -> Block:
    num_params = sum(cost.num_params for cost in costs)
    return Block(
        kind=_kind(costs[0].layer),
        layers=", ".join(_words(cost.layer) for cost in costs),
        output_shape=costs[-1].output_shape,
        num_params=num_params,
        share=num_params / total,
        multiply_adds=sum(cost.multiply_adds for cost in costs),
    )


def _kind(layer: Layer) -> str:
    match layer:
        case Conv(kernel_size=size):
            return f"{size}x{size} conv"
        case MaxPool():
            return "max pool"
        case GlobalAvgPool():
            return "average pool"
        case _:
            return type(layer).__name__.lower()


def _words(layer: Layer) -> str:
    match layer:
        case Conv(kernel_size=size, padding=padding, bias=bias):
            border = "" if size == 1 else f" with padding {padding}" if padding else " without padding"
            return f"{size}x{size} convolution{border}{', bias' if bias else ''}"
        case Dropout(rate=rate, per=per):
            return f"dropout {100 * rate:.3g} %{' of the channels' if per == 'channel' else ''}"
        case MaxPool(size=size):
            return f"max pooling {size}x{size}"
        case _:
            return WORDS[type(layer)]


def notation(architecture: Architecture) -> list[tuple[str, str]]:
    """The symbols of a network's short notation with their meaning, each once."""
    return list({_symbol(layer): None for layer in architecture.layers if str(layer)})


def _symbol(layer: Layer) -> tuple[str, str]:
    match layer:
        case Conv(kernel_size=1):
            return "Nx1", "1x1 convolution to N channels"
        case Conv(kernel_size=size, padding=0):
            return "Nv", f"{size}x{size} convolution to N channels without padding (valid)"
        case Conv(kernel_size=size):
            return "N", f"{size}x{size} convolution to N channels with padding"
        case MaxPool(size=size):
            return str(layer), f"max pooling of {size}x{size} pixels"
        case GlobalAvgPool():
            return "G", "global average pooling"
        case _:
            return "fcN", "linear layer with N outputs"


class Box(NamedTuple):
    """A rectangle of the drawing, in pixels, with a text above and a text below."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    above: str
    below: str


class Drawing(NamedTuple):
    """Outputs of the blocks, from left to right."""

    width: int
    height: int
    boxes: list[Box]


def drawing(architecture: Architecture) -> Drawing:
    """The image and the output of every block: the height shows the size of a map, the width its channels."""
    outputs = [("image", INPUT_SHAPE), *((block.kind, block.output_shape) for block in blocks(architecture))]
    full = PIXELS_PER_CELL * INPUT_SHAPE[1]
    boxes = []
    for column, (kind, shape) in enumerate(outputs):
        width, height = _size(shape)
        left = column * COLUMN_WIDTH + (COLUMN_WIDTH - width) / 2
        boxes.append(Box(kind, left, 20 + (full - height) / 2, width, height, kind, times(shape)))
    return Drawing(len(outputs) * COLUMN_WIDTH, full + 44, boxes)


def _size(shape: Shape) -> tuple[float, float]:
    """Width and height of a box."""
    if len(shape) == 1:
        return VECTOR_WIDTH, min(PIXELS_PER_CELL * shape[0], PIXELS_PER_CELL * INPUT_SHAPE[1])
    channels, rows, _ = shape
    return min(4 + 1.5 * channels, COLUMN_WIDTH - 16), PIXELS_PER_CELL * rows


def times(shape: Shape) -> str:
    """A shape such as ``4 x 26 x 26``."""
    return " x ".join(map(str, shape))
