"""Evaluation of a network on a data set."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_search.data.dataset import Digits

BATCH_SIZE = {False: 1000, True: 10_000}
"""Number of images per forward pass on a CPU, in whose cache the maps fit, and on a GPU."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean cross-entropy, accuracy as a fraction and (N, 10) logits on the device of the data set."""

    loss: float
    accuracy: float
    logits: Tensor

    @property
    def predictions(self) -> Tensor:
        """(N,) int64 predicted digits."""
        return self.logits.argmax(1)


@torch.no_grad()
def evaluate(
    network: Callable[[Tensor], Tensor], digits: Digits, batch_size: int | None = None
) -> Evaluation:
    """Evaluate a network on every image, in fp32 and without dropout.

    The network is a module, an exported program's module or a function, from (N, 1, 28, 28) float32
    pixels in [0, 1] to (N, 10) logits, on the device of ``digits``. A module is switched to
    evaluation mode.
    """
    if isinstance(network, nn.Module):
        with suppress(NotImplementedError):  # by an exported program: export stored its evaluation mode
            network.eval()
    batches = digits.images.split(batch_size or BATCH_SIZE[digits.images.is_cuda])
    logits = torch.cat([network(images / 255) for images in batches])
    correct = (logits.argmax(1) == digits.labels).sum().item()
    return Evaluation(F.cross_entropy(logits, digits.labels).item(), correct / len(digits), logits)


def confusion_matrix(predictions: Tensor, labels: Tensor) -> Tensor:
    """(10, 10) int64 counts, a row per true digit and a column per predicted digit."""
    return torch.bincount(10 * labels + predictions, minlength=100).view(10, 10)
