"""Hand-written fakes with the interfaces of the real classes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from mnist_search.tracking.base import TrackedRun
from mnist_search.training.cuda_graph import WARM_UP


@dataclass
class RecordingRun:
    """A run that records its calls."""

    run_id: str
    info: object = None
    epochs: list = field(default_factory=list)
    trial_end: object = None

    def log_epoch(self, epoch):
        self.epochs.append(epoch)

    def end(self, trial_end):
        self.trial_end = trial_end


@dataclass
class RecordingTracker:
    """A tracker that records its calls; ``available`` can be switched off."""

    available: bool = True
    runs: dict = field(default_factory=dict)
    models: dict = field(default_factory=dict)
    summaries: list = field(default_factory=list)
    pages: dict = field(default_factory=dict)
    n_runs: int = 0

    def start_trial(self, info):
        if not self.available:
            return RecordingRun(None)
        self.n_runs += 1
        run = RecordingRun(f"run-{self.n_runs}", info)
        self.runs[run.run_id] = run
        return run

    def reopen_trial(self, run_id):
        return self.runs[run_id]

    def delete_run(self, run_id):
        self.runs.pop(run_id, None)

    def tracked_runs(self):
        if not self.available:
            return None
        status = {None: "RUNNING", "COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
        return [
            TrackedRun(run.run_id, run.info.number, status[run.trial_end and run.trial_end.state])
            for run in self.runs.values()
        ]

    def log_model(self, run_id, model):
        if not self.available:
            return None
        self.models[f"model-of-{run_id}"] = model
        return f"model-of-{run_id}"

    def delete_model(self, model_id):
        return self.models.pop(model_id, None) is not None

    def update_study(self, record, *, status="RUNNING"):
        self.summaries.append((record, status))

    def log_study_page(self, html, name):
        self.pages[name] = html


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
