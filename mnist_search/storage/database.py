"""Open the study store: a SQLite or PostgreSQL database with Optuna's tables and four of mnist-search.

Optuna's transactions take SQLite's write lock at their first write, so that two processes can claim
the same trial; here every transaction starts with the write lock. A sequence of transactions is
guarded by ``Store.lock``, which the operating system or the server releases when a process crashes.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy as sa
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from mnist_search.errors import DiskError, MnistSearchError, NotFound, TryAgain, UnusableConfiguration
from mnist_search.sqlite import BUSY_SECONDS, query, table_names
from mnist_search.storage import older_stores
from mnist_search.storage.tables import metadata, old_finals
from mnist_search.storage.urls import masked, parse_url, path_of, sqlite_path, unmasked

T = TypeVar("T")

WAL_IS_SAFE_SINCE = (3, 51, 3)
"""Older SQLite can corrupt a WAL database that several connections write (sqlite.org/wal.html)."""

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.01
"""Interval of attempts to take a lock file; with longer ones, processes that claim short trials starve others."""

MAX_WAIT_SECONDS = 300.0
"""How long ``retry`` waits for a store that is locked or disconnected."""

OPTUNA_TABLES = {"studies", "trials", "version_info", "alembic_version"}


class Store:
    """An open study store.

    Attributes:
        url: SQLAlchemy URL with the password.
        storage: Optuna's storage.
        engine: SQLAlchemy's engine.
    """

    def __init__(self, url: str, storage: optuna.storages.RDBStorage, busy_seconds: float) -> None:
        self.url = url
        self.storage = storage
        self.engine = storage.engine
        self._is_sqlite = self.engine.dialect.name == "sqlite"
        self._busy_seconds = busy_seconds
        self._tables: set[str] = set()

    @classmethod
    def open(cls, url: str, *, write: bool = False, busy_seconds: float = BUSY_SECONDS) -> Store:
        """Open an existing store.

        Args:
            url: of the database.
            write: whether to open it for writing.
            busy_seconds: how long to wait for locks of other processes.

        Raises:
            NotFound: there is no store.
            UnusableConfiguration: the database is not a study store, or has another schema.
        """
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite":
            _check_sqlite_file(path_of(parsed))
        return cls._connect(parsed, busy_seconds, write=write, create=False)

    @classmethod
    def open_or_create(cls, url: str) -> Store:
        """Open a store for writing, created if it does not exist; safe for concurrent processes.

        Raises:
            UnusableConfiguration: the database is not a study store, or has another schema.
            DiskError: the file cannot be written.
        """
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite":
            path = path_of(parsed)
            if not path.exists():
                _create_sqlite_file(path)
            _check_sqlite_file(path)
        return cls._connect(parsed, BUSY_SECONDS, write=True, create=True)

    @classmethod
    def _connect(cls, url: sa.URL, busy_seconds: float, *, write: bool, create: bool) -> Store:
        try:
            if url.get_backend_name() == "sqlite":
                storage = _sqlite_storage(url, busy_seconds, write=write)
            else:
                storage = _postgres_storage(url, create=create)
        except ImportError as error:
            raise UnusableConfiguration(
                f"no driver for {masked(url)}; install it with pip install 'mnist-search[postgres]'"
            ) from error
        except (SQLAlchemyError, RuntimeError) as error:
            if is_unavailable(error):
                raise failure(error, unmasked(url)) from error
            reason = str(error).strip().splitlines()[0]
            raise UnusableConfiguration(f"cannot use the store {masked(url)}: {reason}") from error
        store = cls(unmasked(url), storage, busy_seconds)
        if write:
            store._create_tables()
        return store

    def _create_tables(self) -> None:
        """Create missing tables, and convert those of version 0.1."""
        present = set(sa.inspect(self.engine).get_table_names())
        if present >= metadata.tables.keys() and old_finals.name not in present:
            return
        with self.lock("claim"):
            metadata.create_all(self.engine)
            if sa.inspect(self.engine).has_table(old_finals.name):
                older_stores.convert(self)

    def has_table(self, table: sa.Table) -> bool:
        """Whether the store has a table; one of version 0.1 that is open for reading lacks some."""
        if table.name not in self._tables and sa.inspect(self.engine).has_table(table.name):
            self._tables.add(table.name)
        return table.name in self._tables

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def lock(self, topic: str, busy_seconds: float | None = None) -> Iterator[None]:
        """Hold a lock of the store; a crashed process releases it.

        Args:
            topic: name of the lock.
            busy_seconds: how long to wait for another process; that of the store by default.

        Raises:
            TryAgain: another process holds the lock for longer.
        """
        seconds = self._busy_seconds if busy_seconds is None else busy_seconds
        if not self._is_sqlite:
            with _postgres_lock(self.engine, topic, seconds):
                yield
            return
        path = path_of(make_url(self.url))
        lock_file = path.with_name(f".{path.name}.{topic}.lock")
        file_lock = FileLock(lock_file, timeout=seconds)
        try:
            lock_file.touch()  # FileLock retries without end in a folder that is not writable
            file_lock.acquire(poll_interval=POLL_SECONDS)
        except Timeout:
            raise TryAgain(_lock_timeout(topic, seconds)) from None
        except OSError as error:
            raise DiskError(
                f"cannot write next to the store: {error}; make the folder writable and run again"
            ) from error
        try:
            yield
        finally:
            file_lock.release()

    def now(self) -> sa.ColumnElement[float]:
        """Seconds since 1970 by the database's clock, as an SQL expression."""
        if self._is_sqlite:
            return sa.cast(sa.func.strftime("%s", "now"), sa.Float)
        return sa.cast(sa.func.extract("epoch", sa.func.now()), sa.Float)

    def __str__(self) -> str:
        return masked(make_url(self.url))


