"""One training step: forward pass, backward pass, update."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_search.data.dataset import Digits
from mnist_search.training.augment import augment
from mnist_search.training.device import ComputeMode
from mnist_search.training.ema import ExponentialMovingAverage
from mnist_search.training.optim import make_optimizer
from search_space import TrainingConfig


class TrainStep:
    """Updates a network, and the average of its weights, by one batch.

    Args:
        network: on the device of ``train``.
        train: training images.
        config: how to train; the caller steps the schedule.
        compute_mode: how to compute.
        average: average of the network's weights.

    Attributes:
        optimizer: capturable if ``compute_mode`` uses a graph.
    """

    def __init__(
        self,
        network: nn.Module,
        train: Digits,
        config: TrainingConfig,
        compute_mode: ComputeMode,
        average: ExponentialMovingAverage | None = None,
    ) -> None:
        self.optimizer = make_optimizer(network.parameters(), config.optimizer, capturable=compute_mode.graph)
        self._network = network
        self._train = train
        self._config = config
        self._compute_mode = compute_mode
        self._average = average

    def __call__(self, batch: Tensor) -> Tensor:
        """Train on a batch without waiting for the device.

        Args:
            batch: (B,) int64 indices of training images.

        Returns:
            (2,) mean loss and number of correct predictions, on the device.
        """
        loss, correct = self.forward(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self._average:
            self._average.update(self._network)
        return torch.stack((loss.detach(), correct))

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and number of correct predictions on the augmented images of a batch."""
        labels = self._train.labels[batch]
        pixels = augment(self._train.images[batch].float() / 255, self._config.augmentation)
        bf16 = self._compute_mode.precision == "bf16"
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
            logits = self._network(pixels.contiguous(memory_format=self._compute_mode.memory_format)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self._config.label_smoothing)
        return loss, (logits.argmax(1) == labels).sum()
