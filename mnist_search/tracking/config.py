"""Tracking configuration, validated before anything is written; does not import MLflow."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from mnist_search.errors import UnusableConfiguration
from mnist_search.sqlite import table_names

Notify: TypeAlias = Callable[[str], None]
"""Receives a line for the user."""

MLFLOW_TABLES = {"experiments", "runs", "alembic_version"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """Where runs are logged.

    Attributes:
        tracking_uri: absolute, so that it does not depend on the working directory.
        artifact_root: folder for the artifacts of a new experiment; None for the server's default.
    """

    tracking_uri: str
    experiment_name: str
    artifact_root: str | None = None


def make_tracking_config(tracking_uri: str, experiment_name: str) -> TrackingConfig:
    """The configuration for a tracking URI; UnusableConfiguration if MLflow cannot store runs there."""
    path = local_file(tracking_uri)
    if path is None:
        return TrackingConfig(tracking_uri=tracking_uri, experiment_name=experiment_name)
    if path.exists() and not table_names(path) >= MLFLOW_TABLES:
        raise UnusableConfiguration(
            f"{path} is not an MLflow database; name another file with --tracking-uri sqlite:///FILE"
        )
    root = str(path.parent / "mlartifacts")  # the default of mlflow server
    return TrackingConfig(tracking_uri=sqlite_url(path), experiment_name=experiment_name, artifact_root=root)


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, in whose path ``?`` and ``%`` are escaped."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def local_file(tracking_uri: str) -> Path | None:
    """The SQLite file of a tracking URI, else None; UnusableConfiguration if it cannot store runs."""
    try:
        url = make_url(tracking_uri)
    except ArgumentError:
        raise UnusableConfiguration(
            f"MLflow cannot store runs in {tracking_uri!r}; name a database with "
            "--tracking-uri sqlite:///mlflow.db, or the URL of an MLflow server"
        ) from None
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(os.path.realpath(url.database))  # as the path of a store
    return None