def retry(action: Callable[[], T]) -> T:
    """Call ``action`` until its store is neither locked nor disconnected; one message on the first wait.

    ``action`` must be repeatable: a lost acknowledgement of a commit repeats it.

    Raises:
        SQLAlchemyError, StorageInternalError, TryAgain: it is still unavailable after MAX_WAIT_SECONDS,
            or the error is of another kind.
    """
    deadline, delay = time.monotonic() + MAX_WAIT_SECONDS, 1.0
    while True:
        try:
            return action()
        except (SQLAlchemyError, StorageInternalError, TryAgain) as error:
            if not is_unavailable(error) or time.monotonic() > deadline:
                raise
            if delay == 1.0:
                logger.warning("waiting for the store: %s", _reason(error))
            time.sleep(delay)
            delay = min(2 * delay, 15.0)


def is_unavailable(error: BaseException) -> bool:
    """Whether an error of the database is a lock or a lost connection, so that a retry can succeed."""
    database_error = _database_error(error)
    if isinstance(error, TryAgain):  # a process that holds a lock of the store waits for the database
        return True
    if not isinstance(database_error, OperationalError | InterfaceError):
        return False
    cause = database_error.orig
    if isinstance(cause, sqlite3.Error):
        return "locked" in str(cause) or "busy" in str(cause)
    return getattr(cause, "sqlstate", None) != "53100"  # disk full


def failure(error: BaseException, url: str) -> MnistSearchError:
    """The exception for an error of a store or of a file system: TryAgain or DiskError."""
    if is_unavailable(error):
        return TryAgain(
            f"{masked(make_url(url))} is locked or disconnected ({_reason(error)}); end the program that "
            "holds it, then run the same command again"
        )
    path = Path(str(getattr(error, "filename", None) or sqlite_path(url) or Path.cwd()))
    folder = path if path.is_dir() else path.parent
    free = shutil.disk_usage(folder).free if folder.is_dir() else 0
    return DiskError(
        f"cannot access {path} ({_reason(error)}; {free / 2**20:,.0f} MiB free); "
        "free disk space, then run the same command again"
    )


def _database_error(error: BaseException | None) -> BaseException | None:
    """The error itself, or the one of the database that caused Optuna's."""
    return error.__cause__ if isinstance(error, StorageInternalError) else error


