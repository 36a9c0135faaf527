"""The verb ``report``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mnist_search.cli import options as opt


def report(
    study: opt.StudyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("report.html"),
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
    tracking_uri: opt.TrackingOption = opt.DEFAULT_TRACKING,
    mlflow: opt.MlflowOption = True,
    mlflow_experiment: opt.ExperimentNameOption = opt.DEFAULT_EXPERIMENT,
    data_dir: opt.DataOption = None,
) -> None:
    """Write a study as one self-contained HTML page, and log the page to the study's MLflow run."""
    from mnist_search.report.page import log_report

    tracking = opt.tracking_config(mlflow, tracking_uri, mlflow_experiment)
    log_report(storage, study, data_dir, output=output, tracking=tracking, warn=partial(typer.echo, err=True))
    typer.echo(output)
