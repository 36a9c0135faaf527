"""The verb ``ui``: the MLflow UI on our stores."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from mnist_search.cli.options import (
    DEFAULT_STORAGE,
    DEFAULT_TRACKING,
    StorageOption,
    TrackingOption,
)
from mnist_search.errors import NotFound, UsageError


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to poll on.")] = 5000,
    storage: StorageOption = DEFAULT_STORAGE,
    tracking_uri: TrackingOption = DEFAULT_TRACKING,
) -> None:
    """Show the runs in the MLflow UI, on this machine only."""
    from mnist_search.tracking.config import artifact_root, local_file, make_tracking_config

    uri = make_tracking_config(tracking_uri, "").tracking_uri
    path = local_file(uri)
    if path is None:
        raise UsageError(f"the runs are kept by a server: open {uri} in a browser")
    if not path.exists():
        raise NotFound(f"no MLflow database {path} yet; mnist-search run makes it")
    typer.echo(f"MLflow:           http://127.0.0.1:{port}", err=True)
    typer.echo(f"Optuna dashboard: pip install optuna-dashboard && optuna-dashboard {storage}", err=True)
    hosts = f"localhost:{port},127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", uri, "--artifacts-destination", artifact_root(path)),
        *("--workers", "1", "--allowed-hosts", hosts),
    ]
    sys.stderr.flush()
    os.execv(sys.executable, command)  # noqa: S606 - signals then reach the server itself
