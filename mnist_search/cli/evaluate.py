"""Verbs about the test set: finalize and reproduce open it, finals shows what came of it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnist_search.cli.options import (
    DEFAULT_STORAGE,
    DEFAULT_TRACKING,
    DataOption,
    Format,
    FormatOption,
    StorageOption,
    StudyArgument,
    TrackingOption,
    seconds,
)
from mnist_search.cli.output import print_rows
from mnist_search.cli.search import (
    DeviceOption,
    ExperimentNameOption,
    JobsOption,
    MlflowOption,
    PrecisionOption,
    TimeoutOption,
    parse_jobs,
    tracking_config,
)  # fmt: skip
from mnist_search.cli.show import load_studies
from mnist_search.errors import NotFound

if TYPE_CHECKING:
    from mnist_search.execution.events import Event
    from mnist_search.execution.supervisor import Stop
    from mnist_search.records import StudyRecord
    from mnist_search.storage.final_queue import FinalQueue

SeedsOption = Annotated[int, typer.Option("--seeds", min=1, max=100, help="Trainings of each network.")]

COLUMNS = ("name", "parameters", "val_accuracy", "epochs", "n_seeds", "test_accuracy_mean",
           "test_accuracy_sd", "low", "high", "worst", "seconds")  # fmt: skip
REPRODUCED = ("name", "parameters", "claimed_test_accuracy", "epochs", "n_seeds", "best_epoch",
              "test_accuracy_mean", "test_accuracy_sd", "low", "high", "worst", "seconds")  # fmt: skip


class Lines:
    """Says what workers tell, on stderr."""

    def show(self, event: Event) -> None:
        """Something happened."""
        from mnist_search.execution.events import Message

        if isinstance(event, Message):
            typer.echo(event.text, err=True)

    def tick(self) -> None:
        """Nothing to refresh."""


def finalize(
    study: StudyArgument,
    top: Annotated[int, typer.Option(min=1, max=100, help="Finalists, best by validation.")] = 5,
    seeds: SeedsOption = 5,
    again: Annotated[
        bool, typer.Option("--again", help="Judge finalists anew that have met the test set.")
    ] = False,
    jobs: JobsOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    timeout: TimeoutOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    tracking_uri: TrackingOption = DEFAULT_TRACKING,
    mlflow: MlflowOption = True,
    mlflow_experiment: ExperimentNameOption = "mnist-search",
    data_dir: DataOption = None,
    how: FormatOption = Format.TABLE,
) -> None:
    """Train a study's best on all 60,000 images with several seeds; open the test set once.

    Finalists are the best by validation accuracy, then by validation loss. The last epoch counts.
    The same command continues what was stopped or killed.
    """
    from mnist_search.evaluation.finals import FinalsConfig, final_queue_for, finalists, run_finals  # Optuna
    from mnist_search.evaluation.registry import register_champion
    from mnist_search.search.stopping import StopConditions
    from mnist_search.storage.database import Store

    record = load_studies(storage, [study])[0]
    tasks = finalists(record, top, seeds)
    store = Store.open(storage, write=True)
    series = final_queue_for(store, record, tasks, again=again, mirror=mlflow)
    run_config = FinalsConfig(
        storage=storage, data_dir=data_dir, jobs=parse_jobs(jobs), device=device, precision=precision,
        mlflow=tracking_config(mlflow, tracking_uri, mlflow_experiment), study=record,
        limits=StopConditions(timeout=seconds(timeout, "--timeout")),
    )  # fmt: skip
    series, stop = run_finals(run_config, lambda: series, tasks, Lines())
    if stop is None and run_config.mlflow is not None:
        register_champion(store, record, run_config.mlflow, data_dir, lambda text: typer.echo(text, err=True))
    print_rows(_rows_of_finals(record, series), how, COLUMNS)
    _leave(stop)


def finals(
    study: StudyArgument, how: FormatOption = Format.TABLE, storage: StorageOption = DEFAULT_STORAGE
) -> None:
    """Show what a study's finalists came to on the test set."""
    from mnist_search.evaluation.finals import finals_of  # Optuna
    from mnist_search.storage.database import Store

    record = load_studies(storage, [study])[0]
    held = finals_of(Store.open(storage), record)
    if not held:
        raise NotFound(f"study {study!r} has no finals yet; hold them with mnist-search finalize {study}")
    print_rows(_rows_of_finals(record, held[-1]), how, COLUMNS)


def reproduce(
    name: Annotated[str, typer.Argument(help="A seed such as seed-001, or all.")],
    seeds: SeedsOption = 3,
    jobs: JobsOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    timeout: TimeoutOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    tracking_uri: TrackingOption = DEFAULT_TRACKING,
    mlflow: MlflowOption = True,
    mlflow_experiment: ExperimentNameOption = "mnist-search",
    data_dir: DataOption = None,
    how: FormatOption = Format.TABLE,
) -> None:
    """Train hand-tuned seeds as their authors did, and with our training; claim beside result.

    An author's rule is the best epoch on the test set; ours is the last epoch, over several seeds.
    """
    from experiments import BASELINES  # Optuna's distributions
    from mnist_search.evaluation.finals import REPRODUCTION, FinalsConfig, reproductions, run_finals
    from mnist_search.search.stopping import StopConditions
    from mnist_search.storage.database import Store
    from mnist_search.storage.final_queue import FinalQueue

    tasks = reproductions(list(BASELINES) if name == "all" else [name], seeds)
    run_config = FinalsConfig(
        storage=storage, data_dir=data_dir, jobs=parse_jobs(jobs), device=device, precision=precision,
        mlflow=tracking_config(mlflow, tracking_uri, mlflow_experiment),
        limits=StopConditions(timeout=seconds(timeout, "--timeout")),
    )  # fmt: skip
    series, stop = run_finals(
        run_config, lambda: FinalQueue(Store.open_or_create(storage), REPRODUCTION), tasks, Lines()
    )
    asked = {task.name for task in tasks}
    claimed = {recipe.name: recipe.reported.test_accuracy for recipe in BASELINES.values()}
    rows = [
        row | {"claimed_test_accuracy": claimed.get(row["name"])}
        for row in _rows(series)
        if row["name"] in asked
    ]
    print_rows(rows, how, REPRODUCED)
    _leave(stop)


def _rows_of_finals(record: StudyRecord, series: FinalQueue) -> list[dict[str, Any]]:
    """What the test set says, beside what validation promised."""
    promised = {f"trial {trial.number}": trial.val_accuracy for trial in record.trials}
    return [row | {"val_accuracy": promised.get(row["name"])} for row in _rows(series)]


def _rows(series: FinalQueue) -> list[dict[str, Any]]:
    from mnist_search.evaluation.finals import summaries

    rows = []
    for summary in summaries(series):
        row = asdict(summary)
        row["test_accuracy_mean"], row["test_accuracy_sd"] = row.pop("mean"), row.pop("sd")
        rows.append(row)
    return rows


def _leave(stop: Stop | None) -> None:
    """Say how to go on after a stop, and exit with the signal's code, if one was heard."""
    if stop is None:
        return
    again = shlex.join(["mnist-search", *sys.argv[1:]])
    typer.echo(f"stopped: {stop.reason}; go on with: {again}", err=True)
    if stop.signal:
        raise typer.Exit(128 + stop.signal)