def _reason(error: BaseException) -> str:
    cause = _database_error(error) or error
    return str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]


def _sqlite_storage(url: sa.URL, busy_seconds: float, *, write: bool) -> optuna.storages.RDBStorage:
    storage = optuna.storages.RDBStorage(
        _escaped(url),
        # SQLite's default of 5 s is too short under load: results would be lost.
        engine_kwargs={"connect_args": {"timeout": busy_seconds}},
    )
    if not write:
        return storage

    @sa.event.listens_for(storage.engine, "connect")
    def _prepare_connection(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the listener below opens transactions
        if sqlite3.sqlite_version_info >= WAL_IS_SAFE_SINCE:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(storage.engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # connections of the constructor have no listeners
    return storage


def _postgres_storage(url: sa.URL, *, create: bool) -> optuna.storages.RDBStorage:
    engine = sa.create_engine(url)
    try:
        with _postgres_lock(engine, "schema", BUSY_SECONDS):
            if not create and not set(sa.inspect(engine).get_table_names()) >= OPTUNA_TABLES:
                raise NotFound(f"no study store in {masked(url)}; create one with mnist-search run")
            return optuna.storages.RDBStorage(_escaped(url), engine_kwargs={"pool_pre_ping": True})
    finally:
        engine.dispose()


def _escaped(url: sa.URL) -> str:
    """The URL for RDBStorage, which calls ``str.format`` on it."""
    return unmasked(url).replace("{", "{{").replace("}", "}}")


def _lock_timeout(topic: str, busy_seconds: float) -> str:
    return (
        f"another process holds the store's {topic} lock for more than {busy_seconds:g} s; "
        "wait for it or end it, then run the same command again"
    )


@contextmanager
def _postgres_lock(engine: sa.Engine, topic: str, busy_seconds: float) -> Iterator[None]:
    key = zlib.crc32(f"mnist-search/{topic}".encode())
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"SET lock_timeout = {max(1, 1000 * busy_seconds):.0f}")
        try:
            connection.execute(sa.select(sa.func.pg_advisory_lock(key)))
        except OperationalError as error:
            raise TryAgain(_lock_timeout(topic, busy_seconds)) from error
        try:
            yield
        finally:
            connection.execute(sa.select(sa.func.pg_advisory_unlock(key)))


def _create_sqlite_file(path: Path) -> None:
    """Create a store with all tables in a temporary file, then link it to ``path`` atomically."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    if not path.parent.is_dir():
        raise DiskError(f"cannot create the study store {path}: no such folder; name another with --storage")
    try:
        storage = optuna.storages.RDBStorage(_escaped(sa.URL.create("sqlite", database=str(fresh))))
        metadata.create_all(storage.engine)
        storage.engine.dispose()
        with suppress(FileExistsError):  # another process created the store first
            path.hardlink_to(fresh)
    except (OSError, SQLAlchemyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DiskError(
            f"cannot create the study store {path}: {reason}; name another with --storage"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def _check_sqlite_file(path: Path) -> None:
    """Raise unless the file is a study store with the schema of this Optuna; never write."""
    if not path.exists():
        raise NotFound(
            f"no study store {path}; create one with mnist-search run, or name another with --storage"
        )
    tables = table_names(path)
    if not tables >= OPTUNA_TABLES:
        content = "an MLflow database" if "runs" in tables else "not a study store"
        raise UnusableConfiguration(f"{path} is {content}; name another file with --storage sqlite:///FILE")
    rows = query(path, "SELECT version_num FROM alembic_version")
    revision = str(rows[0][0]) if rows else "unknown"
    versions = optuna.storages.RDBStorage("sqlite://").get_all_versions()
    if revision == versions[0]:
        return
    advice = (
        f"upgrade it with optuna storage upgrade --storage sqlite:///{path}"
        if revision in versions
        else "a newer Optuna wrote it: pip install --upgrade optuna"
    )
    raise UnusableConfiguration(f"{path} has schema {revision}, not {versions[0]}; {advice}")
