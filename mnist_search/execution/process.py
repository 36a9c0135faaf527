"""Processes that run a module of this package, with a channel to the process that started them.

``python -m MODULE`` is used instead of multiprocessing's spawn, which runs the caller's script again.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

logger = logging.getLogger(__name__)


class ModuleProcess:
    """A started process.

    Attributes:
        connection: to the process; receiving raises EOFError once it has ended.
    """

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self._process = process
        self.connection = connection

    @classmethod
    def start(cls, module: str, config: object) -> ModuleProcess:
        """Run ``python -m MODULE`` and send it ``config``; it has this process's import path."""
        parent, child = Pipe()
        with child, _blocked_interrupts():
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(child.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(child.fileno(),),
                env=child_environment(),
            )
        logger.info("started %s as process %d", module, process.pid)
        with suppress(OSError):  # the process has ended
            parent.send_bytes(cloudpickle.dumps(config))  # classes of a script or notebook by value
        return cls(process, parent)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: object) -> None:
        """Send a message; without effect if the process has ended."""
        try:
            self.connection.send(message)
        except OSError:
            logger.info("process %d has ended", self.pid)

    def wait(self, seconds: float) -> int:
        """Wait for the end of the process, and kill it after ``seconds``; its exit code."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def child_environment() -> dict[str, str]:
    """Environment of a new Python process, with this process's import path."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}  # "" is this folder


@contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Block SIGINT, which a terminal sends to the whole process group, in a new process; here it arrives later."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def connect_to_parent() -> tuple[Connection, Any]:
    """In a started process: the connection to its parent, and the received config."""
    connection = Connection(int(sys.argv[1]))
    return connection, connection.recv()


def exit_without_teardown(code: int) -> None:
    """End a started process: with torch and MLflow loaded, interpreter teardown takes 2-5 s."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
