"""The verb ``report``: a study as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_search.cli.options import (
    DEFAULT_STORAGE,
    DEFAULT_TRACKING,
    DataOption,
    StorageOption,
    StudyArgument,
    TrackingOption,
)
from mnist_search.cli.search import ExperimentNameOption, MlflowOption, tracking_config
from mnist_search.errors import DiskError


def report(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("report.html"),
    storage: StorageOption = DEFAULT_STORAGE,
    tracking_uri: TrackingOption = DEFAULT_TRACKING,
    mlflow: MlflowOption = True,
    mlflow_experiment: ExperimentNameOption = "mnist-search",
    data_dir: DataOption = None,
) -> None:
    """Write a study as one page that needs no network, also to its run in MLflow."""
    from mnist_search.report.page import keep_with_run, report  # Optuna
    from mnist_search.storage.database import Store

    store = Store.open(storage)
    page = report(store, study, data_dir)
    try:
        output.write_text(page)
    except OSError as error:
        raise DiskError(f"cannot write {output}: {error}; name another file with --output") from error
    typer.echo(output)
    where = tracking_config(mlflow, tracking_uri, mlflow_experiment)
    if where is not None:
        keep_with_run(store, study, page, where, lambda text: typer.echo(text, err=True))
