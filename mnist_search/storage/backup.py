"""Write a consistent copy of a SQLite store while other processes use it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from mnist_search.errors import DiskError, UsageError, first_line
from mnist_search.files import temporary_beside
from mnist_search.sqlite import BUSY_SECONDS
from mnist_search.storage.database import Store


def back_up(store: Store, file: Path) -> None:
    """Write a store to a new file, as one read transaction sees it.

    Raises:
        UsageError: the store is in PostgreSQL, or the file exists.
        DiskError: the file cannot be written; no partial file is left.
    """
    if store.path is None:
        raise UsageError(f"{store} is backed up with PostgreSQL's own command: pg_dump --file {file} URL")
    temporary = temporary_beside(file)
    try:
        uri = f"{store.path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            connection.execute("VACUUM INTO ?", (str(temporary),))
        file.hardlink_to(temporary)  # unlike a renaming, it never replaces a file
    except FileExistsError:
        raise UsageError(f"{file} exists; name a new file") from None
    except (OSError, sqlite3.Error) as error:
        raise DiskError(f"cannot write {file}: {first_line(error)}; name another file") from error
    finally:
        temporary.unlink(missing_ok=True)
