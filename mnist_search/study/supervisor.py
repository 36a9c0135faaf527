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
from mnist_search.study.events import Event, LimitReached, Message, NoRoom, WorkerDone, WorkerFailed
from mnist_search.study.limits import Limits

STOP_SECONDS = 20.0
"""How long workers may take to put their trials back before they are killed."""

MOST_RESTARTS = 3
TICK_SECONDS = 0.5

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Work(Protocol):
    """What a worker process is told."""

    @property
    def limits(self) -> Limits:
        """When to stop early."""


JobT = TypeVar("JobT", bound=Work)


class Screen(Protocol):
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
class _Crew(Generic[JobT]):
    """The worker processes of one run."""

    job: JobT
    screen: Screen
    work: Callable[[JobT, Connection], None]
    processes: dict[Connection, BaseProcess] = field(default_factory=dict)
    restarts: int = 0
    finished: bool = False
    stop: Stop | None = None
    failure: WorkerFailed | None = None

    def hire(self) -> None:
        """Start a worker in a fresh interpreter: nothing of ours survives a fork well."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=self.work, args=(self.job, theirs), daemon=True)
        # A terminal's Ctrl-C reaches the workers too; they inherit that it is not for them.
        ours_to_hear = signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.start()
        signal.signal(signal.SIGINT, ours_to_hear)
        theirs.close()
        self.processes[ours] = process

    def ask_to_stop(self, stop: Stop) -> None:
        """Have every worker put its trial back and leave."""
        self.stop = self.stop or stop
        for line in self.processes:
            try:
                line.send("stop")
            except OSError:  # it is gone already; listen() will find out
                continue

    def listen(self, seconds: float) -> None:
        """Hear what the workers tell."""
        for line in wait(list(self.processes), timeout=seconds):
            assert isinstance(line, Connection)
            try:
                self._hear(line, line.recv())
            except (EOFError, OSError):
                self._bury(line)

    def _hear(self, line: Connection, event: Event) -> None:
        match event:
            case WorkerDone():
                self.finished = True
                self._part(line)
            case WorkerFailed():
                self.failure = self.failure or event
                self._part(line)
                self.ask_to_stop(Stop(event.text))
            case NoRoom():
                self._part(line)
                self._go_on_with_fewer()
            case LimitReached(reason):
                self.screen.show(Message(reason))
                self.ask_to_stop(Stop(reason))
            case _:
                self.screen.show(event)

    def _go_on_with_fewer(self) -> None:
        """The other workers have the room that this one left."""
        if self.processes:
            text = f"the device has no memory for more; going on with --jobs {len(self.processes)}"
            self.screen.show(Message(text))
        elif not self.finished:  # nothing is left to do where one found no more work
            text = "the device has no memory for one trial; free some, then run the same command again"
            self.failure = self.failure or WorkerFailed(TryAgain.exit_code, text, "")

    def _part(self, line: Connection) -> None:
        process = self.processes.pop(line)
        process.join(STOP_SECONDS)
        line.close()

    def _bury(self, line: Connection) -> None:
        """A worker that ended without a word; another takes its place."""
        process = self.processes[line]
        self._part(line)
        if self.stop:
            return
        self.restarts += 1
        again = self.restarts <= MOST_RESTARTS
        what = f"a worker died (exit code {process.exitcode}); "
        what += "another takes its trial" if again else "no other is started"
        self.screen.show(Message(what))
        if again:
            self.hire()

    def kill(self) -> None:
        """End the workers that are left, at once."""
        for process in self.processes.values():
            process.kill()
        for line in list(self.processes):
            self._part(line)


def supervise(job: JobT, jobs: int, screen: Screen, work: Callable[[JobT, Connection], None]) -> Stop | None:
    """Keep ``jobs`` workers at it until nothing is left, a limit is reached or a signal comes.

    Args:
        job: what every worker is told.
        jobs: workers to begin with; there will be fewer if the device has no room for them.
        screen: shows what they tell.
        work: what a worker process runs.

    Returns:
        None when nothing was left, else why the workers were stopped.

    Raises:
        MnistSearchError: what a worker could not go on for.
        TryAgain: workers died again and again.
    """
    crew = _Crew(job, screen, work)
    deadline = time.monotonic() + (job.limits.timeout or float("inf"))
    with _hearing_signals(crew):
        for _ in range(jobs):
            crew.hire()
        while crew.processes and not crew.stop:
            crew.listen(TICK_SECONDS)
            screen.tick()
            if time.monotonic() > deadline:
                crew.ask_to_stop(Stop(f"the timeout of {job.limits.timeout:g} s was reached"))
        patience = time.monotonic() + STOP_SECONDS
        while crew.processes and time.monotonic() < patience:
            crew.listen(TICK_SECONDS)
            screen.tick()
        crew.kill()
    if crew.failure:
        raise _as_error(crew.failure)
    if not crew.stop and crew.restarts > MOST_RESTARTS:
        raise TryAgain(
            f"workers died {crew.restarts} times; if the machine is short of memory take fewer "
            "with --jobs, then run the same command again"
        )
    return crew.stop


def _as_error(failure: WorkerFailed) -> MnistSearchError:
    kinds: list[type[MnistSearchError]] = [MnistSearchError, *MnistSearchError.__subclasses__()]
    kind = next((k for k in kinds if k.exit_code == failure.exit_code), MnistSearchError)
    error = kind(failure.text)
    error.add_note(failure.traceback)
    return error


@contextmanager
def _hearing_signals(crew: _Crew[Any]) -> Iterator[None]:
    """The first signal stops the workers in good order, a second one kills them."""

    def hear(number: int, _: Any) -> None:
        if crew.stop and crew.stop.signal is not None:
            for process in crew.processes.values():
                process.kill()
        crew.ask_to_stop(Stop(signal.Signals(number).name, number))

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
