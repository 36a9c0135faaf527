"""One training step: forward pass, backward pass, update, exponential moving average of the weights."""

from copy import deepcopy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mnist_search.data.dataset import Digits
from mnist_search.training.augment import RandomAffine
from mnist_search.training.device import ComputeMode
from mnist_search.training.dropout import mask_buffers
from mnist_search.training.optim import make_optimizer
from search_space import TrainingConfig


class ExponentialMovingAverage:
    """An exponential moving average of a network's weights and floating-point buffers, in ``module``.

    Equal to ``torch.optim.swa_utils.AveragedModel`` with ``use_buffers``, which reads its step count
    from the device at every update and so cannot be captured in a CUDA graph.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = deepcopy(network)
        self._average = get_ema_multi_avg_fn(decay)
        self._is_empty = True

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Add the current weights to the average; the first call copies them."""
        averaged, current = _floating_point(self.module), _floating_point(network)
        if self._is_empty:
            torch._foreach_copy_(averaged, current)
            self._is_empty = False
        else:
            self._average(averaged, current, 0)


def _floating_point(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers; counters of batches, the only integers, are used by nothing."""
    return [x for x in (*network.parameters(), *network.buffers()) if x.is_floating_point()]


class Bf16Weights:
    """bf16 copies of the weights of convolutions and linear layers, for the forward pass.

    Equal to what autocast computes, which casts every weight and its gradient by a kernel of its own.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        self._weights = {f"{n}.{k}": p for n, m in layers for k, p in m.named_parameters()}
        self._gradients = [torch.zeros_like(weight) for weight in self._weights.values()]
        self._copies = {
            name: weight.detach().bfloat16().requires_grad_() for name, weight in self._weights.items()
        }

    @torch.no_grad()
    def copy_weights(self) -> dict[str, Tensor]:
        """The updated copies by name, without gradients."""
        copies = list(self._copies.values())
        torch._foreach_copy_(copies, list(self._weights.values()))
        for copy in copies:
            copy.grad = None
        return self._copies

    def copy_gradients(self) -> None:
        """Set the gradients of the weights to those of the copies."""
        gradients = [copy.grad for copy in self._copies.values() if copy.grad is not None]
        torch._foreach_copy_(self._gradients, gradients)
        for weight, gradient in zip(self._weights.values(), self._gradients, strict=True):
            weight.grad = gradient


@dataclass
class TrainStep:
    """Updates a network on the device of ``train``, and the average of its weights, by one batch.

    Attributes:
        learning_rate: of the optimizer, a scalar on the device.
        augmentation: None without one.
    """

    network: nn.Module
    train: Digits
    config: TrainingConfig
    compute_mode: ComputeMode
    average: ExponentialMovingAverage | None = None
    learning_rate: Tensor = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    augmentation: RandomAffine | None = field(init=False)

    def __post_init__(self) -> None:
        device, augmentation = self.train.images.device, self.config.augmentation
        self.learning_rate = torch.tensor(self.config.optimizer.lr, device=device)
        parameters = self.network.parameters()
        self.optimizer = make_optimizer(parameters, self.config.optimizer, self.learning_rate)
        self.augmentation = None if augmentation.is_identity else RandomAffine(augmentation, device)
        self._mask_buffers = mask_buffers(self.network)
        self._bf16 = Bf16Weights(self.network) if self.compute_mode.precision == "bf16" else None

    def __call__(self, batch: Tensor, maps: Tensor | None = None) -> Tensor:
        """Train on (B,) int64 indices of training images and (B, 2, 3) affine maps, without waiting for the device.

        The result, on the device, has (2,) mean loss and number of correct predictions.
        """
        loss, correct = self.forward(batch, maps)
        self.optimizer.zero_grad()
        loss.backward()
        if self._bf16:
            self._bf16.copy_gradients()
        self.optimizer.step()
        if self.average:
            self.average.update(self.network)
        return torch.stack((loss.detach(), correct))

    def forward(self, batch: Tensor, maps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean loss and number of correct predictions on the augmented images of a batch."""
        pixels, labels = self.train.images[batch] / 255, self.train.labels[batch]
        if self.augmentation and maps is not None:
            pixels = self.augmentation(pixels, maps)
        for buffer in self._mask_buffers:
            buffer.start_step()
        pixels = pixels.contiguous(memory_format=self.compute_mode.memory_format)
        if self._bf16:
            with torch.autocast(pixels.device.type, torch.bfloat16):
                logits = functional_call(self.network, self._bf16.copy_weights(), pixels).float()
        else:
            logits = self.network(pixels)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        return loss, (logits.argmax(1) == labels).sum()
