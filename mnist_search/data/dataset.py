"""Images and labels as tensors on the device, split once and for all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mnist_search.data.mnist import read_test, read_training


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

    def __getitem__(self, which: slice) -> Digits:
        """A part of the set, without a copy."""
        return Digits(self.images[which], self.labels[which])

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

    @classmethod
    def of(cls, shuffled_digits: Digits, train: int, val: int, device: torch.device) -> Split:
        """The first ``val`` to be judged by and the next ``train`` to learn from.

        So fewer training images leave the validation set as it is.
        """
        return cls(train=shuffled_digits[val : val + train].to(device), val=shuffled_digits[:val].to(device))


def shuffle(images: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels in the order that ``seed`` stands for.

    It comes from ``numpy.random.RandomState``, whose stream is frozen for ever (NEP 19), so that
    a split never changes under a study.
    """
    order = np.random.RandomState(seed).permutation(len(labels))
    return images[order], labels[order]


def load_train_and_test(folder: Path, device: torch.device) -> tuple[Digits, Digits]:
    """All 60,000 training images and the 10,000 test images; nothing on the search path calls it."""
    train, test = (Digits.from_arrays(*read(folder)).to(device) for read in (read_training, read_test))
    return train, test


def load_split(folder: Path, train: int, val: int, seed: int, device: torch.device) -> Split:
    """The split of the 60,000 MNIST training images on ``device``; opens no test file."""
    digits = Digits.from_arrays(*shuffle(*read_training(folder), seed))
    return Split.of(digits, train, val, device)
