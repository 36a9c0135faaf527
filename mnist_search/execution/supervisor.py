"""The supervisor: keeps workers at a study, shows what they tell, and stops them."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, TypeVar

from mnist_search.errors import MnistSearchError, TryAgain
from mnist_search.execution.events import (
    Event,
    Message,
    OutOfMemory,
    StopConditionReached,
    WorkerDone,
    WorkerFailed,
)
from mnist_search.search.stopping import StopConditions

STOP_SECONDS = 20.0
"""How long workers may take to put their trials back before they are killed."""

MAX_RESTARTS = 3
TICK_SECONDS = 0.5

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Work(Protocol):
    """What a worker process is told."""

    @property
    def limits(self) -> StopConditions:
        """When to stop early."""


ConfigT = TypeVar("ConfigT", bound=Work)


class ProgressReporter(Protocol):
    """Shows a run to its user."""

    def show(self, event: Event) -> None:
        """Something happened."""

    def tick(self) -> None:
        """Time passed."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the workers were stopped before the study was full.

    Attributes:
        signal: the signal that was heard, if one was.
    """

    reason: str
    signal: int | None = None


@dataclass
class Supervisor(Generic[ConfigT]):
    """The worker processes of one run."""

    worker_config: ConfigT
    screen: ProgressReporter
    work: Callable[[ConfigT, Connection], None]
    processes: dict[Connection, BaseProcess] = field(default_factory=dict)
    restarts: int = 0
    finished: bool = False
    stop: Stop | None = None
    failure: WorkerFailed | None = None

    def start_worker(self) -> None:
        """Start a worker in a fresh interpreter: nothing of ours survives a fork well."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=self.work, args=(self.worker_config, theirs), daemon=True)
        # A terminal's Ctrl-C reaches the workers too; they inherit that it is not for them.
        ours_to_hear = signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.start()
        signal.signal(signal.SIGINT, ours_to_hear)
        theirs.close()
        self.processes[ours] = process

    def request_stop(self, stop: Stop) -> None:
        """Have every worker put its trial back and leave."""
        self.stop = self.stop or stop
        for channel in self.processes:
            try:
                channel.send("stop")
            except OSError:  # it is gone already; poll() will find out
                continue

    def poll(self, seconds: float) -> None:
        """Hear what the workers tell."""
        for channel in wait(list(self.processes), timeout=seconds):
            assert isinstance(channel, Connection)
            try:
                self._dispatch(channel, channel.recv())
            except (EOFError, OSError):
                self._handle_exit(channel)

    def _dispatch(self, channel: Connection, event: Event) -> None:
        match event:
            case WorkerDone():
                self.finished = True
                self._close(channel)
            case WorkerFailed():
                self.failure = self.failure or event
                self._close(channel)
                self.request_stop(Stop(event.text))
            case OutOfMemory():
                self._close(channel)
                self._reduce_workers()
            case StopConditionReached(reason):
                self.screen.show(Message(reason))
                self.request_stop(Stop(reason))
            case _:
                self.screen.show(event)

    def _reduce_workers(self) -> None:
        """The other workers have the room that this one left."""
        if self.processes:
            text = f"the device has no memory for more; going on with --jobs {len(self.processes)}"
            self.screen.show(Message(text))
        elif not self.finished:  # nothing is left to do where one found no more work
            text = "the device has no memory for one trial; free some, then run the same command again"
            self.failure = self.failure or WorkerFailed(TryAgain.exit_code, text, "")

    def _close(self, channel: Connection) -> None:
        process = self.processes.pop(channel)
        process.join(STOP_SECONDS)
        channel.close()

    def _handle_exit(self, channel: Connection) -> None:
        """A worker that ended without a word; another takes its place."""
        process = self.processes[channel]
        self._close(channel)
        if self.stop:
            return
        self.restarts += 1
        again = self.restarts <= MAX_RESTARTS
        what = f"a worker died (exit code {process.exitcode}); "
        what += "another takes its trial" if again else "no other is started"
        self.screen.show(Message(what))
        if again:
            self.start_worker()

    def kill(self) -> None:
        """End the workers that are left, at once."""
        for process in self.processes.values():
            process.kill()
        for channel in list(self.processes):
            self._close(channel)


def supervise(
    worker_config: ConfigT, jobs: int, screen: ProgressReporter, work: Callable[[ConfigT, Connection], None]
) -> Stop | None:
    """Keep ``jobs`` workers at it until nothing is left, a limit is reached or a signal comes.

    Args:
        worker_config: what every worker is told.
        jobs: workers to begin with; there will be fewer if the device has no room for them.
        screen: shows what they tell.
        work: what a worker process runs.

    Returns:
        None when nothing was left, else why the workers were stopped.

    Raises:
        MnistSearchError: what a worker could not go on for.
        TryAgain: workers died again and again.
    """
    supervisor = Supervisor(worker_config, screen, work)
    deadline = time.monotonic() + (worker_config.limits.timeout or float("inf"))
    with _signal_handlers(supervisor):
        for _ in range(jobs):
            supervisor.start_worker()
        while supervisor.processes and not supervisor.stop:
            supervisor.poll(TICK_SECONDS)
            screen.tick()
            if time.monotonic() > deadline:
                supervisor.request_stop(
                    Stop(f"the timeout of {worker_config.limits.timeout:g} s was reached")
                )
        patience = time.monotonic() + STOP_SECONDS
        while supervisor.processes and time.monotonic() < patience:
            supervisor.poll(TICK_SECONDS)
            screen.tick()
        supervisor.kill()
    if supervisor.failure:
        raise _as_error(supervisor.failure)
    if not supervisor.stop and supervisor.restarts > MAX_RESTARTS:
        raise TryAgain(
            f"workers died {supervisor.restarts} times; if the machine is short of memory take fewer "
            "with --jobs, then run the same command again"
        )
    return supervisor.stop


def _as_error(failure: WorkerFailed) -> MnistSearchError:
    kinds: list[type[MnistSearchError]] = [MnistSearchError, *MnistSearchError.__subclasses__()]
    kind = next((k for k in kinds if k.exit_code == failure.exit_code), MnistSearchError)
    error = kind(failure.text)
    error.add_note(failure.traceback)
    return error


@contextmanager
def _signal_handlers(supervisor: Supervisor[Any]) -> Iterator[None]:
    """The first signal stops the workers in good order, a second one kills them."""

    def hear(number: int, _: Any) -> None:
        if supervisor.stop and supervisor.stop.signal is not None:
            for process in supervisor.processes.values():
                process.kill()
        supervisor.request_stop(Stop(signal.Signals(number).name, number))

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
