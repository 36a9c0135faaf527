"""Supervisor: start workers, report their events, replace crashed ones, stop them."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from mnist_search import errors
from mnist_search.errors import MnistSearchError, TryAgain
from mnist_search.execution.events import (
    Event,
    Message,
    OutOfMemory,
    StopConditionReached,
    WorkerDone,
    WorkerFailed,
)

logger = logging.getLogger(__name__)

STOP_SECONDS = 20.0
"""Time for workers to release their trials before they are killed."""

MAX_RESTARTS = 3
POLL_SECONDS = 0.5

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ProgressReporter:
    """Shows the progress of a run; the base class shows nothing."""

    def handle(self, event: Event) -> None:
        """Show an event of a worker."""

    def refresh(self) -> None:
        """Update the display; called at least every POLL_SECONDS."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the workers stopped before the study was done.

    Attributes:
        signal: number of the received signal, if any.
    """

    reason: str
    signal: int | None = None


@dataclass
class Supervisor:
    """The worker processes of one run.

    Attributes:
        worker: function that a worker process runs; must be picklable.
    """

    worker: Callable[[Connection], None]
    reporter: ProgressReporter
    processes: dict[Connection, BaseProcess] = field(default_factory=dict)
    restarts: int = 0
    finished: bool = False
    stop: Stop | None = None
    failure: WorkerFailed | None = None
    messages: set[Message] = field(default_factory=set)

    def start_worker(self) -> None:
        """Start a worker with ``spawn``: CUDA, SQLite connections and threads are not fork-safe."""
        context = multiprocessing.get_context("spawn")
        parent, child = context.Pipe()
        process = context.Process(target=self.worker, args=(child,), daemon=True)
        # A terminal sends Ctrl-C to the whole process group; workers inherit the ignored SIGINT.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.start()
        signal.signal(signal.SIGINT, handler)
        child.close()
        self.processes[parent] = process
        logger.info("started worker %d", process.pid)

    def request_stop(self, stop: Stop) -> None:
        """Ask every worker to release its trial and exit."""
        self.stop = self.stop or stop
        for connection in self.processes:
            try:
                connection.send("stop")
            except OSError:  # the worker has exited; poll() handles it
                continue

    def poll(self, seconds: float) -> None:
        """Handle the events that arrive within ``seconds``."""
        for connection in wait(list(self.processes), timeout=seconds):
            assert isinstance(connection, Connection)
            try:
                self._dispatch(connection, connection.recv())
            except (EOFError, OSError):
                self._handle_exit(connection)

    def _dispatch(self, connection: Connection, event: Event) -> None:
        match event:
            case WorkerDone():
                self.finished = True
                self._close(connection)
            case WorkerFailed():
                self.failure = self.failure or event
                self._close(connection)
                self.request_stop(Stop(event.text))
            case OutOfMemory():
                self._close(connection)
                self._reduce_workers()
            case StopConditionReached(reason):
                self.reporter.handle(Message(reason))
                self.request_stop(Stop(reason))
            case Message():  # workers send the same warnings
                if event not in self.messages:
                    self.messages.add(event)
                    self.reporter.handle(event)
            case _:
                self.reporter.handle(event)

    def _reduce_workers(self) -> None:
        """Continue with the remaining workers; fail if there are none and none has finished."""
        if self.processes:
            text = f"the device has no memory for more workers; continuing with --jobs {len(self.processes)}"
            self.reporter.handle(Message(text))
        elif not self.finished:
            text = "the device has no memory for one trial; free some, then run the same command again"
            self.failure = self.failure or WorkerFailed(TryAgain.__name__, text, "")

    def _close(self, connection: Connection) -> None:
        process = self.processes.pop(connection)
        process.join(STOP_SECONDS)
        connection.close()

    def _handle_exit(self, connection: Connection) -> None:
        """Handle a worker that exited without reporting: start a replacement, up to MAX_RESTARTS."""
        process = self.processes[connection]
        self._close(connection)
        if self.stop:
            return
        self.restarts += 1
        action = "starting another" if self.restarts <= MAX_RESTARTS else "not restarting"
        self.reporter.handle(Message(f"a worker crashed (exit code {process.exitcode}); {action}"))
        if self.restarts <= MAX_RESTARTS:
            self.start_worker()

    def kill(self) -> None:
        """Kill the remaining workers."""
        for process in self.processes.values():
            process.kill()
        for connection in list(self.processes):
            self._close(connection)


def supervise(
    worker: Callable[[Connection], None], jobs: int, reporter: ProgressReporter, timeout: float | None = None
) -> Stop | None:
    """Run workers until no trial is left, a stop condition is met or a signal arrives.

    Args:
        worker: function that a worker process runs; must be picklable.
        jobs: number of workers; reduced if the device has too little memory.
        reporter: shows the events of the workers.
        timeout: seconds until the workers are stopped.

    Returns:
        None if no trial was left, else why the workers stopped.

    Raises:
        MnistSearchError: the error of a worker.
        TryAgain: more than MAX_RESTARTS workers crashed.
    """
    supervisor = Supervisor(worker, reporter)
    deadline = time.monotonic() + (timeout or float("inf"))
    with _signal_handlers(supervisor):
        for _ in range(jobs):
            supervisor.start_worker()
        while supervisor.processes and not supervisor.stop:
            supervisor.poll(POLL_SECONDS)
            reporter.refresh()
            if time.monotonic() > deadline:
                supervisor.request_stop(Stop(f"the timeout of {timeout:g} s was reached"))
        kill_deadline = time.monotonic() + STOP_SECONDS
        while supervisor.processes and time.monotonic() < kill_deadline:
            supervisor.poll(POLL_SECONDS)
            reporter.refresh()
        supervisor.kill()
    if supervisor.failure:
        raise as_error(supervisor.failure)
    if not supervisor.stop and supervisor.restarts > MAX_RESTARTS:
        raise TryAgain(
            f"workers crashed {supervisor.restarts} times; if the machine is short of memory, use fewer "
            "with --jobs, then run the same command again"
        )
    return supervisor.stop


def as_error(failure: WorkerFailed) -> MnistSearchError:
    """The exception of a worker, with its traceback as a note."""
    error: MnistSearchError = getattr(errors, failure.error)(failure.text)
    error.add_note(failure.traceback)
    return error


@contextmanager
def _signal_handlers(supervisor: Supervisor) -> Iterator[None]:
    """The first signal requests a stop, the second one kills the workers."""

    def handle(number: int, _: Any) -> None:
        if supervisor.stop and supervisor.stop.signal is not None:
            for process in supervisor.processes.values():
                process.kill()
        supervisor.request_stop(Stop(signal.Signals(number).name, number))

    handled = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]  # nohup
    previous = {number: signal.signal(number, handle) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
