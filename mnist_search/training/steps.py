"""The steps of an epoch: their batches, affine maps and learning rates are tables on the device."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from mnist_search.training.optim import EpochSchedule, cycles_momentum
from mnist_search.training.step import TrainStep

WARM_UP = 3  # steps before capture, as many as in torch's documentation
STEPS_PER_GRAPH = 13
"""5 to 65 are equally fast on an H100, and more take longer to capture (experiments/LOG.md)."""

CAPTURE_LOCK = threading.Lock()
"""Graphs of one process are captured and destroyed one at a time: both change the state of torch's generators."""

_thread = threading.local()


class Steps:
    """Runs the steps of an epoch one by one.

    ``generator``, on the device of the training images, draws their order and the affine maps.

    Attributes:
        per_epoch: number of steps; an incomplete last batch is dropped.
        totals: (2,) sums of the results of this epoch's steps, on the device.
    """

    def __init__(self, step: TrainStep, generator: torch.Generator) -> None:
        self._step = step
        self._generator = generator
        self.batch_size = min(step.config.batch_size, len(step.train))
        self.per_epoch = len(step.train) // self.batch_size
        shape, device = (self.per_epoch, self.batch_size), generator.device
        self.totals = torch.zeros(2, device=device)
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._batches = torch.zeros(shape, dtype=torch.int64, device=device)
        self._maps = torch.zeros(*shape, 2, 3, device=device) if step.augmentation else None
        self._rates = torch.zeros(self.per_epoch, device=device)
        self._momenta: Iterator[float] | None = None

    def epoch(self, schedule: EpochSchedule) -> Iterator[int]:
        """Train an epoch; yields the number of submitted steps after every submission."""
        n_images = self._batches.numel()
        order = torch.randperm(len(self._step.train), generator=self._generator, device=self._number.device)
        self._batches.copy_(order[:n_images].view_as(self._batches))
        if self._maps is not None and self._step.augmentation:
            self._maps.copy_(self._step.augmentation.draw(n_images, self._generator).view_as(self._maps))
        self._rates.copy_(torch.tensor(schedule.rates))
        self._momenta = iter(schedule.momenta) if schedule.momenta else None
        self._number.zero_()
        self.totals.zero_()
        submitted = 0
        while submitted < self.per_epoch:
            submitted += self._submit(self.per_epoch - submitted)
            yield submitted

    def close(self) -> None:
        """Release what belongs to the device."""

    def _submit(self, _n_left: int) -> int:
        """Submit one or more of the remaining steps; their number."""
        if self._momenta:
            (group,) = self._step.optimizer.param_groups
            momentum = next(self._momenta)
            group.update(
                {"betas": (momentum, group["betas"][1])} if "betas" in group else {"momentum": momentum}
            )
        self._run_next()
        return 1

    def _run_next(self) -> None:
        """Run the next step; everything that changes between steps is read from the device."""
        torch.index_select(self._rates, 0, self._number, out=self._step.learning_rate.view(1))
        batch = self._batches.index_select(0, self._number)[0]
        maps = None if self._maps is None else self._maps.index_select(0, self._number)[0]
        self.totals += self._step(batch, maps)
        self._number += 1


class GraphSteps(Steps):
    """Captures ``STEPS_PER_GRAPH`` steps, and one step for the rest of an epoch, as CUDA graphs and replays them.

    The host then launches graphs and nothing else between epochs. The first ``WARM_UP`` steps, in which
    libraries select kernels and fused SGD creates its momentum buffers, run one by one. As in torch's
    "whole-network capture", they run on the stream of the capture.
    """

    def __init__(self, step: TrainStep, generator: torch.Generator) -> None:
        super().__init__(step, generator)
        current = torch.cuda.current_stream()
        self._stream = torch.cuda.Stream() if current == torch.cuda.default_stream() else current
        self._n_eager = 0
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def _submit(self, n_left: int) -> int:
        if self._n_eager < WARM_UP:
            self._n_eager += 1
            with self._on_own_stream():
                return super()._submit(n_left)
        n_steps = STEPS_PER_GRAPH if n_left >= STEPS_PER_GRAPH else 1
        if n_steps not in self._graphs:
            self._graphs[n_steps] = self._capture(n_steps)
        self._graphs[n_steps].replay()
        return n_steps

    def _capture(self, n_steps: int) -> torch.cuda.CUDAGraph:
        """Capture without execution: weights, optimizer, average and tables do not change."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with self._on_own_stream(), CAPTURE_LOCK, _capturing(graph, _memory_pool()):
            for _ in range(n_steps):
                self._run_next()
        return graph

    def close(self) -> None:
        """Destroy the graphs."""
        with CAPTURE_LOCK:
            self._graphs.clear()

    @contextmanager
    def _on_own_stream(self) -> Iterator[None]:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)


def make_steps(step: TrainStep, generator: torch.Generator) -> Steps:
    """Steps of the compute mode; a schedule that cycles the momentum allows no graph."""
    has_graph = step.compute_mode.graph and not cycles_momentum(step.config.schedule)
    return (GraphSteps if has_graph else Steps)(step, generator)


@contextmanager
def _capturing(graph: torch.cuda.CUDAGraph, pool: Any = None) -> Iterator[None]:
    """Capture what this thread launches; unlike ``torch.cuda.graph``, do not wait for the device.

    Garbage collection could destroy another graph meanwhile.
    """
    gc.disable()
    graph.capture_begin(pool, capture_error_mode="thread_local")
    try:
        yield
    except BaseException:
        with suppress(RuntimeError):  # the capture is invalid
            graph.capture_end()
        raise
    else:
        graph.capture_end()
    finally:
        gc.enable()


def _memory_pool() -> Any:
    """The memory of this thread's graphs, which the graphs of the next trial use again.

    A graph that is never replayed keeps it; the caller holds the lock and is on a stream of its own.
    """
    if not hasattr(_thread, "graph"):
        graph = torch.cuda.CUDAGraph()
        with _capturing(graph):
            torch.zeros(1, device="cuda")
        _thread.graph = graph
    return _thread.graph.pool()


def free_memory() -> None:
    """Return the memory of this thread's graphs and the unused memory of the process to the GPU."""
    with CAPTURE_LOCK:
        vars(_thread).clear()
        torch.cuda.empty_cache()
