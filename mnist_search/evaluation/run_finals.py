"""Run finals: start the workers and the sync process, register the champion."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from experiments import BASELINES
from mnist_search.data import mnist
from mnist_search.errors import MnistSearchError
from mnist_search.evaluation.champion import final_evaluation
from mnist_search.evaluation.finals import (
    announcement,
    evaluates_all,
    finalist_name,
    finalists,
    finals_of,
    later_stages,
    next_tasks,
    reproductions,
    select_round,
    size_of_round,
)
from mnist_search.evaluation.statistics import final_rows, seed_statistics
from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import Stop
from mnist_search.execution.run_study import ReporterFactory, train, with_device_and_data
from mnist_search.records import FinalStage, FinalTask, StudyRecord, TrialRecord
from mnist_search.search.study import SearchStudy, quiet_optuna
from mnist_search.storage.database import Store, failure, retry
from mnist_search.storage.finals import BASELINE_FINALS, FinalsStudy, finals_uid, name_of_finals
from mnist_search.tracking.config import Notify


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalsRequest:
    """Which finals to run.

    Attributes:
        top: number of finalists; None for that of the last round, or 5.
        seeds: number of seeds on the test set; None for that of the last round, or 5.
        evaluate_all: evaluate every finalist on the test set, not only the champion.
        again: as a new round.
    """

    top: int | None = None
    seeds: int | None = None
    evaluate_all: bool = False
    again: bool = False


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
    config: RunConfig, request: FinalsRequest, *, make_reporter: ReporterFactory, notify: Notify
) -> FinalsResult:
    """Select the champion of a search study, evaluate it on the test set, and register it.

    The same command does what is left of an interrupted one.

    Raises:
        MnistSearchError: no finals can be run, every one diverged, or the champion cannot be registered.
    """
    store = retry(lambda: Store.open(config.storage, write=True))
    record = retry(lambda: SearchStudy.open(store, config.study).record())
    stop, failed = _run_stages(config, store, record, request, make_reporter, notify)
    if stop is None and not failed and final_evaluation(store, record) is None:
        raise MnistSearchError(
            "every final training of the champion diverged; select another one with --again and --top N"
        )
    if stop is None and not failed and config.mlflow is not None:
        try:
            from mnist_search.evaluation.registry import register_champion  # torch, MLflow

            register_champion(store, record, config.mlflow, config.data_dir, notify)
        except KeyboardInterrupt:
            stop = Stop(signal.SIGINT.name, signal.SIGINT)
    return FinalsResult(final_rows(store, record) or [], stop, failed)


def _run_stages(
    config: RunConfig,
    store: Store,
    record: StudyRecord,
    request: FinalsRequest,
    make_reporter: ReporterFactory,
    notify: Notify,
) -> tuple[Stop | None, list[TrialRecord]]:
    """Run the stages of ``next_tasks`` that are left; why they stopped early, and the trials that failed."""
    last = finals_of(store, record)
    size = size_of_round(last)
    top, seeds = request.top or size[0], request.seeds or size[1]
    best = finalists(record, top)
    if len(best) < top:
        notify(f"only {len(best)} trial{' is' if len(best) == 1 else 's are'} complete: as many finalists")
    names = [finalist_name(trial) for trial in best]
    number = select_round(last, record.name, names, seeds, again=request.again)
    finals = replace(config, study=name_of_finals(record.name))
    started = time.monotonic()
    make_reporter = partial(make_reporter, started=started)
    while True:
        stored = finals_of(store, record)
        trials = stored.of_round(number) if stored else []
        evaluate_all = request.evaluate_all or evaluates_all(trials)
        tasks = next_tasks(record, best, trials, number=number, seeds=seeds, evaluate_all=evaluate_all)
        if text := announcement(tasks, trials):
            notify(text)
        stop_conditions = config.stop_conditions.after(time.monotonic() - started)
        finals = replace(finals, stop_conditions=stop_conditions)
        later = later_stages(tasks, seeds)
        stop, trained = _run(finals, finals_uid(record.uid), tasks, make_reporter, later)
        failed = [trial for trial in trained if trial.is_finished and trial.is_open]
        if stop or failed or tasks[0].split is None:
            return stop, failed


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
    config: RunConfig,
    uid: str | None,
    tasks: Sequence[FinalTask],
    make_reporter: ReporterFactory,
    later: Sequence[FinalStage] = (),
) -> tuple[Stop | None, list[TrialRecord]]:
    """Train the tasks that are not complete; the finals are opened after the check of device and data."""
    config = with_device_and_data(replace(config, kind="finals", keep_models=None), mnist.ALL_FILES)
    try:
        store = retry(lambda: Store.open_or_create(config.storage))
        finals = retry(lambda: FinalsStudy.open_or_create(store, config.study, uid))
        retry(lambda: finals.add(tasks, later))
        stop = train(config, finals.queue, make_reporter)
        keys = {task.key for task in tasks}
        return stop, [trial for trial in finals.record().current if trial.task and trial.task.key in keys]
    except (OSError, SQLAlchemyError, StorageInternalError) as error:
        raise failure(error, config.storage) from error
