"""Asynchronous loss check."""

from __future__ import annotations

import torch

from mnist_search.training.loss_monitor import AsyncLossMonitor


def test_loss_monitor_checks_the_mean_since_the_last_submission():
    checks = []
    monitor = AsyncLossMonitor(lambda loss, position: checks.append((loss, position)))

    monitor.submit(torch.tensor(20.0), 10, "step 10")
    monitor.submit(torch.tensor(50.0), 15, "step 15")
    monitor.flush()

    assert checks == [(2.0, "step 10"), (6.0, "step 15")]
