"""URLs of study stores: SQLite files and PostgreSQL databases."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from mnist_search.errors import UnusableConfiguration


def parse_url(url: str) -> sa.URL:
    """The URL of a SQLite file, by its real path, or of a PostgreSQL database, with its driver.

    Symbolic links are resolved, so that a store has one name and one set of lock files. ``str`` of the
    URL hides the password.

    Raises:
        UnusableConfiguration: not the URL of a store.
    """
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
            f"{parsed} is neither sqlite nor postgresql; "
            "use --storage sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        )
    if not parsed.database or parsed.database == ":memory:":
        raise UnusableConfiguration(
            "a store in memory is lost with the process; use --storage sqlite:///FILE"
        )
    return parsed.set(database=os.path.realpath(parsed.database))


def sqlite_path(url: str) -> Path | None:
    """The SQLite file of a storage URL; None for PostgreSQL."""
    parsed = parse_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None
