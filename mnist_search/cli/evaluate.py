"""Verbs that evaluate on the test set: finalize, finals, reproduce."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_search.cli import options as opt
from mnist_search.cli.output import print_rows
from mnist_search.cli.show import load_studies
from mnist_search.errors import MnistSearchError, NotFound

if TYPE_CHECKING:
    from mnist_search.evaluation.run_finals import FinalsResult

SeedsOption = Annotated[int, typer.Option("--seeds", min=1, max=100, help="Number of seeds per network.")]

FINAL_COLUMNS = (
    "name", "parameters", "val_accuracy", "epochs", "n_seeds", "test_accuracy_mean", "test_accuracy_sd",
    "low", "high", "worst", "seconds",
)  # fmt: skip
REPRODUCTION_COLUMNS = (
    "name", "parameters", "reported_test_accuracy", "epochs", "n_seeds", "best_epoch", "test_accuracy_mean",
    "test_accuracy_sd", "low", "high", "worst", "seconds",
)  # fmt: skip


def finalize(
    study: opt.StudyArgument,
    top: Annotated[int, typer.Option(min=1, max=100, help="Number of finalists.")] = 5,
    seeds: SeedsOption = 5,
    again: Annotated[bool, typer.Option("--again", help="Evaluate the finalists again.")] = False,
    jobs: opt.JobsOption = "auto",
    device: opt.DeviceOption = "auto",
    precision: opt.PrecisionOption = "auto",
    timeout: opt.TimeoutOption = None,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
    tracking_uri: opt.TrackingOption = opt.DEFAULT_TRACKING,
    mlflow: opt.MlflowOption = True,
    mlflow_experiment: opt.ExperimentNameOption = opt.DEFAULT_EXPERIMENT,
    data_dir: opt.DataOption = None,
    output_format: opt.FormatOption = "table",
) -> None:
    """Retrain a study's best trials with several seeds and evaluate them on the test set.

    Finalists are the best trials by validation accuracy, then by validation loss. They are trained
    on all 60,000 images and evaluated once, after the last epoch. The same command continues
    interrupted finals.
    """
    from mnist_search.evaluation import run_finals
    from mnist_search.execution.progress import make_reporter

    config = run_finals.FinalsConfig(
        storage=storage, data_dir=data_dir, jobs=opt.parse_jobs(jobs), device=device, precision=precision,
        mlflow=opt.tracking_config(mlflow, tracking_uri, mlflow_experiment), timeout=opt.parse_duration(timeout, "--timeout"),
    )  # fmt: skip
    result = run_finals.finalize(
        config, study, top=top, seeds=seeds, again=again, make_reporter=make_reporter,
        notify=partial(typer.echo, err=True),
    )  # fmt: skip
    _print(result, output_format, FINAL_COLUMNS)


def finals(
    study: opt.StudyArgument,
    output_format: opt.FormatOption = "table",
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
) -> None:
    """Show the test accuracy of a study's finalists."""
    from mnist_search.evaluation.statistics import final_rows
    from mnist_search.storage.database import Store

    record = load_studies(storage, [study])[0]
    rows = final_rows(Store.open(storage), record)
    if rows is None:
        raise NotFound(f"study {study!r} has no finals yet; run mnist-search finalize {study}")
    print_rows(rows, output_format, FINAL_COLUMNS)


def reproduce(
    name: Annotated[str, typer.Argument(help="A baseline such as seed-001, or all.")],
    seeds: SeedsOption = 3,
    jobs: opt.JobsOption = "auto",
    device: opt.DeviceOption = "auto",
    precision: opt.PrecisionOption = "auto",
    timeout: opt.TimeoutOption = None,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
    tracking_uri: opt.TrackingOption = opt.DEFAULT_TRACKING,
    mlflow: opt.MlflowOption = True,
    mlflow_experiment: opt.ExperimentNameOption = opt.DEFAULT_EXPERIMENT,
    data_dir: opt.DataOption = None,
    output_format: opt.FormatOption = "table",
) -> None:
    """Train baselines with their authors' recipe and with the default training configuration.

    Authors report the test accuracy of the best epoch; test_accuracy_mean is that of the last epoch
    over several seeds.
    """
    from mnist_search.evaluation import run_finals
    from mnist_search.execution.progress import make_reporter

    config = run_finals.FinalsConfig(
        storage=storage, data_dir=data_dir, jobs=opt.parse_jobs(jobs), device=device, precision=precision,
        mlflow=opt.tracking_config(mlflow, tracking_uri, mlflow_experiment), timeout=opt.parse_duration(timeout, "--timeout"),
    )  # fmt: skip
    result = run_finals.reproduce(config, name, seeds=seeds, make_reporter=make_reporter)
    _print(result, output_format, REPRODUCTION_COLUMNS)


def _print(result: FinalsResult, output_format: opt.Format, columns: tuple[str, ...]) -> None:
    """Print rows and, after a stop, how to continue; exit with the signal's code, or fail with failed trials."""
    print_rows(result.rows, output_format, columns)
    command = shlex.join(["mnist-search", *sys.argv[1:]])
    if result.stop is not None:
        typer.echo(f"stopped: {result.stop.reason}; continue with: {command}", err=True)
        if result.stop.signal:
            raise typer.Exit(128 + result.stop.signal)
    if result.failed:
        first = result.failed[0]
        name = f"{first.task.name}, seed {first.task.seed}" if first.task else ""
        raise MnistSearchError(
            f"{len(result.failed)} final trials failed (first: {name}: {first.reason}); "
            f"train them again with: {command}"
        )
