"""An architecture as a torch module, and its weights as safetensors."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from mnist_search.training.cpu_batch_norm import FoldedBatchNorm
from mnist_search.training.dropout import BufferedDropout, ChannelDropout, MaskBuffer
from search_space import Architecture
from search_space import architecture as arch

MEAN, STD = 0.1307, 0.3081  # of the training pixels, in [0, 1]

WIDTH_MULTIPLE = 8  # GPU convolutions copy channels-last maps of other widths into padded ones

INITIALIZATION_LOCK = threading.Lock()
"""Initial weights are drawn from torch's global CPU generator by one thread at a time."""


class LayerFactory(NamedTuple):
    """Classes of dropout by element, of dropout by channel and of batch norm."""

    dropout: Callable[[float], nn.Module]
    channel_dropout: Callable[[float], nn.Module]
    norm: Callable[..., nn.Module]


REFERENCE_LAYERS = LayerFactory(nn.Dropout, nn.Dropout2d, nn.BatchNorm2d)  # torch's own


def fast_layers() -> LayerFactory:
    """Equivalent layers that are faster on a CPU; element-wise dropout layers of one rate share a buffer."""
    buffer = cache(MaskBuffer)
    return LayerFactory(lambda rate: BufferedDropout(buffer(rate)), ChannelDropout, FoldedBatchNorm)


class Network(nn.Module):
    """Normalizes (N, 1, 28, 28) pixels in [0, 1], with buffers, and computes (N, 10) logits."""

    def __init__(self, architecture: Architecture, layer_factory: LayerFactory = REFERENCE_LAYERS) -> None:
        super().__init__()
        self.architecture, self.layer_factory = architecture, layer_factory
        self.mean, self.std = nn.Buffer(torch.tensor(MEAN)), nn.Buffer(torch.tensor(STD))
        self.layers = nn.Sequential(*modules(architecture, layer_factory))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 1, 28, 28) pixels to (N, 10) logits."""
        logits: Tensor = self.layers((pixels - self.mean) / self.std)
        return logits


def build(architecture: Architecture, seed: int, layer_factory: LayerFactory | None = None) -> Network:
    """A network on the CPU, of fast layers by default, with initial weights from this seed.

    The state of torch's global generator does not change.
    """
    with INITIALIZATION_LOCK, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = Network(architecture, layer_factory or fast_layers())
    actual, expected = count(network), architecture.num_params()
    assert actual == expected, f"{actual} parameters, not {expected} as in the closed form"
    return network


@torch.no_grad()
def with_padded_widths(network: Network) -> Network:
    """A network on the same device that computes the same, with multiples of WIDTH_MULTIPLE as numbers of channels.

    All weights of an added channel are 0, its scale and shift in batch norm included. So its activations
    are 0, and so are all gradients of its weights and of weights that read it: training keeps it at 0.
    """
    layers = network.architecture.layers
    last = max(i for i, layer in enumerate(layers) if isinstance(layer, arch.Conv | arch.Linear))
    padded = arch.Architecture((*map(_pad_width, layers[:last]), *layers[last:]))
    with INITIALIZATION_LOCK, torch.random.fork_rng(devices=[]):
        result = Network(padded, network.layer_factory)
    weights = network.state_dict()
    for name, tensor in result.state_dict().items():
        tensor.zero_()
        tensor[tuple(slice(n) for n in weights[name].shape)] = weights[name]
    return result.to(network.mean.device)


def _pad_width(layer: arch.Layer) -> arch.Layer:
    match layer:
        case arch.Conv(width):
            return replace(layer, out_channels=_padded(width))
        case arch.Linear(width):
            return replace(layer, out_features=_padded(width))
    return layer


def _padded(width: int) -> int:
    return -(-width // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


@torch.no_grad()
def copy_weights(padded: nn.Module, network: nn.Module) -> None:
    """Copy the weights of a network with padded widths to the original one on the same device."""
    source = padded.state_dict()
    for name, tensor in network.state_dict().items():
        tensor.copy_(source[name][tuple(slice(n) for n in tensor.shape)])


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
    for layer, (channels, *_) in architecture.with_input_shapes():
        match layer:
            case arch.Conv(out, kernel, padding, bias):
                yield nn.Conv2d(channels, out, kernel, padding=padding, bias=bias)
            case arch.Linear(out, bias):
                yield nn.Linear(channels, out, bias=bias)
            case arch.BatchNorm(affine):
                yield layer_factory.norm(channels, affine=affine)
            case arch.ReLU():
                yield nn.ReLU()
            case arch.Dropout(rate, per):
                yield (layer_factory.channel_dropout if per == "channel" else layer_factory.dropout)(rate)
            case arch.MaxPool(size):
                yield nn.MaxPool2d(size)
            case arch.GlobalAvgPool():
                yield nn.AdaptiveAvgPool2d(1)
            case arch.Flatten():
                yield nn.Flatten()
