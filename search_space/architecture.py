"""Architectures: frozen tuples of layers, with closed forms for shape, parameters and multiply-adds.

Shapes have no batch dimension: ``(channels, height, width)`` for maps, ``(features,)`` for vectors.
"""

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
        change = 2 * self.padding - self.kernel_size + 1
        return (self.out_channels, height + change, width + change)

    def num_params(self, shape: Shape) -> int:
        return self.out_channels * (shape[0] * self.kernel_size**2 + self.bias)

    def multiply_adds(self, shape: Shape) -> int:
        return prod(self.output_shape(shape)) * shape[0] * self.kernel_size**2

    def __str__(self) -> str:
        padding = "" if self.kernel_size == 1 or self.padding else "v"
        return f"{self.out_channels}{'x1' if self.kernel_size == 1 else padding}"


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


class _LayerBase:
    """Defaults of layers: same shape, no parameters, no multiply-adds."""

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
class BatchNorm(_LayerBase):
    """Batch normalization of a map; ``affine`` adds a learned scale and shift per channel."""

    affine: bool = True

    def num_params(self, shape: Shape) -> int:
        return 2 * shape[0] if self.affine else 0


@dataclass(frozen=True, slots=True)
class ReLU(_LayerBase):
    """max(x, 0)."""


@dataclass(frozen=True, slots=True)
class Dropout(_LayerBase):
    """In training, zeroes each element or channel with probability ``rate``."""

    rate: float
    per: Literal["element", "channel"] = "element"

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"a dropout rate must be in [0, 1), not {self.rate}")


@dataclass(frozen=True, slots=True)
class MaxPool(_LayerBase):
    """Maximum over windows of ``size`` x ``size``; incomplete windows at the edge are dropped."""

    size: int = 2

    def output_shape(self, shape: Shape) -> Shape:
        channels, height, width = shape
        return (channels, height // self.size, width // self.size)

    def __str__(self) -> str:
        return "P" if self.size == 2 else f"P{self.size}"


@dataclass(frozen=True, slots=True)
class GlobalAvgPool(_LayerBase):
    """Mean over height and width, as a map of 1 x 1."""

    def output_shape(self, shape: Shape) -> Shape:
        channels, _, _ = shape
        return (channels, 1, 1)

    def __str__(self) -> str:
        return "G"


@dataclass(frozen=True, slots=True)
class Flatten(_LayerBase):
    """Flattens a map to a vector."""

    def output_shape(self, shape: Shape) -> Shape:
        return (prod(shape),)


Layer: TypeAlias = Conv | Linear | BatchNorm | ReLU | Dropout | MaxPool | GlobalAvgPool | Flatten


class LayerCost(NamedTuple):
    """Costs of one layer for one image."""

    layer: Layer
    output_shape: Shape
    num_params: int
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """Layers from a 1 x 28 x 28 image to 10 logits.

    Raises:
        ValueError: a layer does not accept its input shape, an output is empty,
            or the last shape is not ``(10,)``.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        shape = INPUT_SHAPE
        for number, layer in enumerate(self.layers, 1):
            try:
                input_shape, shape = shape, layer.output_shape(shape)
            except ValueError:
                raise ValueError(f"layer {number}, {layer!r}, does not accept shape {input_shape}") from None
            if min(shape) < 1:
                raise ValueError(f"layer {number}, {layer!r}, has no output for shape {input_shape}")
        if shape != (NUM_CLASSES,):
            raise ValueError(f"the network has output shape {shape}, not ({NUM_CLASSES},)")

    def with_input_shapes(self) -> Iterator[tuple[Layer, Shape]]:
        """Layers and the shapes of their inputs."""
        shape = INPUT_SHAPE
        for layer in self.layers:
            yield layer, shape
            shape = layer.output_shape(shape)

    def num_params(self) -> int:
        """Number of learned parameters, without the running statistics of batch norm."""
        return sum(layer.num_params(shape) for layer, shape in self.with_input_shapes())

    def multiply_adds(self) -> int:
        """Multiply-adds of convolutions and linear layers in the forward pass of one image."""
        return sum(cost.multiply_adds for cost in self.costs())

    def costs(self) -> Iterator[LayerCost]:
        """Costs per layer, from input to output."""
        for layer, shape in self.with_input_shapes():
            cost = layer.num_params(shape), layer.multiply_adds(shape)
            yield LayerCost(layer, layer.output_shape(shape), *cost)

    def layer_table(self) -> str:
        """Format the costs per layer and their totals as text, for one float32 image.

        The totals are those of torchsummary: the forward/backward pass size counts every output and
        its gradient, and MB means 1024 * 1024 bytes.
        """
        row = "{:<18}{:>16}{:>14}{:>16}{:>18}".format
        header = row("Layer", "Output size", "Parameters", "Multiply-adds", "Activation bytes")
        rows, activations = [], 0
        for number, (layer, shape, num_params, multiply_adds) in enumerate(self.costs(), 1):
            name, size = f"{type(layer).__name__}-{number}", prod(shape)
            counts = (f"{count:,}" for count in (num_params, multiply_adds, 4 * size))
            rows.append(row(name, str(list(shape)), *counts))
            activations += size
        rule, total = "-" * len(header), self.num_params()
        sizes = [4 * n / 2**20 for n in (prod(INPUT_SHAPE), 2 * activations, total)]
        names = ("Input size", "Forward/backward pass size", "Params size", "Estimated total size")
        totals = (
            f"Total params: {total:,}",
            f"Trainable params: {total:,}",
            f"Total multiply-adds: {self.multiply_adds():,}",
        )
        mib = (f"{n} (MB): {size:.3f}" for n, size in zip(names, (*sizes, sum(sizes)), strict=True))
        return "\n".join((header, rule, *rows, rule, *totals, rule, *mib))

    def __str__(self) -> str:
        """Short notation, such as ``16v-P-8x1-16-G-fc10``.

        ``16`` is a 3x3 convolution padded to keep the size, ``16v`` an unpadded one, ``8x1`` a 1x1
        convolution, ``P`` max pool, ``G`` global average pool, ``fc10`` a linear layer.
        """
        return "-".join(text for text in map(str, self.layers) if text)
