"""MNIST images and labels as tensors, and their split into training and validation sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mnist_search.data.mnist import read_test, read_training


@dataclass(frozen=True)
class Digits:
    """(N, 1, 28, 28) uint8 images and (N,) int64 labels."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: slice | Tensor) -> Digits:
        return Digits(self.images[indices], self.labels[indices])

    def to(self, device: torch.device | str) -> Digits:
        """Copy to a device."""
        return Digits(self.images.to(device), self.labels.to(device))

    @classmethod
    def from_arrays(cls, images: np.ndarray, labels: np.ndarray) -> Digits:
        """From (N, 28, 28) uint8 images and (N,) labels."""
        return cls(torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


@dataclass(frozen=True)
class Split:
    """Training and validation images; model selection uses these only."""

    train: Digits
    val: Digits

    def to(self, device: torch.device | str) -> Split:
        """Copy to a device."""
        return Split(self.train.to(device), self.val.to(device))

    @classmethod
    def of(cls, digits: Digits, train: int, val: int, seed: int, device: torch.device | str = "cpu") -> Split:
        """Shuffle digits; the first are for validation, whatever the number of training images.

        The stream of ``numpy.random.RandomState`` is frozen (NEP 19), so a study's split never changes.
        """
        order = torch.from_numpy(np.random.RandomState(seed).permutation(len(digits)))
        return cls(digits[order[val : val + train]].to(device), digits[order[:val]].to(device))


def load_split(folder: Path, train: int, val: int, seed: int, device: torch.device | str = "cpu") -> Split:
    """Split the 60,000 training images, usually by ``StudyConfig.split``; opens no test file."""
    return Split.of(Digits.from_arrays(*read_training(folder)), train, val, seed, device)


def load_test(folder: Path) -> Digits:
    """The 10,000 test images, on the CPU; the search never calls it."""
    return Digits.from_arrays(*read_test(folder))


def load_train_and_test(folder: Path, device: torch.device) -> tuple[Digits, Digits]:
    """All 60,000 training images and the 10,000 test images; the search never calls it."""
    return Digits.from_arrays(*read_training(folder)).to(device), load_test(folder).to(device)
