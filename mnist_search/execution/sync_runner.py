"""Keep the sync process of a run running, and end it once MLflow agrees with the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from mnist_search.execution.process import ModuleProcess

RESTART_SECONDS = 5.0
"""Time between the first crash of the sync process and its replacement; doubled after every further crash."""

END_SECONDS = 30.0
"""Time after which a sync process that was asked to end and makes no progress is killed.

It gives up by itself before, unless a call of MLflow does not return.
"""

CPU_SECONDS = 0.1
"""CPU time that counts as progress: on a busy machine a write takes longer than END_SECONDS."""


@dataclass
class SyncRunner:
    """The sync process of a run.

    Attributes:
        start: starts the process; None without MLflow.
        process: the running process.
        status: MLflow's status of the study's run at the end; None before the end.
        ended: whether the process has ended by itself.
        crashes: number of processes that have crashed.
        cpu_seconds: CPU time of the process at its last progress.
    """

    start: Callable[[], ModuleProcess] | None = None
    process: ModuleProcess | None = None
    status: str | None = None
    restart_at: float = 0.0
    last_progress: float = field(default_factory=time.monotonic)
    ended: bool = False
    crashes: int = 0
    cpu_seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to wait for."""
        is_stuck = self.status is not None and time.monotonic() - self.last_progress > END_SECONDS
        return self.start is None or self.ended or is_stuck

    def keep_running(self) -> None:
        """Start the process, unless it runs, has ended, or has crashed a moment ago; note its CPU time."""
        if self.process and self.status is not None:
            with suppress(psutil.NoSuchProcess):
                times = psutil.Process(self.process.pid).cpu_times()
                if abs(times.user + times.system - self.cpu_seconds) > CPU_SECONDS:
                    self.cpu_seconds = times.user + times.system
                    self.note_progress()
        if self.start and not self.process and not self.ended and time.monotonic() >= self.restart_at:
            self.process = self.start()
            if self.status is not None:
                self.process.send(self.status)

    def request_end(self, status: str) -> None:
        """Ask the process to write what is left and to end; starts one if there is none."""
        self.status, self.restart_at = status, 0.0
        self.note_progress()
        if self.process is not None:
            self.process.send(status)
        self.keep_running()

    def note_progress(self) -> None:
        """Record that the process has written something."""
        self.last_progress = time.monotonic()

    def handle_exit(self, *, ended: bool) -> None:
        """Close the process, which has ended by itself or crashed."""
        self.ended = ended
        self.restart_at = time.monotonic() + RESTART_SECONDS * 2**self.crashes
        self.crashes += 1
        self.kill()

    def kill(self) -> None:
        """Kill the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(0)
            self.process.close()
        self.process = None
