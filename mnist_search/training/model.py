"""An architecture as a torch module, and back to what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from mnist_search.training.cpu_batch_norm import FoldedBatchNorm
from mnist_search.training.cpu_dropout import BufferedDropout, ChannelDropout, MaskBuffer
from search_space import architecture as spec
from search_space.architecture import INPUT_SHAPE, Architecture

MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of the training pixels, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class LayerFactory:
    """What a network's layers are made of.

    Attributes:
        dropout: makes element-wise dropout from its rate.
        channel_dropout: makes dropout of whole channels from its rate.
        norm: makes batch norm from its channels and ``affine``.
    """

    dropout: Callable[[float], nn.Module]
    channel_dropout: Callable[[float], nn.Module]
    norm: Callable[..., nn.Module]


REFERENCE_LAYERS = LayerFactory(nn.Dropout, nn.Dropout2d, nn.BatchNorm2d)
"""torch's own layers."""


def fast_layers() -> LayerFactory:
    """Layers that do the same in less time; element-wise dropout of one rate shares its masks."""
    strip = cache(MaskBuffer)
    return LayerFactory(lambda rate: BufferedDropout(strip(rate)), ChannelDropout, FoldedBatchNorm)


class Network(nn.Module):
    """A network for pixels in [0, 1] of shape (N, 1, 28, 28); gives (N, 10) logits.

    It holds its own normalisation, as buffers: they are not learned and not counted.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture, layer_factory: LayerFactory = REFERENCE_LAYERS) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(STD))
        self.layers = nn.Sequential(*modules(architecture, layer_factory))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 1, 28, 28) pixels to (N, 10) logits."""
        logits: Tensor = self.layers((pixels - self.mean) / self.std)
        return logits


def build(architecture: Architecture, seed: int, layer_factory: LayerFactory | None = None) -> Network:
    """A freshly initialised network on the CPU; ``seed`` decides the weights.

    Args:
        architecture: what to build.
        seed: of torch's global generator, which draws the weights.
        layer_factory: what to build it of, fast layers by default.

    Raises:
        AssertionError: torch counts other parameters than the closed form.
    """
    torch.manual_seed(seed)
    network = Network(architecture, layer_factory or fast_layers())
    built = count(network)
    assert built == architecture.num_params(), f"{built} parameters, not {architecture.num_params()}"
    return network


def count(module: nn.Module) -> int:
    """Learned parameters of a torch module."""
    return sum(p.numel() for p in module.parameters())


def layer_table(network: nn.Module) -> str:
    """The layer-by-layer summary as text, for one image."""
    from torchinfo import summary  # only where a summary is wanted

    columns = ("output_size", "num_params", "mult_adds")
    table = summary(network, input_size=(1, *INPUT_SHAPE), col_names=columns, verbose=0, device="cpu")
    return str(table)


def modules(architecture: Architecture, layer_factory: LayerFactory) -> Iterator[nn.Module]:
    """The layers as torch's modules, for pixels that are normalised already."""
    shape = INPUT_SHAPE
    for layer in architecture.layers:
        yield _module(layer, shape, layer_factory)
        shape = layer.output_shape(shape)


def _module(layer: spec.Layer, shape: spec.Shape, layer_factory: LayerFactory) -> nn.Module:  # noqa: PLR0911 - one line a layer
    match layer:
        case spec.Conv(out, kernel, padding, bias):
            return nn.Conv2d(shape[0], out, kernel, padding=padding, bias=bias)
        case spec.Linear(out, bias):
            return nn.Linear(shape[0], out, bias=bias)
        case spec.BatchNorm(affine):
            return layer_factory.norm(shape[0], affine=affine)
        case spec.ReLU():
            return nn.ReLU()
        case spec.Dropout(rate, "channel"):
            return layer_factory.channel_dropout(rate)
        case spec.Dropout(rate):
            return layer_factory.dropout(rate)
        case spec.MaxPool(size):
            return nn.MaxPool2d(size)
        case spec.GlobalAvgPool():
            return nn.AdaptiveAvgPool2d(1)
        case spec.Flatten():
            return nn.Flatten()
