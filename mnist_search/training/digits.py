"""Images and labels as tensors on the device, split once and for all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mnist_search.training.files import read_training


@dataclass(frozen=True)
class Digits:
    """A set of labelled images.

    Attributes:
        images: (N, 1, 28, 28) uint8.
        labels: (N,) int64.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Digits:
        """These images, in this order, as a set of their own."""
        chosen = torch.from_numpy(indices).to(self.labels.device)
        return Digits(self.images[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> Digits:
        """The same set on another device."""
        return Digits(self.images.to(device), self.labels.to(device))

    @classmethod
    def from_arrays(cls, images: np.ndarray, labels: np.ndarray) -> Digits:
        """From (N, 28, 28) uint8 images and (N,) labels."""
        return cls(torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


@dataclass(frozen=True)
class Split:
    """What a trial may see: images to learn from and images to be judged by."""

    train: Digits
    val: Digits


def split(digits: Digits, train: int, val: int, seed: int) -> Split:
    """``train`` and ``val`` different images, drawn by ``seed``.

    The permutation comes from ``numpy.random.RandomState``, whose stream is frozen for ever
    (NEP 19), so that a split never changes under a study. Validation images come first in it:
    fewer training images leave the validation set as it is.
    """
    order = np.random.RandomState(seed).permutation(len(digits))
    return Split(digits.take(order[val : val + train]), digits.take(order[:val]))


def load_split(folder: Path, train: int, val: int, seed: int, device: torch.device) -> Split:
    """The split of the 60,000 MNIST training images on ``device``; opens no test file."""
    digits = Digits.from_arrays(*read_training(folder)).to(device)
    return split(digits, train, val, seed)
