"""What every worker process does, whatever its work: threads, signals, errors, the line home."""

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

from mnist_search.errors import DiskError, MnistSearchError
from mnist_search.execution.events import Event, OutOfMemory, WorkerDone, WorkerFailed
from mnist_search.process_env import ExitWithoutTeardown
from mnist_search.storage.leases import RENEW_INTERVAL


class Channel:
    """The line to the supervisor: events go out, the word to stop comes in."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stopping = False
        self.hung_up = False

    def send(self, event: Event) -> None:
        """Send an event; a supervisor that is gone needs none."""
        with suppress(OSError):
            self._connection.send(event)

    def request_stop(self, *_: Any) -> None:
        """Stop as if the supervisor had said so; also a signal handler."""
        self._stopping = self.hung_up = True

    @property
    def should_stop(self) -> bool:
        """Whether the supervisor said stop, or is gone."""
        if not self._stopping:
            try:
                self._stopping = self._connection.poll()
            except OSError:
                self._stopping = True
        return self._stopping


def serve(connection: Connection, work: Callable[[Channel], None]) -> None:
    """Do a worker's work; however it ends, the supervisor is told."""
    ending = ExitWithoutTeardown()
    from mnist_search.training.device import is_out_of_memory, use_one_thread  # torch: in workers only

    use_one_thread()
    channel = Channel(connection)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, channel.request_stop)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        work(channel)
    except MnistSearchError as error:
        channel.send(WorkerFailed(error.exit_code, str(error), traceback.format_exc()))
    except (OSError, SQLAlchemyError, StorageInternalError) as error:
        text = f"cannot write ({error}); make room or mend it, then run the same command again"
        channel.send(WorkerFailed(DiskError.exit_code, text, traceback.format_exc()))
    except Exception as error:  # noqa: BLE001 - a bug outside any trial: the supervisor shows it
        bug = WorkerFailed(1, f"{type(error).__name__}: {error}", traceback.format_exc())
        channel.send(OutOfMemory() if is_out_of_memory(error) else bug)
    else:
        if not channel.hung_up:  # one that was told to leave alone is replaced
            channel.send(WorkerDone())
    ending.code = 0


@contextmanager
def renewing_lease(renew: Callable[[], bool]) -> Iterator[threading.Event]:
    """Renew a lease while the body runs; the event says that it is lost."""
    lost, ended = threading.Event(), threading.Event()

    def renew_until_ended() -> None:
        while not ended.wait(RENEW_INTERVAL):
            with suppress(SQLAlchemyError):  # a busy store: the lease outlives several missed beats
                if not renew():
                    lost.set()

    thread = threading.Thread(target=renew_until_ended, name="lease", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        ended.set()
        thread.join()
