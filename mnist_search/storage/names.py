"""Names of the search studies of a store, read without Optuna, for completion in a shell."""

from __future__ import annotations

import sqlalchemy as sa

from mnist_search.sqlite import query
from mnist_search.storage.urls import parse_url, sqlite_path

CONNECT_SECONDS = 2

STATEMENT = (
    "SELECT study_name FROM studies WHERE study_id IN "
    "(SELECT study_id FROM study_user_attributes WHERE key = 'experiment') ORDER BY study_id DESC"
)


def search_study_names(url: str) -> list[str]:
    """Names of the search studies, the latest first; none without a store.

    Raises:
        MnistSearchError, SQLAlchemyError: it is not a store, or cannot be read.
    """
    path = sqlite_path(url)
    if path is not None:
        return [str(name) for (name,) in query(path, STATEMENT)] if path.exists() else []
    engine = sa.create_engine(parse_url(url), connect_args={"connect_timeout": CONNECT_SECONDS})
    try:
        with engine.connect() as connection:
            return list(connection.execute(sa.text(STATEMENT)).scalars())
    finally:
        engine.dispose()
