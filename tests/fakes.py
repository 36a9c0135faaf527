"""Hand-written fakes with the interfaces of the real classes."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from mnist_search.training.steps import GraphSteps, Steps


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


class GraphFake:
    """A CUDA graph on any device: the kernels of a function, replayed with their constants."""

    def __init__(self, function):
        self._kernels = make_fx(function)()
        self._was_executed = True  # by the capture, unlike with CUDA

    def replay(self):
        if not self._was_executed:
            with torch.no_grad():  # the kernels include the backward pass
                self._kernels()
        self._was_executed = False


class GraphStepsFake(GraphSteps):
    """``GraphSteps`` on any device."""

    def __init__(self, *arguments):
        Steps.__init__(self, *arguments)
        self._n_eager = 0
        self._graphs = {}

    def _on_own_stream(self):
        return nullcontext()

    def _capture(self, n_steps):
        def run():
            for _ in range(n_steps):
                self._run_next()
            return self.totals

        return GraphFake(run)
