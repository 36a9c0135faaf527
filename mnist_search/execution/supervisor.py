"""Supervisor: start workers and the sync process, report their events, replace crashed ones, stop them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from mnist_search.errors import TryAgain
from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import (
    FINISH_RUNNING,
    STOP,
    DeviceFailed,
    Event,
    Message,
    ProcessEvent,
    Stop,
    TrialEpoch,
    WorkerFailed,
)
from mnist_search.execution.process import SyncRunner

STOP_SECONDS = 20.0
"""Time for workers to release their trials before they are killed."""

SIGNAL_SECONDS = 4.5
"""Time from the first signal to the end of the sync process; the next command writes what is missing."""

MAX_RESTARTS = 3
POLL_SECONDS = 0.5

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class WorkerHandle(Protocol):
    """A worker that was started: a process of this machine, or an actor of a cluster."""

    config: RunConfig
    connection: Connection
    is_waiting: bool
    lost_node: str | None

    def send(self, message: object, /) -> None:
        """Send a message; without effect if the worker has ended."""

    def kill(self) -> None:
        """Kill the worker."""

    def end(self, seconds: float) -> int:
        """Wait for the worker, kill it after ``seconds``, and close the connection; its exit code."""


class ProgressReporter:
    """Shows the progress of a run; the base class shows nothing."""

    def handle(self, event: Event) -> None:
        """Show an event of a worker."""

    def refresh(self) -> None:
        """Update the display; called at least every POLL_SECONDS."""


@dataclass
class Supervisor:
    """The processes of one run.

    Attributes:
        start_process: starts a worker.
        finish_running: whether the first SIGINT lets the running trials end; it does not count in ``signals``.
        training: connections of the workers that have started to train.
        stop: why the workers release their trials.
        finishing: why the workers claim no more trials.
        unshown: stops that the reporter has not shown.
        signals: number of received signals.
        signalled: time of the first signal.
    """

    start_process: Callable[[RunConfig], WorkerHandle]
    reporter: ProgressReporter
    sync: SyncRunner = field(default_factory=SyncRunner)
    finish_running: bool = False
    processes: dict[Connection, WorkerHandle] = field(default_factory=dict)
    training: set[Connection] = field(default_factory=set)
    restarts: int = 0
    finished: bool = False
    stop: Stop | None = None
    finishing: Stop | None = None
    unshown: list[Stop] = field(default_factory=list)
    signals: int = 0
    signalled: float = float("inf")
    failure: WorkerFailed | None = None
    messages: set[Message] = field(default_factory=set)

    def start_worker(self, config: RunConfig) -> None:
        """Start a worker."""
        process = self.start_process(config)
        self.processes[process.connection] = process
        if self.finishing:  # a signal arrived meanwhile
            process.send(FINISH_RUNNING)
        if self.stop:
            process.send(STOP)

    def request_stop(self, stop: Stop) -> None:
        """Ask every worker to release its trials and exit."""
        if not self.stop:
            self.stop = stop
            self.unshown.append(stop)
        for process in self.processes.values():
            process.send(STOP)

    def request_finish(self, stop: Stop) -> None:
        """Ask every worker to claim no more trials and to exit when its running ones have ended."""
        self.finishing = stop
        self.unshown.append(stop)
        for process in self.processes.values():
            process.send(FINISH_RUNNING)

    def _show_stops(self) -> None:
        """Show what a signal handler must not print."""
        while self.unshown:
            self.reporter.handle(self.unshown.pop(0))

    def poll(self) -> None:
        """Handle the events that arrive within POLL_SECONDS."""
        self._show_stops()
        sync = {self.sync.process.connection} if self.sync.process else set()
        for connection in wait([*self.processes, *sync], timeout=POLL_SECONDS):
            assert isinstance(connection, Connection)
            try:
                event = connection.recv()
            except (EOFError, OSError):
                event = None
            if connection in sync:
                self._handle_sync(event)
            else:
                self._handle(connection, event)
        if self.training:  # it delays no worker's first step
            self.sync.keep_running()
        self.reporter.refresh()

    def _handle_sync(self, event: Event | None) -> None:
        match event:
            case ProcessEvent.DONE:
                self.sync.handle_exit(ended=True)
            case ProcessEvent.SYNC_PROGRESS:
                self.sync.note_progress()
            case Message():
                self._show_once(event)
            case _:
                if isinstance(event, WorkerFailed):
                    self._show_once(Message(f"cannot write to MLflow: {event.error}"))
                self.sync.handle_exit(ended=False)

    def _handle(self, connection: Connection, event: Event | None) -> None:
        match event:
            case None:
                self._handle_exit(connection)
            case ProcessEvent.DONE:
                self.finished = True
                self._close(connection)
                self._close_waiting()
            case WorkerFailed():
                self.failure = self.failure or event
                self._close(connection)
                self.request_stop(Stop("a worker has failed"))
            case DeviceFailed(error, n_trials):
                config = self.processes[connection].config
                self._close(connection)
                what = f"the worker of {config.device} has failed ({error})"
                self._restart(replace(config, trials_alone=n_trials), what)
            case ProcessEvent.OUT_OF_MEMORY:
                self._close(connection)
                self._reduce_workers()
            case Stop():
                self.request_stop(event)
            case Message():
                self._show_once(event)
            case _:
                if isinstance(event, TrialEpoch):
                    self.training.add(connection)
                self.reporter.handle(event)

    def _show_once(self, message: Message) -> None:
        """Show a message; several processes send the same ones."""
        if message not in self.messages:
            self.messages.add(message)
            self.reporter.handle(message)

    def _reduce_workers(self) -> None:
        """Continue with the remaining workers; fail if there are none and none has finished."""
        if self.processes:
            text = f"the device has no memory for more workers; continuing with --jobs {len(self.processes)}"
            self.reporter.handle(Message(text))
        elif not self.finished:
            text = "the device has no memory for one trial; free some, then run the same command again"
            self.failure = WorkerFailed(TryAgain(text), "")

    def _close(self, connection: Connection) -> int:
        """Wait for a worker that exits; its exit code."""
        code = self.processes[connection].end(STOP_SECONDS)  # a second signal kills it
        del self.processes[connection]
        self.training.discard(connection)
        return code

    def _handle_exit(self, connection: Connection) -> None:
        """Handle a worker that exited without reporting."""
        config, node = self.processes[connection].config, self.processes[connection].lost_node
        code = self._close(connection)
        if node is None:
            self._restart(config, f"a worker crashed (exit code {code})")
        elif not (self.stop or self.finishing):
            self._show_once(Message(f"node {node} was lost; its workers start on free nodes"))
            self.start_worker(config)

    def _close_waiting(self) -> None:
        """End the workers that wait for a node, since no trial is left."""
        for connection, process in list(self.processes.items()):
            if process.is_waiting:
                process.kill()
                self._close(connection)

    def _restart(self, config: RunConfig, what: str) -> None:
        """Start another worker in place of one that crashed, up to MAX_RESTARTS."""
        if self.stop or self.finishing:
            return
        self.restarts += 1
        action = "starting another" if self.restarts <= MAX_RESTARTS else "not restarting"
        self.reporter.handle(Message(f"{what}; {action}"))
        if self.restarts <= MAX_RESTARTS:
            self.start_worker(config)

    def run_workers(self, configs: Sequence[RunConfig], timeout: float | None = None) -> Stop | None:
        """Run workers until no trial is left, they are stopped, or ``timeout`` seconds have passed.

        Returns:
            None if no trial was left or too many workers have crashed, else why the workers stopped or
            claimed no more trials.

        Raises:
            MnistSearchError: the error of a worker, with its traceback as a note.
        """
        deadline = time.monotonic() + (timeout or float("inf"))
        for config in configs:
            self.start_worker(config)
        while self.processes and not self.stop:
            self.poll()
            if time.monotonic() > deadline:
                self.request_stop(Stop(f"the timeout of {timeout:g} s was reached"))
        self._show_stops()
        deadline = time.monotonic() + STOP_SECONDS
        while self.processes and self.signals < 2 and time.monotonic() < deadline:
            self.poll()
        self.kill_workers()
        if self.failure:
            self.failure.error.add_note(self.failure.traceback)
            raise self.failure.error
        return self.stop or self.finishing

    def finish_sync(self, status: str) -> None:
        """Wait until MLflow has what is left and the status of the study's run; after a signal, for seconds."""
        if self.signals < 2:
            self.sync.request_end(status)
            if self.sync.start:
                self.reporter.handle(ProcessEvent.ONLY_SYNC)
        while self.signals < 2 and not self.sync.is_done and not self._is_late:
            self.sync.keep_running()
            self.poll()
        if self.signals < 2 and self.sync.start and not self.sync.ended:
            text = "the latest results are not in MLflow yet; the next run, resume or finalize writes them from the store"
            self.reporter.handle(Message(text))

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self.signalled + SIGNAL_SECONDS

    def kill_workers(self) -> None:
        """Kill the remaining workers."""
        for process in self.processes.values():
            process.kill()
        for connection in list(self.processes):
            self._close(connection)

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Stop at the first signal, kill the processes at the second; none is left at the end.

        A third signal has its default effect: the store may be locked. With ``finish_running``, a first
        SIGINT comes before these. Python allows signal handlers in the main thread only.
        """

        def handle(number: int, _: Any) -> None:
            is_first = self.finish_running and not (self.finishing or self.stop)
            if is_first and number == signal.SIGINT and self.processes:
                self.request_finish(Stop(signal.Signals(number).name, number, finish_running=True))
                return
            self.signals += 1
            self.signalled = min(self.signalled, time.monotonic())
            if self.signals > 1:
                for process in [*self.processes.values(), self.sync.process]:
                    if process:
                        process.kill()
                signal.signal(number, signal.SIG_DFL)
            self.request_stop(Stop(signal.Signals(number).name, number))

        is_main = threading.current_thread() is threading.main_thread()
        # nohup ignores SIGHUP, and a shell SIGINT in background jobs.
        handled = [n for n in SIGNALS if n == signal.SIGTERM or signal.getsignal(n) != signal.SIG_IGN]
        previous = {number: signal.signal(number, handle) for number in handled if is_main}
        try:
            yield
        finally:
            self.kill_workers()
            self.sync.kill()
            for number, handler in previous.items():
                signal.signal(number, handler)
