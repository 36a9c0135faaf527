"""Written fakes: parts with the real interface that remember what they were told."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from mnist_search.tracking.base import TrackedRun
from mnist_search.training.step import WARM_UP


@dataclass
class RecordingRun:
    """A run that remembers."""

    run_id: str
    card: object = None
    epochs: list = field(default_factory=list)
    ending: object = None

    def log_epoch(self, epoch):
        self.epochs.append(epoch)

    def end(self, ending):
        self.ending = ending


@dataclass
class RecordingTracker:
    """A tracker that remembers; ``reachable`` can be switched off."""

    reachable: bool = True
    runs: dict = field(default_factory=dict)
    models: dict = field(default_factory=dict)
    summaries: list = field(default_factory=list)
    pages: dict = field(default_factory=dict)
    made: int = 0

    def start_trial(self, card):
        if not self.reachable:
            return RecordingRun(None)
        self.made += 1
        run = RecordingRun(f"run-{self.made}", card)
        self.runs[run.run_id] = run
        return run

    def reopen_trial(self, run_id):
        return self.runs[run_id]

    def delete_run(self, run_id):
        self.runs.pop(run_id, None)

    def tracked_runs(self):
        if not self.reachable:
            return None
        status = {None: "RUNNING", "COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
        return [
            TrackedRun(run.run_id, run.card.number, status[run.ending and run.ending.state])
            for run in self.runs.values()
        ]

    def log_model(self, run_id, model):
        if not self.reachable:
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
    """While it is entered, every operation on tensors fails, the making of one included."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was called")


class OperationRecorder(TorchDispatchMode):
    """While it is entered, remembers the name of every operation on tensors."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


class GraphReplayFake:
    """What a CUDA graph does, on any device: the kernels of one step, replayed with their constants."""

    def __init__(self, step):
        self._step = step
        self._calls = 0
        self._kernels = None

    def __call__(self, batch):
        self._calls += 1
        self._step.optimizer.read()
        if self._calls <= WARM_UP:
            return self._step(batch)
        if self._kernels is None:
            return self._capture(batch)
        with torch.no_grad():  # the kernels of the backward pass are among them
            return self._kernels(batch)

    def _capture(self, batch):
        results = []

        def function(batch):
            results.append(self._step(batch))
            return results[0]

        self._kernels = make_fx(function)(batch)  # runs it too, where CUDA would not
        return results[0]
