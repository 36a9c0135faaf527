"""Run finals: start the workers and the sync process, register the champion."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from experiments import BASELINES
from mnist_search.data import mnist
from mnist_search.evaluation.finals import finalists, finals_of, reproductions, select_round
from mnist_search.evaluation.statistics import final_rows, seed_statistics
from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import Stop
from mnist_search.execution.run_study import ReporterFactory, train, with_device_and_data
from mnist_search.records import FinalTask, TrialRecord
from mnist_search.search.study import SearchStudy, quiet_optuna
from mnist_search.storage.database import Store, failure, retry
from mnist_search.storage.finals import BASELINE_FINALS, FinalsStudy, finals_uid, name_of_finals
from mnist_search.tracking.config import Notify


@dataclass(frozen=True, slots=True)
class FinalsResult:
    """Result of a command.

    Attributes:
        rows: statistics of every network.
        stop: why the workers were stopped early.
        failed: trials that failed other than by divergence; the same command trains them again.
    """

    rows: list[dict[str, Any]]
    stop: Stop | None
    failed: Sequence[TrialRecord]


@quiet_optuna()
def finalize(
    config: RunConfig, *, top: int, seeds: int, again: bool, make_reporter: ReporterFactory, notify: Notify
) -> FinalsResult:
    """Train and evaluate the finalists of a search study, and register the champion once all are finished.

    The same command does what is left of an interrupted one.

    Raises:
        MnistSearchError: no finals can be run, or the champion cannot be registered.
    """
    store = retry(lambda: Store.open(config.storage, write=True))
    record = retry(lambda: SearchStudy.open(store, config.study).record())
    tasks = select_round(finals_of(store, record), record.name, finalists(record, top, seeds), again=again)
    finals = replace(config, study=name_of_finals(record.name))
    stop, trials = _run(finals, finals_uid(record.uid), tasks, make_reporter)
    failed = [trial for trial in trials if trial.is_finished and trial.is_open]
    if stop is None and not failed and config.mlflow is not None:
        try:
            from mnist_search.evaluation.registry import register_champion  # torch, MLflow

            register_champion(store, record, config.mlflow, config.data_dir, notify)
        except KeyboardInterrupt:
            stop = Stop(signal.SIGINT.name, signal.SIGINT)
    return FinalsResult(final_rows(store, record) or [], stop, failed)


@quiet_optuna()
def reproduce(config: RunConfig, *, seeds: int, make_reporter: ReporterFactory) -> FinalsResult:
    """Train and evaluate a baseline, or ``all``, with its author's recipe and the default training.

    ``config.study`` is the name of the baseline.

    Raises:
        MnistSearchError: no reproduction can be run; no store is created.
    """
    tasks = reproductions(list(BASELINES) if config.study == "all" else [config.study], seeds)
    stop, trials = _run(replace(config, study=BASELINE_FINALS), None, tasks, make_reporter)
    failed = [trial for trial in trials if trial.is_finished and trial.is_open]
    reported = {recipe.name: recipe.reported.test_accuracy for recipe in BASELINES.values()}
    rows = [
        asdict(row) | {"reported_test_accuracy": reported.get(row.name)} for row in seed_statistics(trials)
    ]
    return FinalsResult(rows, stop, failed)


def _run(
    config: RunConfig, uid: str | None, tasks: Sequence[FinalTask], make_reporter: ReporterFactory
) -> tuple[Stop | None, list[TrialRecord]]:
    """Train the tasks that are not complete; the finals are opened after the check of device and data."""
    config = with_device_and_data(replace(config, kind="finals", keep_models=None), mnist.ALL_FILES)
    try:
        store = retry(lambda: Store.open_or_create(config.storage))
        finals = retry(lambda: FinalsStudy.open_or_create(store, config.study, uid))
        retry(lambda: finals.add(tasks))
        stop = train(config, finals.queue, make_reporter)
        keys = {task.key for task in tasks}
        return stop, [trial for trial in finals.record().current if trial.task and trial.task.key in keys]
    except (OSError, SQLAlchemyError, StorageInternalError) as error:
        raise failure(error, config.storage) from error
