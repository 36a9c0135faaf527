"""Where runs go, checked before anything is written there; imports no MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from mnist_search.errors import UnusableConfiguration
from mnist_search.sqlite import tables_of

MLFLOW_TABLES = {"experiments", "runs", "alembic_version"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """Where runs go; travels to worker processes.

    Attributes:
        tracking_uri: absolute, so that it does not follow the working directory.
        artifact_root: folder for the artifacts of a new experiment; None leaves it to the server.
        experiment_id, parent_run_id: once they are known.
    """

    tracking_uri: str
    experiment_name: str
    artifact_root: str | None
    experiment_id: str = ""
    parent_run_id: str = ""


def make_tracking_config(tracking_uri: str, experiment_name: str) -> TrackingConfig:
    """The place that a tracking URI names.

    Raises:
        UnusableConfiguration: MLflow cannot keep runs there.
    """
    if tracking_uri.startswith(("http://", "https://")):
        return TrackingConfig(tracking_uri=tracking_uri, experiment_name=experiment_name, artifact_root=None)
    path = local_file(tracking_uri)
    if path is None:
        return TrackingConfig(tracking_uri=tracking_uri, experiment_name=experiment_name, artifact_root=None)
    if path.exists() and not tables_of(path) >= MLFLOW_TABLES:
        raise UnusableConfiguration(
            f"{path} is no MLflow database; name another file with --tracking-uri sqlite:///FILE"
        )
    return TrackingConfig(
        tracking_uri=f"sqlite:///{path}",
        experiment_name=experiment_name,
        artifact_root=artifact_root(path),
    )


def local_file(tracking_uri: str) -> Path | None:
    """The SQLite file of a tracking URI; None where it is a server or another database.

    Raises:
        UnusableConfiguration: not a URI that MLflow takes for runs.
    """
    try:
        url = make_url(tracking_uri)
    except ArgumentError:
        raise UnusableConfiguration(
            f"MLflow cannot keep runs in {tracking_uri!r}; name a database with "
            "--tracking-uri sqlite:///mlflow.db, or the URL of an MLflow server"
        ) from None
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(url.database).absolute()
    return None


def artifact_root(database: Path) -> str:
    """The folder beside a database that its artifacts go to, as plain ``mlflow server`` has it."""
    return str(database.parent / "mlartifacts")
