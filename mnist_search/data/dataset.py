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

    def __getitem__(self, indices: slice) -> Digits:
        """A subset, as a view."""
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

    @classmethod
    def of(cls, shuffled_digits: Digits, train: int, val: int, device: torch.device | str) -> Split:
        """The first ``val`` images are for validation, whatever the number of training images."""
        return cls(train=shuffled_digits[val : val + train].to(device), val=shuffled_digits[:val].to(device))


def shuffle(images: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Permute images and labels.

    The stream of ``numpy.random.RandomState`` is frozen (NEP 19), so a study's split never changes.
    """
    order = np.random.RandomState(seed).permutation(len(labels))
    return images[order], labels[order]


def load_split(folder: Path, train: int, val: int, seed: int, device: torch.device | str = "cpu") -> Split:
    """Split the 60,000 training images, usually by ``StudyConfig.split``; opens no test file."""
    digits = Digits.from_arrays(*shuffle(*read_training(folder), seed))
    return Split.of(digits, train, val, device)


def load_test(folder: Path) -> Digits:
    """The 10,000 test images, on the CPU; the search never calls it."""
    return Digits.from_arrays(*read_test(folder))


def load_train_and_test(folder: Path, device: torch.device) -> tuple[Digits, Digits]:
    """All 60,000 training images and the 10,000 test images; the search never calls it."""
    return Digits.from_arrays(*read_training(folder)).to(device), load_test(folder).to(device)
