"""CUDA graph capture of a training step, and loss checks that do not wait for the GPU."""

from collections.abc import Callable

import torch
from torch import Tensor

from mnist_search.training.optim import Capturable
from mnist_search.training.step import TrainStep

WARM_UP = 3  # calls before capture, as many as in torch's documentation
BEFORE_REPLAYS = WARM_UP + 1  # calls that take longer than a replay


class CudaGraphStep:
    """Captures a step as a CUDA graph on the fourth call and replays it afterwards, as one launch.

    Only the scheduled hyperparameters are copied to the device before. As in torch's "whole-network
    capture", the warm-up calls, in which libraries select and load kernels, run on a side stream;
    they are ordinary training steps.

    Raises:
        TypeError: the optimizer is not capturable.
    """

    def __init__(self, step: TrainStep) -> None:
        if not isinstance(step.optimizer, Capturable):
            raise TypeError(
                "a graph would freeze this optimizer's learning rate; make the step with ComputeMode.graph"
            )
        self._step, self._optimizer = step, step.optimizer
        self._calls = 0
        self._stream = torch.cuda.Stream()
        self._graph = torch.cuda.CUDAGraph()

    def __call__(self, batch: Tensor) -> Tensor:
        """Like ``TrainStep``; every batch has one size, and the results of replays share memory."""
        self._calls += 1
        self._optimizer.sync_hyperparameters()
        if self._calls <= WARM_UP:
            return self._warm_up(batch)
        if self._calls == BEFORE_REPLAYS:
            self._capture(batch)
        self._input.copy_(batch)
        self._graph.replay()
        return self._output

    def _warm_up(self, batch: Tensor) -> Tensor:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = self._step(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def _capture(self, batch: Tensor) -> None:
        """Capture without execution: weights, optimizer and average do not change."""
        self._input = batch.clone()
        # Other threads may call CUDA meanwhile: one renews a lease, another writes a run.
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            self._output = self._step(self._input)


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
        host = losses.to("cpu", non_blocking=losses.is_cuda)  # pinned memory, if from a GPU
        copied = torch.cuda.Event() if losses.is_cuda else None
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
