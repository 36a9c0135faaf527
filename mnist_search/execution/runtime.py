"""Worker process entry point: threads, signal handlers, errors, lease renewal, channel to the supervisor."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from mnist_search.errors import IO_ERROR, DiskError, MnistSearchError
from mnist_search.execution.config import FinalWorkerConfig, WorkerConfig
from mnist_search.execution.events import Event, OutOfMemory, WorkerDone, WorkerFailed
from mnist_search.process_env import ExitWithoutTeardown, configure_logging
from mnist_search.storage.leases import RENEW_INTERVAL


class Channel:
    """Connection of a worker to its supervisor: sends events, receives the request to stop.

    Attributes:
        terminated: whether a signal, rather than the supervisor, requested the stop.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stopping = False
        self.terminated = False

    def send(self, event: Event) -> None:
        """Send an event; without effect if the supervisor has exited."""
        with suppress(OSError):
            self._connection.send(event)

    def request_stop(self, *_: Any) -> None:
        """Stop this worker; a signal handler."""
        self._stopping = self.terminated = True

    @property
    def should_stop(self) -> bool:
        """Whether the worker must stop: on request, or because the supervisor has exited."""
        if not self._stopping:
            try:
                self._stopping = self._connection.poll()
            except OSError:
                self._stopping = True
        return self._stopping


def run_worker(config: WorkerConfig | FinalWorkerConfig, connection: Connection) -> None:
    """Run a worker to its end and report the outcome to the supervisor."""
    exit_hook = ExitWithoutTeardown()  # before torch registers its hooks
    from mnist_search.execution import worker  # imports torch, which the supervisor does not need

    configure_logging()
    channel = Channel(connection)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, channel.request_stop)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        worker.run(config, channel)
    except MnistSearchError as error:
        channel.send(WorkerFailed(type(error).__name__, str(error), traceback.format_exc()))
    except (OSError, SQLAlchemyError, StorageInternalError) as error:
        text = IO_ERROR.format(error)
        channel.send(WorkerFailed(DiskError.__name__, text, traceback.format_exc()))
    except MemoryError:
        channel.send(OutOfMemory())
    except Exception as error:  # noqa: BLE001 - a bug outside of trials: the supervisor reports it
        text = f"{type(error).__name__}: {error}"
        channel.send(WorkerFailed(MnistSearchError.__name__, text, traceback.format_exc()))
    else:
        if not channel.terminated:  # the supervisor replaces a terminated worker
            channel.send(WorkerDone())
    exit_hook.code = 0


@contextmanager
def renewing_lease(renew: Callable[[], bool]) -> Iterator[threading.Event]:
    """Renew a lease in a thread; the event is set when the lease is lost."""
    lost_event, end_event = threading.Event(), threading.Event()

    def renew_until_ended() -> None:
        while not end_event.wait(RENEW_INTERVAL):
            with suppress(SQLAlchemyError):  # the store is busy; a lease outlasts several missed renewals
                if not renew():
                    lost_event.set()

    thread = threading.Thread(target=renew_until_ended, name="lease", daemon=True)
    thread.start()
    try:
        yield lost_event
    finally:
        end_event.set()
        thread.join()
