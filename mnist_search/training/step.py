"""One step of training, and how its arithmetic is done."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_search.data.dataset import Digits
from mnist_search.training.augment import augment
from mnist_search.training.capturable import Capturable
from mnist_search.training.device import ComputeMode
from mnist_search.training.ema import ExponentialMovingAverage
from mnist_search.training.optim import make_optimizer
from search_space import TrainingConfig

WARM_UP = 3
"""Calls before a graph is recorded, as many as torch's documentation makes."""

BEFORE_REPLAYS = WARM_UP + 1
"""Calls that take longer than those after them."""


class TrainStep:
    """An update of a network, and of the average of its weights, by one batch.

    Args:
        network: on the device of ``train``.
        train: images to learn from.
        config: how to train; the schedule is the caller's to follow.
        compute_mode: how to do the arithmetic.
        average: what follows the weights.

    Attributes:
        optimizer: made for the network, and for a graph where there is to be one.
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
        """Train on these images, (B,) int64; (2,) mean loss and right answers, on the device.

        Gradients are new every time, and nothing asks the device for a number.
        """
        loss, right = self.forward(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self._average:
            self._average.update(self._network)
        return torch.stack((loss.detach(), right))

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and right answers of these images, augmented."""
        labels = self._train.labels[batch]
        pixels = augment(self._train.images[batch].float() / 255, self._config.augmentation)
        with torch.autocast(
            pixels.device.type, torch.bfloat16, enabled=self._compute_mode.precision == "bf16"
        ):
            logits = self._network(pixels.contiguous(memory_format=self._compute_mode.memory_format)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self._config.label_smoothing)
        return loss, (logits.argmax(1) == labels).sum()


class CudaGraphStep:
    """A step, recorded as a CUDA graph at its fourth call and replayed ever after: one launch.

    Index select, augmentation, both passes, optimizer and average are in it; only the numbers of
    the schedule are brought to the device before. Follows torch's "whole-network capture": the
    first calls, in which libraries choose and load what they need, run on a stream of their own;
    here they are steps of the training like any.
    """

    def __init__(self, step: TrainStep) -> None:
        if not isinstance(step.optimizer, Capturable):
            raise TypeError("a graph would keep this optimizer's learning rate: make the step for a graph")
        self._step, self._schedule = step, step.optimizer
        self._calls = 0
        self._stream = torch.cuda.Stream()
        self._graph = torch.cuda.CUDAGraph()

    def __call__(self, batch: Tensor) -> Tensor:
        """As the step; every batch is of one size, and what replays give shares its memory."""
        self._calls += 1
        self._schedule.read()
        if self._calls <= WARM_UP:
            return self._warm_up(batch)
        if self._calls == WARM_UP + 1:
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
        """Recording runs nothing: weights, optimizer and average stay as they are."""
        self._input = batch.clone()
        # Other threads may ask CUDA things meanwhile: a lease is renewed, a run is written.
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            self._output = self._step(self._input)


class AsyncLossMonitor:
    """Looks at the loss now and then without making a GPU wait.

    There a look sends for the sum and reads the one that was sent for a look ago, so that the
    device always has the steps between two looks to do.

    Args:
        check: given a mean loss and where it was seen; raises to end the training.
    """

    def __init__(self, check: Callable[[float, str], None]) -> None:
        self._check = check
        self._sum, self._steps = 0.0, 0
        self._sent: tuple[Callable[[], float], int, str] | None = None

    def look(self, losses: Tensor, steps: int, where: str) -> None:
        """``losses``: the sum, on the device, over ``steps`` steps of the epoch so far."""
        self.arrive()
        self._sent = _send_for(losses), steps, where
        if losses.device.type != "cuda":
            self.arrive()

    def arrive(self) -> None:
        """Read what was sent for, if anything was, and wait for it if it must be."""
        if self._sent is None:
            return
        read, steps, where = self._sent
        self._sent = None
        before, self._sum = self._sum, read()
        self._check((self._sum - before) / (steps - self._steps), where)
        self._steps = steps


def _send_for(number: Tensor) -> Callable[[], float]:
    """Begin to copy a number to the host; the result waits for it."""
    if number.device.type != "cuda":
        return number.item
    here = number.to("cpu", non_blocking=True)  # pinned memory
    there = torch.cuda.Event()
    there.record()

    def read() -> float:
        there.synchronize()
        return here.item()

    return read
