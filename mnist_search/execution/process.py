"""Processes that run a module of this package, with a channel to the process that started them.

``python -m MODULE`` is used instead of multiprocessing's spawn, which runs the caller's script again.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import psutil

logger = logging.getLogger(__name__)

RESTART_SECONDS = 5.0
"""Time between the first crash of the sync process and its replacement; doubled after every further crash."""

END_SECONDS = 30.0
"""Time after which a sync process that was asked to end and makes no progress is killed.

It gives up by itself before, unless a call of MLflow does not return.
"""

CPU_SECONDS = 0.1
"""CPU time that counts as progress: on a busy machine a write takes longer than END_SECONDS."""


class ModuleProcess(subprocess.Popen[bytes]):
    """A process that runs ``python -m MODULE`` with this process's import path and receives ``config``.

    Attributes:
        config: what the process has received.
        connection: to the process; receiving raises EOFError once it has ended.
        is_waiting, lost_node: of workers in a cluster, see ``RayWorker``.
    """

    is_waiting = False
    lost_node: str | None = None

    def __init__(self, module: str, config: Any) -> None:
        self.config = config
        self.connection, child = Pipe()
        # A terminal sends SIGINT to the whole process group: it stays blocked in the process.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with child:
                super().__init__(
                    [sys.executable, "-P", "-m", module, str(child.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(child.fileno(),),
                    env=child_environment(),
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        logger.info("started %s as process %d", module, self.pid)
        with suppress(OSError):  # the process has ended
            self.connection.send_bytes(cloudpickle.dumps(config))  # classes of a script or notebook by value

    def send(self, message: object) -> None:
        """Send a message; without effect if the process has ended."""
        try:
            self.connection.send(message)
        except OSError:
            logger.info("process %d has ended", self.pid)

    def end(self, seconds: float) -> int:
        """Wait for the process, kill it after ``seconds``, and close the connection; its exit code."""
        try:
            return self.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()
        finally:
            self.connection.close()


def child_environment() -> dict[str, str]:
    """Environment of a new Python process: this process's import path, and no warnings as errors."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))
    }  # "" is this folder
    if "error" in environment.get("PYTHONWARNINGS", ""):  # a warning of torch would end the process
        del environment["PYTHONWARNINGS"]
    return environment


def connect_to_parent() -> tuple[Connection, Any]:
    """In a started process: the connection to its parent, and the received config."""
    connection = Connection(int(sys.argv[1]))
    return connection, connection.recv()


@dataclass
class SyncRunner:
    """The sync process of a run.

    Attributes:
        start: starts the process; None without MLflow.
        status: MLflow's status of the study's run at the end; None before the end.
        ended: whether the process has ended by itself.
        crashes: number of processes that have crashed or could not start.
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
        if self.process:
            with suppress(psutil.NoSuchProcess):
                times = psutil.Process(self.process.pid).cpu_times()
                if abs(times.user + times.system - self.cpu_seconds) > CPU_SECONDS:
                    self.cpu_seconds = times.user + times.system
                    self.note_progress()
        elif self.start and not self.ended and time.monotonic() >= self.restart_at:
            try:
                self.process = self.start()
            except OSError:  # no memory or no processes left
                self.handle_exit(ended=False)
            else:
                self._send_status()

    def request_end(self, status: str) -> None:
        """Ask the process to write what is left and to end; starts one if there is none."""
        self.status, self.restart_at = status, 0.0
        self.note_progress()
        self._send_status()
        self.keep_running()

    def _send_status(self) -> None:
        if self.process and self.status is not None:
            self.process.send(self.status)

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
        if self.process:
            self.process.end(0)
        self.process = None
