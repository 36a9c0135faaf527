"""Verbs that open the test set: finalize, reproduce."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnist_search.cli.options import (
    DEFAULT_STORAGE,
    DataOption,
    Format,
    FormatOption,
    StorageOption,
    StudyArgument,
    seconds,
)
from mnist_search.cli.output import print_rows
from mnist_search.cli.read import load_studies
from mnist_search.cli.run import DeviceOption, JobsOption, PrecisionOption, TimeoutOption, jobs_of
from mnist_search.errors import NotFound

if TYPE_CHECKING:
    from mnist_search.study.events import Event
    from mnist_search.study.finals import SeriesPlan
    from mnist_search.study.series import Series
    from mnist_search.study.supervisor import Stop
    from mnist_search.tasks import Task

SeedsOption = Annotated[int, typer.Option("--seeds", min=1, max=100, help="Trainings of each network.")]

COLUMNS = ("name", "parameters", "val_accuracy", "epochs", "n_seeds", "test_accuracy_mean",
           "test_accuracy_sd", "low", "high", "worst", "seconds")  # fmt: skip
REPRODUCED = ("name", "parameters", "claimed_test_accuracy", "epochs", "n_seeds", "best_epoch",
              "test_accuracy_mean", "test_accuracy_sd", "low", "high", "worst", "seconds")  # fmt: skip


class Lines:
    """Says what workers tell, on stderr."""

    def show(self, event: Event) -> None:
        """Something happened."""
        from mnist_search.study.events import Message

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
    show: Annotated[bool, typer.Option("--show", help="Train nothing; show the latest finals.")] = False,
    jobs: JobsOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    timeout: TimeoutOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    data_dir: DataOption = None,
    how: FormatOption = Format.TABLE,
) -> None:
    """Train a study's best on all 60,000 images with several seeds; open the test set once.

    Finalists are the best by validation accuracy, then by validation loss. The last epoch counts.
    The same command continues what was stopped or killed.
    """
    from mnist_search.study.finals import finalists, finals_of, series_for_finals  # Optuna
    from mnist_search.study.store import Store

    facts = load_studies(storage, [study])[0]
    if show:
        earlier = finals_of(Store.open(storage), facts)
        if not earlier:
            raise NotFound(f"study {study!r} has no finals yet; hold them with mnist-search finalize {study}")
        series = earlier[-1]
    else:
        tasks = finalists(facts, top, seeds)
        series = series_for_finals(Store.open(storage, write=True), facts, tasks, again=again)
        stop = _run(_plan(storage, data_dir, jobs, device, precision, timeout), series, tasks)
    promised = {f"trial {trial.number}": trial.val_accuracy for trial in facts.trials}
    rows = [row | {"val_accuracy": promised.get(row["name"])} for row in _rows(series)]
    print_rows(rows, how, COLUMNS)
    if not show:
        _leave(stop)


def reproduce(
    name: Annotated[str, typer.Argument(help="A seed such as seed-001, or all.")],
    seeds: SeedsOption = 3,
    jobs: JobsOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    timeout: TimeoutOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    data_dir: DataOption = None,
    how: FormatOption = Format.TABLE,
) -> None:
    """Train hand-tuned seeds as their authors did, and with our training; claim beside result.

    An author's rule is the best epoch on the test set; ours is the last epoch, over several seeds.
    """
    from experiments import SEEDS  # Optuna's distributions
    from mnist_search.study.finals import REPRODUCTION, reproductions
    from mnist_search.study.series import Series
    from mnist_search.study.store import Store

    tasks = reproductions(list(SEEDS) if name == "all" else [name], seeds)
    series = Series(Store.open_or_create(storage), REPRODUCTION)
    stop = _run(_plan(storage, data_dir, jobs, device, precision, timeout), series, tasks)
    asked = {task.name for task in tasks}
    claimed = {recipe.name: recipe.claim.test_accuracy for recipe in SEEDS.values()}
    rows = [
        row | {"claimed_test_accuracy": claimed.get(row["name"])}
        for row in _rows(series)
        if row["name"] in asked
    ]
    print_rows(rows, how, REPRODUCED)
    _leave(stop)


def _plan(
    storage: str, data_dir: Any, jobs: str, device: str, precision: str, timeout: str | None
) -> SeriesPlan:
    from mnist_search.study.finals import SeriesPlan
    from mnist_search.study.limits import Limits

    return SeriesPlan(
        storage=storage, data_dir=data_dir, jobs=jobs_of(jobs), device=device, precision=precision,
        limits=Limits(timeout=seconds(timeout, "--timeout")),
    )  # fmt: skip


def _run(plan: SeriesPlan, series: Series, tasks: list[Task]) -> Stop | None:
    from mnist_search.study.finals import run_series

    return run_series(plan, series, tasks, Lines())


def _rows(series: Series) -> list[dict[str, Any]]:
    from mnist_search.study.finals import summaries

    rows = []
    for summary in summaries(series):
        row = asdict(summary)
        row["test_accuracy_mean"], row["test_accuracy_sd"] = row.pop("mean"), row.pop("sd")
        rows.append(row)
    return rows


def _leave(stop: Stop | None) -> None:
    """Say how to go on, and exit with the signal's code, if one was heard."""
    if stop and stop.signal:
        again = shlex.join(["mnist-search", *sys.argv[1:]])
        typer.echo(f"stopped by {stop.reason}; go on with: {again}", err=True)
        raise typer.Exit(128 + stop.signal)
