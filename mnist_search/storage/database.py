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
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from mnist_search.errors import DiskError, NotFound, TryAgain, UnusableConfiguration, first_line
from mnist_search.sqlite import BUSY_SECONDS, query, table_names
from mnist_search.storage import locks, older_stores
from mnist_search.storage.tables import leases, metadata, old_finals
from mnist_search.storage.urls import parse_url, sqlite_path

T = TypeVar("T")

WAL_IS_SAFE_SINCE = (3, 51, 3)
"""Older SQLite can corrupt a WAL database that several connections write (sqlite.org/wal.html)."""

logger = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 300.0
"""How long ``retry`` waits for a store that is locked or disconnected."""

DISCONNECTED_CODE = "8s2b"
"""SQLAlchemy's code of an error in a transaction whose connection was lost; Optuna rolls it back then."""

OPTUNA_TABLES = {"studies", "trials", "version_info", "alembic_version"}


class Store:
    """An open study store: Optuna's storage and SQLAlchemy's engine.

    ``url`` contains the password; ``path`` is the file of a SQLite store.
    """

    def __init__(self, url: str, storage: optuna.storages.RDBStorage, busy_seconds: float) -> None:
        self.url = url
        self.storage = storage
        self.engine = storage.engine
        self.path = sqlite_path(url)
        self._busy_seconds = busy_seconds
        self._tables: set[str] = set()

    @classmethod
    def open(
        cls, url: str, *, write: bool = False, create: bool = False, busy_seconds: float = BUSY_SECONDS
    ) -> Store:
        """Open a store.

        Args:
            url: of the database.
            write: whether to open it for writing.
            create: whether to create it if it does not exist; safe for concurrent processes.
            busy_seconds: how long to wait for locks of other processes.

        Raises:
            NotFound: there is no store.
            UnusableConfiguration: the database is not a study store, or has another schema.
            TryAgain: it is locked or disconnected.
            DiskError: it cannot be created.
        """
        parsed = parse_url(url)
        url = parsed.render_as_string(hide_password=False)
        path = sqlite_path(url)
        try:
            if path is None:
                storage = _postgres_storage(parsed, create=create)
            else:
                if create and not path.exists():
                    _create_sqlite_file(path)
                _check_sqlite_file(path)
                storage = _sqlite_storage(parsed, busy_seconds, write=write)
        except ImportError as error:
            raise UnusableConfiguration(
                f"no driver for {parsed}; install it with pip install 'mnist-search[postgres]'"
            ) from error
        except (SQLAlchemyError, RuntimeError) as error:
            if is_unavailable(error):
                raise failure(error, url) from error
            raise UnusableConfiguration(f"cannot use the store {parsed}: {first_line(error)}") from error
        store = cls(url, storage, busy_seconds)
        if write:
            store._create_tables()
        return store

    @classmethod
    def open_or_create(cls, url: str) -> Store:
        """Open a store for writing, created if it does not exist."""
        return cls.open(url, write=True, create=True)

    def _create_tables(self) -> None:
        """Create missing tables, and convert those of version 0.1."""
        present = set(sa.inspect(self.engine).get_table_names())
        if present >= metadata.tables.keys() and old_finals.name not in present:
            return
        with self.lock("claim"):
            if leases.name in present:
                older_stores.convert(self)
            else:
                metadata.create_all(self.engine)

    def has_table(self, table: sa.TableClause) -> bool:
        """Whether the store has a table; one of version 0.1 that is open for reading lacks some."""
        if table.name not in self._tables and sa.inspect(self.engine).has_table(table.name):
            self._tables.add(table.name)
        return table.name in self._tables

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def lock(self, topic: str, busy_seconds: float | None = None) -> AbstractContextManager[None]:
        """Hold the lock of a topic, which a crashed process releases.

        Raises:
            TryAgain: another process holds it for longer than ``busy_seconds``, by default those of the store.
        """
        seconds = self._busy_seconds if busy_seconds is None else busy_seconds
        if self.path is None:
            return locks.postgres_lock(self.engine, topic, seconds)
        return locks.file_lock(self.path, topic, seconds)

    def now(self) -> sa.ColumnElement[float]:
        """Seconds since 1970 by the database's clock, as an SQL expression."""
        seconds = sa.func.strftime("%s", "now") if self.path else sa.func.extract("epoch", sa.func.now())
        return sa.cast(seconds, sa.Float)

    def clock_skew(self) -> float:
        """Seconds by which this machine's clock is ahead of the database's; 0 for a SQLite file."""
        if self.path:
            return 0.0
        before = time.time()
        with self.engine.connect() as connection:
            now = connection.execute(sa.select(self.now())).scalar_one()
        return (before + time.time()) / 2 - now

    def is_same(self, other: Store) -> bool:
        """Whether both are open on the same database."""
        return make_url(self.url) == make_url(other.url)

    def __str__(self) -> str:
        return str(make_url(self.url))


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
    if isinstance(error, TryAgain):  # a process that holds a lock of the store waits for the database
        return True
    error = _database_error(error)
    if isinstance(error, PendingRollbackError) and error.code == DISCONNECTED_CODE:
        return True
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return "locked" in str(error.orig) or "busy" in str(error.orig)
    return getattr(error.orig, "sqlstate", None) != "53100"  # disk full


