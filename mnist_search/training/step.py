"""One step of training, and how its arithmetic is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_search.training.augment import augment
from mnist_search.training.digits import Digits
from search_space import TrainingConfig

Precision: TypeAlias = Literal["bf16", "fp32"]

WARM_UP = 3
"""Runs before a graph is recorded, in which libraries choose and load what they need."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a step's arithmetic is done; what it comes to is the same but for rounding.

    Attributes:
        precision: of the forward and backward pass; weights are fp32.
        channels_last: whether the channels of a pixel lie side by side.
        graph: whether the passes are recorded as a CUDA graph; on CUDA only.
    """

    precision: Precision = "fp32"
    channels_last: bool = True
    graph: bool = False

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        return ", ".join((self.precision, layout, *(["CUDA graph"] if self.graph else [])))

    @property
    def memory_format(self) -> torch.memory_format:
        """Of weights and maps."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


class TrainStep:
    """An update of a network by one batch.

    With a graph, index select, augmentation, forward and backward pass are one launch. The fused
    optimizer stays outside: a recorded one would keep the momentum that it was recorded with, and
    one-cycle schedules change it at every step. Its two launches are made while the device works.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: Digits,
        config: TrainingConfig,
        way: Way,
    ) -> None:
        self._network = network
        self._optimizer = optimizer
        self._train = train
        self._config = config
        self._way = way
        self._run = Recorded(self.passes, network) if way.graph else self.passes

    def __call__(self, batch: Tensor) -> Tensor:
        """Train on these images, (B,) int64; (2,) mean loss and right answers, on the device."""
        result = self._run(batch)
        self._optimizer.step()
        return result

    def passes(self, batch: Tensor) -> Tensor:
        """Forward and backward; gradients are new. Nothing in it asks the device for a number."""
        loss, right = self.forward(batch)
        self._optimizer.zero_grad()
        loss.backward()
        return torch.stack((loss.detach(), right))

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and right answers of these images, augmented."""
        labels = self._train.labels[batch]
        pixels = augment(self._train.images[batch].float() / 255, self._config.augmentation)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self._way.precision == "bf16"):
            logits = self._network(pixels.contiguous(memory_format=self._way.memory_format)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self._config.label_smoothing)
        return loss, (logits.argmax(1) == labels).sum()


class Recorded:
    """A function of one tensor, recorded as a CUDA graph at its first call and replayed ever after.

    Follows torch's "whole-network capture": warm up on a stream of its own, then record. The
    network is put back as it was, since running statistics move while it warms up.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        self._function = function
        self._network = network
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """What the function gives for ``x``, always in the same memory; every ``x`` is of one shape."""
        if self._graph is None:
            self._graph = self._record(x)
        self._input.copy_(x)
        self._graph.replay()
        return self._output

    def _record(self, x: Tensor) -> torch.cuda.CUDAGraph:
        self._input = x.clone()
        before = {name: value.clone() for name, value in self._network.state_dict().items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._function(self._input)
        torch.cuda.current_stream().wait_stream(stream)
        self._network.load_state_dict(before)
        graph = torch.cuda.CUDAGraph()
        # Other threads may ask CUDA things meanwhile: a lease is renewed, a run is written.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._output = self._function(self._input)
        return graph


class LossWatch:
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
