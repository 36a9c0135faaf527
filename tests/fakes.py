"""Hand-written fakes with the interfaces of the real classes."""

from __future__ import annotations

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from mnist_search.training.cuda_graph import WARM_UP


class ForbidTensorOps(TorchDispatchMode):
    """A context in which every tensor operation fails."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was called")


class OperationRecorder(TorchDispatchMode):
    """A context that records the name of every tensor operation."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


class GraphReplayFake:
    """A CUDA graph on any device: the kernels of one step, replayed with their constants."""

    def __init__(self, step):
        self._step = step
        self._calls = 0
        self._kernels = None

    def __call__(self, batch):
        self._calls += 1
        self._step.optimizer.sync_hyperparameters()
        if self._calls <= WARM_UP:
            return self._step(batch)
        if self._kernels is None:
            return self._capture(batch)
        with torch.no_grad():  # the kernels include the backward pass
            return self._kernels(batch)

    def _capture(self, batch):
        results = []

        def function(batch):
            results.append(self._step(batch))
            return results[0]

        self._kernels = make_fx(function)(batch)  # unlike CUDA, this also executes the step
        return results[0]
