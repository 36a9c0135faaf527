"""Read SQLite files without changing them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from mnist_search.errors import TryAgain, UnusableConfiguration

HEADER = b"SQLite format 3\x00"
BUSY_SECONDS = 60
"""How long to wait for locks of other processes."""


def table_names(path: Path) -> set[str]:
    """Names of the tables; UnusableConfiguration if it is no readable SQLite database."""
    return {str(name) for (name,) in query(path, "SELECT name FROM sqlite_master")}


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Rows of a query; UnusableConfiguration if it is no readable SQLite database, TryAgain if locked."""
    try:
        if path.is_dir() or _first_bytes(path) != HEADER:
            raise UnusableConfiguration(f"{path} is not a SQLite database; name another file")
        # mode=ro cannot open a WAL database without its -shm file.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            return connection.execute(sql).fetchall()
    except (OSError, sqlite3.Error) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise TryAgain(f"{path} is locked; end the program that holds it, then run again") from error
        raise UnusableConfiguration(f"cannot read {path}: {error}; name another file") from error


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(HEADER))
