"""Commands that search in processes of their own, and what tests do to these."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest
from soundness import open_study

SMALL = [
    "run", "--budget", "1500", "--epochs", "2", "--train-images", "2000", "--val-images", "500",
    "--pruner", "none", "--device", "cpu", "--warm-start", "none",
]  # fmt: skip

WORKER, SYNC = "mnist_search.execution.worker", "mnist_search.execution.sync_process"


def wait_for(folder, condition, seconds=120):
    """Read the store until a condition is met."""
    for _ in range(seconds * 10):
        time.sleep(0.1)
        if (folder / "mnist-search.db").exists():
            try:
                record = open_study(folder).record()
            except Exception:  # noqa: BLE001 - the study does not exist yet
                continue
            if condition(record):
                return record
    pytest.fail(f"the condition was not met within {seconds} s")


def is_training(record):
    """Whether a trial is being trained."""
    return any(trial.state == "RUNNING" and trial.device for trial in record.trials)


def children(process, module):
    """The processes of a command that run a module, oldest first."""
    try:
        found = psutil.Process(process.pid).children(recursive=True)
        return sorted((c for c in found if module in c.cmdline()), key=lambda c: c.create_time())
    except psutil.NoSuchProcess:
        return []


def kill_group(process):
    """Kill a command with its processes, as a reboot does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def weights_of(folder):
    return sorted(open_study(folder).queue.kept_weights().items())
