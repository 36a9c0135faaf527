"""What a network is: a frozen tuple of layers, with closed forms for shape, parameters and multiply-adds.

Nothing is built to be counted: every number here is arithmetic on integers.
Shapes leave out the batch: ``(channels, height, width)`` for maps, ``(features,)`` for vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple, TypeAlias

Shape: TypeAlias = tuple[int, ...]

INPUT_SHAPE: Shape = (1, 28, 28)
NUM_CLASSES = 10


@dataclass(frozen=True, slots=True)
class Conv:
    """Square convolution with stride 1 over a map; ``padding`` zeros on every side."""

    out_channels: int
    kernel_size: int = 3
    padding: int = 0
    bias: bool = False

    def output_shape(self, shape: Shape) -> Shape:
        _, height, width = shape
        grow = 2 * self.padding - self.kernel_size + 1
        return (self.out_channels, height + grow, width + grow)

    def num_params(self, shape: Shape) -> int:
        return self.out_channels * (shape[0] * self.kernel_size**2 + self.bias)

    def multiply_adds(self, shape: Shape) -> int:
        return prod(self.output_shape(shape)) * shape[0] * self.kernel_size**2

    def __str__(self) -> str:
        same = "" if self.kernel_size == 1 or self.padding else "v"
        return f"{self.out_channels}{'x1' if self.kernel_size == 1 else same}"


@dataclass(frozen=True, slots=True)
class Linear:
    """Fully connected layer over a vector."""

    out_features: int
    bias: bool = True

    def output_shape(self, shape: Shape) -> Shape:
        (_,) = shape
        return (self.out_features,)

    def num_params(self, shape: Shape) -> int:
        return self.out_features * (shape[0] + self.bias)

    def multiply_adds(self, shape: Shape) -> int:
        return self.out_features * shape[0]

    def __str__(self) -> str:
        return f"fc{self.out_features}"


class _Stateless:
    """A layer without parameters whose work is not counted in multiply-adds."""

    __slots__ = ()

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def num_params(self, shape: Shape) -> int:
        return 0

    def multiply_adds(self, shape: Shape) -> int:
        return 0

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class BatchNorm(_Stateless):
    """Batch normalisation of a map; ``affine`` learns a scale and a shift per channel."""

    affine: bool = True

    def num_params(self, shape: Shape) -> int:
        return 2 * shape[0] if self.affine else 0


@dataclass(frozen=True, slots=True)
class ReLU(_Stateless):
    """max(x, 0)."""


@dataclass(frozen=True, slots=True)
class Dropout(_Stateless):
    """Zero each element, or each whole channel, with probability ``rate`` while training."""

    rate: float
    per: Literal["element", "channel"] = "element"

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"a dropout rate lies in [0, 1), not {self.rate}")


@dataclass(frozen=True, slots=True)
class MaxPool(_Stateless):
    """Largest value of every ``size`` x ``size`` window; an incomplete window at the edge is dropped."""

    size: int = 2

    def output_shape(self, shape: Shape) -> Shape:
        channels, height, width = shape
        return (channels, height // self.size, width // self.size)

    def __str__(self) -> str:
        return "P" if self.size == 2 else f"P{self.size}"


@dataclass(frozen=True, slots=True)
class GlobalAvgPool(_Stateless):
    """Mean over height and width, kept as a map of 1 x 1."""

    def output_shape(self, shape: Shape) -> Shape:
        channels, _, _ = shape
        return (channels, 1, 1)

    def __str__(self) -> str:
        return "G"


@dataclass(frozen=True, slots=True)
class Flatten(_Stateless):
    """A map as one vector."""

    def output_shape(self, shape: Shape) -> Shape:
        return (prod(shape),)


Layer: TypeAlias = Conv | Linear | BatchNorm | ReLU | Dropout | MaxPool | GlobalAvgPool | Flatten


class LayerCost(NamedTuple):
    """One row of a layer table."""

    layer: Layer
    output_shape: Shape
    num_params: int
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """Layers from a 1 x 28 x 28 image to 10 logits.

    Raises:
        ValueError: a layer cannot take what the one before gives, a map vanishes,
            or the last shape is not ``(10,)``.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        shape = INPUT_SHAPE
        for number, layer in enumerate(self.layers, 1):
            try:
                given, shape = shape, layer.output_shape(shape)
            except ValueError:
                raise ValueError(f"layer {number}, {layer!r}, cannot take shape {given}") from None
            if min(shape) < 1:
                raise ValueError(f"layer {number}, {layer!r}, leaves nothing of shape {given}")
        if shape != (NUM_CLASSES,):
            raise ValueError(f"the network ends in shape {shape}, not in {NUM_CLASSES} logits")

    def num_params(self) -> int:
        """Learned parameters; running statistics of batch norm are not learned."""
        total, shape = 0, INPUT_SHAPE
        for layer in self.layers:
            total += layer.num_params(shape)
            shape = layer.output_shape(shape)
        return total

    def multiply_adds(self) -> int:
        """Multiply-adds of convolutions and linear layers for one image, forward."""
        return sum(cost.multiply_adds for cost in self.costs())

    def costs(self) -> Iterator[LayerCost]:
        """The layer table, from input to output."""
        shape = INPUT_SHAPE
        for layer in self.layers:
            given, shape = shape, layer.output_shape(shape)
            yield LayerCost(layer, shape, layer.num_params(given), layer.multiply_adds(given))

    def __str__(self) -> str:
        """Short notation, such as ``16v-P-8x1-16-G-fc10``.

        ``16`` is a 3x3 convolution padded to keep the size, ``16v`` an unpadded one, ``8x1`` a 1x1
        convolution, ``P`` max pool, ``G`` global average pool, ``fc10`` a linear layer.
        """
        return "-".join(text for text in map(str, self.layers) if text)