def failure(error: BaseException, url: str) -> TryAgain | DiskError:
    """The exception for an error of a store or of a file system."""
    if is_unavailable(error):
        return TryAgain(
            f"{make_url(url)} is locked or disconnected ({_reason(error)}); end the program that "
            "holds it, then run the same command again"
        )
    path = Path(str(getattr(error, "filename", None) or sqlite_path(url) or Path.cwd()))
    folder = path if path.is_dir() else path.parent
    free = shutil.disk_usage(folder).free if folder.is_dir() else 0
    return DiskError(
        f"cannot access {path} ({_reason(error)}; {free / 2**20:,.0f} MiB free); "
        "free disk space, then run the same command again"
    )


def _database_error(error: BaseException) -> BaseException:
    """The error itself, or the one of the database that caused Optuna's."""
    return (isinstance(error, StorageInternalError) and error.__cause__) or error


def _reason(error: BaseException) -> str:
    cause = _database_error(error)
    return first_line(getattr(cause, "orig", None) or cause)


def _sqlite_storage(url: sa.URL, busy_seconds: float, *, write: bool) -> optuna.storages.RDBStorage:
    storage = optuna.storages.RDBStorage(
        _escaped(url),
        # SQLite's default of 5 s is too short under load: results would be lost.
        engine_kwargs={"connect_args": {"timeout": busy_seconds}},
        # _check_sqlite_file has read the schema's version; Optuna's own check takes 0.1 s.
        skip_compatibility_check=True,
        skip_table_creation=True,
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
        with locks.postgres_lock(engine, "schema", BUSY_SECONDS):
            if not create and not set(sa.inspect(engine).get_table_names()) >= OPTUNA_TABLES:
                raise NotFound(f"no study store in {url}; create one with mnist-search run")
            return optuna.storages.RDBStorage(_escaped(url), engine_kwargs={"pool_pre_ping": True})
    finally:
        engine.dispose()


def _escaped(url: sa.URL) -> str:
    """The URL for RDBStorage, which calls ``str.format`` on it."""
    return url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")


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
        raise DiskError(
            f"cannot create the study store {path}: {first_line(error)}; name another with --storage"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


@cache
def _schema_versions() -> list[str]:
    """Optuna's versions of the schema, the latest first."""
    return optuna.storages.RDBStorage("sqlite://").get_all_versions()


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
    latest, *older = _schema_versions()
    if revision in older:
        advice = f"upgrade it with optuna storage upgrade --storage sqlite:///{path}"
    else:
        advice = "a newer Optuna wrote it: pip install --upgrade optuna"
    if revision != latest:
        raise UnusableConfiguration(f"{path} has schema {revision}, not {latest}; {advice}")
