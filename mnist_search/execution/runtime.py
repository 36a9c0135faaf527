"""The inside of a started process: channel to the supervisor, signals, errors, threads for store and leases."""

from __future__ import annotations

import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from mnist_search.errors import MnistSearchError
from mnist_search.execution.events import FINISH_RUNNING, Event, Message, ProcessEvent, WorkerFailed
from mnist_search.execution.process import connect_to_parent
from mnist_search.process_env import configure_logging, exit_without_teardown, set_defaults
from mnist_search.storage.database import failure, retry
from mnist_search.storage.leases import RENEW_INTERVAL
from mnist_search.storage.queue import Claim

T = TypeVar("T")


class Channel(logging.Handler):
    """Connection of a process to its supervisor: sends events and warnings, receives the request to stop.

    Attributes:
        terminated: whether a signal, rather than the supervisor, requested the stop.
        is_finishing: whether the supervisor has requested to claim no more trials.
        request: the supervisor's last other message.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.WARNING)
        self._connection = connection
        self._send_lock, self._receive_lock = threading.Lock(), threading.Lock()
        self._stopping = False
        self.terminated = self.is_finishing = False
        self.request: Any = None

    def send(self, event: Event) -> None:
        """Send an event; without effect if the supervisor has exited."""
        with suppress(OSError), self._send_lock:
            self._connection.send(event)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning of this package as a message for the user."""
        self.send(Message(record.getMessage()))

    def request_stop(self, *_: Any) -> None:
        """Stop this process; a signal handler."""
        self._stopping = self.terminated = True

    def poll(self, seconds: float) -> bool:
        """Wait for a message of the supervisor, and whether it requests a stop or the supervisor has exited."""
        try:
            with self._receive_lock:
                if not self._stopping and self._connection.poll(seconds):
                    message = self._connection.recv()
                    if message == FINISH_RUNNING:
                        self.is_finishing = True
                    else:
                        self.request, self._stopping = message, True
        except (EOFError, OSError):
            self._stopping = True
        return self._stopping

    @property
    def should_stop(self) -> bool:
        """Whether the process must stop: on request, or because the supervisor has exited."""
        return self.poll(0)


def run_process(run: Callable[[Any, Channel], None]) -> None:
    """The main function of a started process: run it to its end and report the outcome to the supervisor."""
    connection, config = connect_to_parent()
    report_outcome(run, config, connection)
    exit_without_teardown(0)


def report_outcome(run: Callable[[Any, Channel], None], config: Any, connection: Connection) -> None:
    """Run a worker or a sync to its end and send the outcome to the supervisor."""
    channel = Channel(connection)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, channel.request_stop)
    set_defaults()
    configure_logging()
    logging.getLogger("mnist_search").addHandler(channel)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        run(config, channel)
    except MnistSearchError as error:
        channel.send(WorkerFailed(error, traceback.format_exc()))
    except (OSError, SQLAlchemyError, StorageInternalError) as error:
        channel.send(WorkerFailed(failure(error, config.storage), traceback.format_exc()))
    except MemoryError:
        channel.send(ProcessEvent.OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001 - a bug outside of trials: the supervisor reports it
        text = f"{type(error).__name__}: {error}"
        channel.send(WorkerFailed(MnistSearchError(text), traceback.format_exc()))
    else:
        if not channel.terminated:  # the supervisor replaces a terminated worker
            channel.send(ProcessEvent.DONE)


class LeaseThread:
    """Renews the leases of the running trials of a worker, in one thread."""

    def __init__(self, renew: Callable[[Claim], bool]) -> None:
        self._renew = renew
        self._running: dict[str, tuple[Claim, threading.Event]] = {}
        threading.Thread(target=self._run, name="leases", daemon=True).start()

    @contextmanager
    def renewing(self, claim: Claim) -> Iterator[threading.Event]:
        """Renew the lease of a trial; the event is set when the lease is lost."""
        lost = threading.Event()
        self._running[claim.owner] = claim, lost
        try:
            yield lost
        finally:
            del self._running[claim.owner]

    def _run(self) -> None:
        while True:
            time.sleep(RENEW_INTERVAL)
            for claim, lost in list(self._running.values()):
                with suppress(SQLAlchemyError):  # the store is busy; a lease outlasts several missed renewals
                    if not self._renew(claim):
                        lost.set()


class StoreThread:
    """Calls functions on the store in the order of submission, in one thread.

    The trial threads of a worker share it, so that they do not compete for SQLite's lock.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "store")

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Call a function later; its store may be locked or disconnected meanwhile."""
        return self._executor.submit(retry, function)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function after those that were submitted before, and wait for its result."""
        return self.submit(function).result()
