"""The study store: Optuna's tables and four small ones of our own, in one database.

SQLite by default. Optuna would read and claim in transactions that only take the write lock when
they write, so that two processes can claim the same trial; here every transaction begins with the
write lock. What takes several transactions is guarded by a lock that dies with its process.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from mnist_search.errors import DiskError, NotFound, TryAgain, UnusableConfiguration
from mnist_search.sqlite import BUSY_SECONDS, query, tables_of

WAL_IS_SAFE_SINCE = (3, 51, 3)
"""Older SQLite can corrupt a WAL database that several connections write (sqlite.org/wal.html)."""

OPTUNA_TABLES = {"studies", "trials", "version_info", "alembic_version"}

metadata = sa.MetaData()

leases = sa.Table(
    "mnist_search_leases",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Float, nullable=False),
    sa.Column("beat", sa.Float, nullable=False),
)
"""Who works on which trial; ``beat`` is the database's own clock."""

weights = sa.Table(
    "mnist_search_weights",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("safetensors", sa.LargeBinary, nullable=False),
)
"""Trained weights of the trials worth keeping; ``study_uid`` because SQLite gives ids again."""

tracked_runs = sa.Table(
    "mnist_search_mirrored",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("model_id", sa.String(64)),
)
"""What the tracker holds of a trial."""

trainings = sa.Table(
    "mnist_search_trainings",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("series", sa.String(100), nullable=False),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("deaths", sa.Integer, nullable=False, default=0),
    sa.Column("result", sa.Text),
    sa.Column("run_id", sa.String(64)),
    sa.UniqueConstraint("series", "name", "seed"),
)
"""Trainings of fixed networks. In tables that are keyed by trial they stand under -id."""


