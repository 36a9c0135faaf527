"""The training images in memory that worker processes map instead of reading and copying them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnist_search.training.digits import Digits, Split, shuffled
from mnist_search.training.files import read_training

PIXELS = 28 * 28


class SharedDigits:
    """Shuffled images and labels in anonymous memory, known by a file descriptor.

    Travels only as an argument of a process that is being spawned. The memory is neither a file on
    disk nor in ``/dev/shm``, whose size is limited, and is gone with the last process that has it.
    """

    def __init__(self, descriptor: int, count: int) -> None:
        self._descriptor = descriptor
        self._count = count

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (DupFd(self._descriptor), self._count)

    def split(self, train: int, val: int, device: torch.device) -> Split:
        """The split of these images; on a CPU they stay where they are."""
        size = self._count * (PIXELS + 1)
        # Private: a tensor must be writable, but what one process wrote would be its own.
        content = np.frombuffer(mmap.mmap(self._descriptor, size, access=mmap.ACCESS_COPY), np.uint8)
        images, labels = np.split(content, [self._count * PIXELS])
        digits = Digits(
            torch.from_numpy(images).view(-1, 1, 28, 28), torch.from_numpy(labels.astype(np.int64))
        )
        return Split.of(digits, train, val, device)


def _attach(duplicate: Any, count: int) -> SharedDigits:
    return SharedDigits(duplicate.detach(), count)


@contextmanager
def shared_digits(folder: Path, seed: int) -> Iterator[SharedDigits | None]:
    """The 60,000 training images in the order of a split's seed, for processes spawned meanwhile.

    None where the system has no such memory (it is Linux's) or no room for it: then every worker
    reads the files itself.
    """
    images, labels = shuffled(*read_training(folder), seed)
    try:
        descriptor = os.memfd_create("mnist")
    except (AttributeError, OSError):
        yield None
        return
    try:
        yield _fill(descriptor, images, labels)
    finally:
        os.close(descriptor)


def _fill(descriptor: int, images: np.ndarray, labels: np.ndarray) -> SharedDigits | None:
    try:
        os.ftruncate(descriptor, images.size + labels.size)
    except OSError:  # files may not grow so large, not even in memory
        return None
    with mmap.mmap(descriptor, images.size + labels.size) as memory:
        memory.write(images.data)
        memory.write(labels.data)
    return SharedDigits(descriptor, len(labels))
