"""An architecture as a torch module, and its weights as safetensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import safetensors.torch
import torch
from torch import Tensor, nn

from mnist_search.training.cpu_batch_norm import FoldedBatchNorm
from mnist_search.training.cpu_dropout import BufferedDropout, ChannelDropout, MaskBuffer
from search_space import Architecture
from search_space import architecture as arch

MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of the training pixels, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class LayerFactory:
    """Classes to build layers from, where there is a choice.

    Attributes:
        dropout: element-wise dropout, from its rate.
        channel_dropout: dropout of whole channels, from its rate.
        norm: batch norm, from its channels and ``affine``.
    """

    dropout: Callable[[float], nn.Module]
    channel_dropout: Callable[[float], nn.Module]
    norm: Callable[..., nn.Module]


REFERENCE_LAYERS = LayerFactory(nn.Dropout, nn.Dropout2d, nn.BatchNorm2d)
"""torch's own layers."""


def fast_layers() -> LayerFactory:
    """Equivalent layers that are faster on a CPU; element-wise dropout layers of one rate share a buffer."""
    buffer = cache(MaskBuffer)
    return LayerFactory(lambda rate: BufferedDropout(buffer(rate)), ChannelDropout, FoldedBatchNorm)


class Network(nn.Module):
    """A network from (N, 1, 28, 28) pixels in [0, 1] to (N, 10) logits.

    It normalizes its input; mean and standard deviation are buffers, not parameters.
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
    """A network with initial weights, on the CPU.

    Args:
        architecture: the layers.
        seed: of torch's global generator, for the weights.
        layer_factory: fast layers by default.

    Raises:
        AssertionError: torch's parameter count differs from the closed form.
    """
    torch.manual_seed(seed)
    network = Network(architecture, layer_factory or fast_layers())
    actual, expected = count(network), architecture.num_params()
    assert actual == expected, f"{actual} parameters, not {expected}"
    return network


def to_safetensors(network: nn.Module) -> bytes:
    """Weights and buffers of a network on any device."""
    return safetensors.torch.save({k: v.cpu().contiguous() for k, v in network.state_dict().items()})


def load_network(architecture: Architecture, weights: bytes) -> Network:
    """A network of torch's own layers with these weights (safetensors), in evaluation mode on the CPU."""
    network = Network(architecture)
    network.load_state_dict(safetensors.torch.load(weights))
    return network.eval()


def count(module: nn.Module) -> int:
    """Number of learned parameters."""
    return sum(p.numel() for p in module.parameters())


def modules(architecture: Architecture, layer_factory: LayerFactory) -> Iterator[nn.Module]:
    """Build torch modules of the layers; their input is normalized pixels."""
    shape = arch.INPUT_SHAPE
    for layer in architecture.layers:
        yield _module(layer, shape, layer_factory)
        shape = layer.output_shape(shape)


def _module(layer: arch.Layer, shape: arch.Shape, layer_factory: LayerFactory) -> nn.Module:  # noqa: PLR0911 - one line per layer
    match layer:
        case arch.Conv(out, kernel, padding, bias):
            return nn.Conv2d(shape[0], out, kernel, padding=padding, bias=bias)
        case arch.Linear(out, bias):
            return nn.Linear(shape[0], out, bias=bias)
        case arch.BatchNorm(affine):
            return layer_factory.norm(shape[0], affine=affine)
        case arch.ReLU():
            return nn.ReLU()
        case arch.Dropout(rate, "channel"):
            return layer_factory.channel_dropout(rate)
        case arch.Dropout(rate):
            return layer_factory.dropout(rate)
        case arch.MaxPool(size):
            return nn.MaxPool2d(size)
        case arch.GlobalAvgPool():
            return nn.AdaptiveAvgPool2d(1)
        case arch.Flatten():
            return nn.Flatten()
