"""Loss checks that do not wait for the GPU."""

from collections.abc import Callable

import torch
from torch import Tensor


class AsyncLossMonitor:
    """Checks the mean loss at intervals without waiting for a GPU.

    On CUDA a submitted loss is copied asynchronously and checked at the next call, so that the GPU
    always has the steps in between queued. ``check`` takes a mean loss and its position in training,
    and raises to stop it.
    """

    def __init__(self, check: Callable[[float, str], None]) -> None:
        self._check = check
        self._sum, self._steps = 0.0, 0
        self._pending: tuple[Tensor, torch.cuda.Event | None, int, str] | None = None

    def submit(self, losses: Tensor, steps: int, position: str) -> None:
        """Check the mean loss since the last call; ``losses`` is the sum over ``steps`` steps of the epoch."""
        self.flush()
        host = losses.to("cpu", non_blocking=losses.is_cuda, copy=True)  # pinned memory, if from a GPU
        # A waiting thread sleeps, so that other trials of the process have the core.
        copied = torch.cuda.Event(blocking=True) if losses.is_cuda else None
        self._pending = host, copied, steps, position
        if copied:
            copied.record()
        else:
            self.flush()

    def flush(self) -> None:
        """Wait for the pending loss, if any, and check it."""
        if self._pending is None:
            return
        host, copied, steps, position = self._pending
        self._pending = None
        if copied:
            copied.synchronize()
        previous, self._sum = self._sum, host.item()
        self._check((self._sum - previous) / (steps - self._steps), position)
        self._steps = steps
