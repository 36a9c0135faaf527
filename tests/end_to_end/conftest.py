"""Commands in process groups of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest


@pytest.fixture
def spawn(tmp_path):
    """Start a Python process in a new process group, which is killed after the test."""
    groups = []

    def call(*arguments):
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        groups.append(process)
        return process

    yield call
    for process in groups:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()  # closes its pipes


@pytest.fixture
def start(spawn):
    """Start ``mnist-search`` in a new process group."""
    return lambda *arguments: spawn("-m", "mnist_search", *arguments)