class Store:
    """An open study store.

    Attributes:
        url: SQLAlchemy URL, password included.
        storage: Optuna's storage on it.
        engine: SQLAlchemy's engine on it.
    """

    def __init__(self, url: str, storage: optuna.storages.RDBStorage) -> None:
        self.url = url
        self.storage = storage
        self.engine = storage.engine
        self.is_sqlite = self.engine.dialect.name == "sqlite"

    @classmethod
    def open(cls, url: str, *, write: bool = False) -> Store:
        """Open a store that exists; without ``write`` to read it only.

        Raises:
            NotFound: there is none.
            UnusableConfiguration: it is something else, or of another schema.
        """
        parsed = _parse(url)
        if parsed.get_backend_name() == "sqlite":
            _check_sqlite_file(_path_of(parsed))
        return cls._connect(parsed, write=write, create=False)

    @classmethod
    def open_or_create(cls, url: str) -> Store:
        """Open a store to write, made first if there is none; safe for many processes at once.

        Raises:
            UnusableConfiguration: it is something else, or of another schema.
            DiskError: it cannot be written.
        """
        parsed = _parse(url)
        if parsed.get_backend_name() == "sqlite":
            path = _path_of(parsed)
            if not path.exists():
                _create_sqlite_file(path)
            _check_sqlite_file(path)
        return cls._connect(parsed, write=True, create=True)

    @classmethod
    def _connect(cls, url: sa.URL, *, write: bool, create: bool) -> Store:
        try:
            if url.get_backend_name() == "sqlite":
                storage = _sqlite_storage(url, write=write)
            else:
                storage = _postgres_storage(url, create=create)
            if write:
                metadata.create_all(storage.engine)
        except ImportError as error:
            raise UnusableConfiguration(
                f"no driver for {masked(url)}; install it with pip install 'mnist-search[postgres]'"
            ) from error
        except (SQLAlchemyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UnusableConfiguration(f"cannot use the store {masked(url)}: {reason}") from error
        return cls(_text(url), storage)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def lock(self, topic: str) -> Iterator[None]:
        """Hold what only one process may do at a time; a process that dies lets go.

        Raises:
            TryAgain: another process has held it for a minute.
        """
        if not self.is_sqlite:
            with _postgres_lock(self.engine, topic):
                yield
            return
        path = _path_of(make_url(self.url))
        lock_file = path.with_name(f".{path.name}.{topic}.lock")
        guard = FileLock(lock_file, timeout=BUSY_SECONDS)
        try:
            lock_file.touch()  # FileLock would try for ever where it may not write
            guard.acquire()
        except Timeout:
            raise TryAgain(_held(topic)) from None
        except OSError as error:
            raise DiskError(f"cannot write beside the store: {error}; mend it and run again") from error
        try:
            yield
        finally:
            guard.release()

    def now(self) -> sa.ColumnElement[float]:
        """Seconds since 1970 by the database's clock, as an SQL expression."""
        if self.is_sqlite:
            return sa.cast(sa.func.strftime("%s", "now"), sa.Float)
        return sa.cast(sa.func.extract("epoch", sa.func.now()), sa.Float)

    def __str__(self) -> str:
        return masked(make_url(self.url))


def file_of(url: str) -> Path | None:
    """The SQLite file of a storage URL; None for another database.

    Raises:
        UnusableConfiguration: no URL of a store.
    """
    parsed = _parse(url)
    return _path_of(parsed) if parsed.get_backend_name() == "sqlite" else None


def masked(url: sa.URL) -> str:
    """The URL without its password."""
    return url.render_as_string(hide_password=True)


def _text(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


def _parse(url: str) -> sa.URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UnusableConfiguration(
            "--storage takes a database URL such as sqlite:///mnist-search.db"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        query = {"options": "-c timezone=utc"} | dict(parsed.query)
        return parsed.set(drivername="postgresql+psycopg", query=query)
    if backend != "sqlite":
        raise UnusableConfiguration(
            f"{masked(parsed)} is neither sqlite nor postgresql; "
            "use --storage sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        )
    if not parsed.database or parsed.database == ":memory:":
        raise UnusableConfiguration(
            "a store in memory is lost with the process; use --storage sqlite:///FILE"
        )
    return parsed.set(database=str(Path(parsed.database).absolute()))


def _path_of(url: sa.URL) -> Path:
    return Path(str(url.database))


def _sqlite_storage(url: sa.URL, *, write: bool) -> optuna.storages.RDBStorage:
    storage = optuna.storages.RDBStorage(
        # Optuna's own 5 s of waiting for others lose results under load.
        _escaped(url),
        engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}},
    )
    if not write:
        return storage

    @sa.event.listens_for(storage.engine, "connect")
    def _prepare_connection(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the begin event below opens transactions
        if sqlite3.sqlite_version_info >= WAL_IS_SAFE_SINCE:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(storage.engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # the constructor has opened connections without these listeners
    return storage


def _postgres_storage(url: sa.URL, *, create: bool) -> optuna.storages.RDBStorage:
    engine = sa.create_engine(url)
    try:
        with _postgres_lock(engine, "schema"):
            if not create and not set(sa.inspect(engine).get_table_names()) >= OPTUNA_TABLES:
                raise NotFound(f"no study store in {masked(url)}; begin one with mnist-search run")
            return optuna.storages.RDBStorage(_escaped(url), engine_kwargs={"pool_pre_ping": True})
    finally:
        engine.dispose()


def _escaped(url: sa.URL) -> str:
    """For RDBStorage, which runs ``str.format`` on its URL."""
    return _text(url).replace("{", "{{").replace("}", "}}")


def _held(topic: str) -> str:
    return (
        f"another process has held the store's {topic} lock for {BUSY_SECONDS} s; "
        "find out what it waits for, then run the same command again"
    )


@contextmanager
def _postgres_lock(engine: sa.Engine, topic: str) -> Iterator[None]:
    key = zlib.crc32(f"mnist-search/{topic}".encode())
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"SET lock_timeout = '{BUSY_SECONDS}s'")
        try:
            connection.execute(sa.select(sa.func.pg_advisory_lock(key)))
        except OperationalError as error:
            raise TryAgain(_held(topic)) from error
        try:
            yield
        finally:
            connection.execute(sa.select(sa.func.pg_advisory_unlock(key)))


def _create_sqlite_file(path: Path) -> None:
    """Make the whole schema beside the target, then put it in place in one step."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    if not path.parent.is_dir():
        raise DiskError(f"cannot create the study store {path}: no such folder; name another with --storage")
    try:
        storage = optuna.storages.RDBStorage(_escaped(sa.URL.create("sqlite", database=str(fresh))))
        metadata.create_all(storage.engine)
        storage.engine.dispose()
        with suppress(FileExistsError):  # another process was first; its store is as good
            path.hardlink_to(fresh)
    except (OSError, SQLAlchemyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DiskError(
            f"cannot create the study store {path}: {reason}; name another with --storage"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def _check_sqlite_file(path: Path) -> None:
    """Refuse what is not a study store, and leave it as it is."""
    if not path.exists():
        raise NotFound(f"no study store {path}; begin one with mnist-search run, or name it with --storage")
    tables = tables_of(path)
    if not tables >= OPTUNA_TABLES:
        what = "an MLflow database" if "runs" in tables else "no study store"
        raise UnusableConfiguration(f"{path} is {what}; name another file with --storage sqlite:///FILE")
    rows = query(path, "SELECT version_num FROM alembic_version")
    revision = str(rows[0][0]) if rows else "unknown"
    known = optuna.storages.RDBStorage("sqlite://").get_all_versions()
    if revision == known[0]:
        return
    advice = (
        f"bring it up to date with optuna storage upgrade --storage sqlite:///{path}"
        if revision in known
        else "a newer Optuna wrote it: pip install --upgrade optuna"
    )
    raise UnusableConfiguration(f"{path} has schema {revision}, not {known[0]}; {advice}")
