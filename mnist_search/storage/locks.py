"""Locks between the processes that use one store; the operating system or the server releases those of a crashed one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import OperationalError

from mnist_search.errors import DiskError, TryAgain

POLL_SECONDS = 0.01
"""Interval of attempts to take a lock file; with longer ones, processes that claim short trials starve others."""


@contextmanager
def file_lock(store: Path, topic: str, busy_seconds: float) -> Iterator[None]:
    """Hold a lock of a SQLite store: a file next to it."""
    lock_file = store.with_name(f".{store.name}.{topic}.lock")
    lock = FileLock(lock_file, timeout=busy_seconds)
    try:
        lock_file.touch()  # FileLock retries without end in a folder that is not writable
        lock.acquire(poll_interval=POLL_SECONDS)
    except Timeout as error:
        raise _timeout(topic, busy_seconds) from error
    except OSError as error:
        raise DiskError(
            f"cannot write next to the store: {error}; make the folder writable and run again"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def postgres_lock(engine: sa.Engine, topic: str, busy_seconds: float) -> Iterator[None]:
    """Hold an advisory lock of a PostgreSQL server."""
    key = zlib.crc32(f"mnist-search/{topic}".encode())
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"SET lock_timeout = {max(1, 1000 * busy_seconds):.0f}")
        try:
            connection.execute(sa.select(sa.func.pg_advisory_lock(key)))
        except OperationalError as error:
            raise _timeout(topic, busy_seconds) from error
        try:
            yield
        finally:
            connection.execute(sa.select(sa.func.pg_advisory_unlock(key)))


def _timeout(topic: str, busy_seconds: float) -> TryAgain:
    return TryAgain(
        f"another process holds the store's {topic} lock for more than {busy_seconds:g} s; "
        "wait for it or end it, then run the same command again"
    )
