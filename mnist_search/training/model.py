"""An architecture as a torch module, and back to what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor, nn

from mnist_search.training.dropout import MaskStrip, StripDropout
from mnist_search.training.norm import FoldedBatchNorm
from search_space import architecture as spec
from search_space.architecture import INPUT_SHAPE, Architecture

MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of the training pixels, in [0, 1]."""


class Network(nn.Module):
    """A network for pixels in [0, 1] of shape (N, 1, 28, 28); gives (N, 10) logits.

    It holds its own normalisation, as buffers: they are not learned and not counted.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(STD))
        strip = cache(MaskStrip)  # layers of one rate share one
        self.layers = nn.Sequential(*modules(architecture, lambda rate: StripDropout(strip(rate))))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 1, 28, 28) pixels to (N, 10) logits."""
        logits: Tensor = self.layers((pixels - self.mean) / self.std)
        return logits


def build(architecture: Architecture, seed: int) -> Network:
    """A freshly initialised network on the CPU; ``seed`` decides the weights.

    Raises:
        AssertionError: torch counts other parameters than the closed form.
    """
    torch.manual_seed(seed)
    network = Network(architecture)
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


def modules(architecture: Architecture, dropout: Callable[[float], nn.Module]) -> Iterator[nn.Module]:
    """The layers as torch's modules, for pixels that are normalised already.

    Args:
        architecture: what to build.
        dropout: makes the element-wise kind from its rate.
    """
    shape = INPUT_SHAPE
    for layer in architecture.layers:
        yield _module(layer, shape, dropout)
        shape = layer.output_shape(shape)


def _module(  # noqa: PLR0911 - one line a layer
    layer: spec.Layer, shape: spec.Shape, dropout: Callable[[float], nn.Module]
) -> nn.Module:
    match layer:
        case spec.Conv(out, kernel, padding, bias):
            return nn.Conv2d(shape[0], out, kernel, padding=padding, bias=bias)
        case spec.Linear(out, bias):
            return nn.Linear(shape[0], out, bias=bias)
        case spec.BatchNorm(affine):
            return FoldedBatchNorm(shape[0], affine=affine)
        case spec.ReLU():
            return nn.ReLU()
        case spec.Dropout(rate, "channel"):
            return nn.Dropout2d(rate)
        case spec.Dropout(rate):
            return dropout(rate)
        case spec.MaxPool(size):
            return nn.MaxPool2d(size)
        case spec.GlobalAvgPool():
            return nn.AdaptiveAvgPool2d(1)
        case spec.Flatten():
            return nn.Flatten()
