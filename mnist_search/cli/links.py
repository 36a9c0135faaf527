"""Links to the runs of studies in the MLflow UI; does not import MLflow."""

from __future__ import annotations

from mnist_search.errors import masked

DEFAULT_PORT = 5000
"""Of ``mnist-search ui`` and of ``mlflow server``."""


def local_server(port: int = DEFAULT_PORT) -> str:
    """The address of ``mnist-search ui``."""
    return f"http://127.0.0.1:{port}"


def study_links(storage: str, tracking_uri: str, server: str) -> dict[str, str]:
    """The link to the runs of every search study that was logged to this MLflow, by name, the latest last."""
    from mnist_search.storage.tracked import logged_studies
    from mnist_search.tracking.views import runs_link

    studies = logged_studies(storage, tracking_uri)
    return {name: runs_link(masked(server), *location) for name, location in studies.items()}
