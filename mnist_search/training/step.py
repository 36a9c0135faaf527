"""One training step: forward pass, backward pass, update, exponential moving average of the weights."""

from copy import deepcopy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mnist_search.data.dataset import Digits
from mnist_search.training.augment import augment
from mnist_search.training.device import ComputeMode
from mnist_search.training.optim import make_optimizer
from search_space import TrainingConfig


class ExponentialMovingAverage:
    """An exponential moving average of a network's weights and buffers, in ``module``.

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
        if self._is_empty:
            self.module.load_state_dict(network.state_dict())
            self._is_empty = False
            return
        for averaged, current in zip(_by_dtype(self.module), _by_dtype(network), strict=True):
            if averaged:
                self._average(averaged, current, 0)


def _by_dtype(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Float and integer parameters and buffers: ``torch._foreach`` functions take one dtype per call."""
    tensors = [*network.parameters(), *network.buffers()]
    return [x for x in tensors if x.is_floating_point()], [x for x in tensors if not x.is_floating_point()]


@dataclass
class TrainStep:
    """Updates a network on the device of ``train``, and the average of its weights, by one batch.

    The caller steps the schedule. The optimizer is capturable if ``compute_mode`` uses a graph.
    """

    network: nn.Module
    train: Digits
    config: TrainingConfig
    compute_mode: ComputeMode
    average: ExponentialMovingAverage | None = None
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        parameters, capturable = self.network.parameters(), self.compute_mode.graph
        self.optimizer = make_optimizer(parameters, self.config.optimizer, capturable=capturable)

    def __call__(self, batch: Tensor) -> Tensor:
        """Train on (B,) int64 indices of training images, without waiting for the device.

        The result, on the device, has (2,) mean loss and number of correct predictions.
        """
        loss, correct = self.forward(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.average:
            self.average.update(self.network)
        return torch.stack((loss.detach(), correct))

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and number of correct predictions on the augmented images of a batch."""
        labels = self.train.labels[batch]
        pixels = augment(self.train.images[batch].float() / 255, self.config.augmentation)
        bf16 = self.compute_mode.precision == "bf16"
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
            logits = self.network(pixels.contiguous(memory_format=self.compute_mode.memory_format)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        return loss, (logits.argmax(1) == labels).sum()
