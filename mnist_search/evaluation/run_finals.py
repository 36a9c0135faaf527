"""Run finals: start the workers and the sync process, register the champion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from experiments import BASELINES
from mnist_search.data import mnist
from mnist_search.evaluation.finals import finalists, finals_of, reproductions, select_round
from mnist_search.evaluation.statistics import final_rows, seed_statistics
from mnist_search.execution.config import SyncConfig, WorkerConfig
from mnist_search.execution.run_study import ReporterFactory, device_and_jobs, train
from mnist_search.execution.supervisor import Stop
from mnist_search.records import FinalTask, TrialRecord
from mnist_search.search.study import SearchStudy, quiet_optuna
from mnist_search.storage.database import Store, failure
from mnist_search.storage.finals import BASELINE_FINALS, FinalsStudy, finals_uid, name_of_finals
from mnist_search.storage.leases import ProcessIdentity
from mnist_search.tracking.config import TrackingConfig

if TYPE_CHECKING:
    from mnist_search.training.device import PrecisionChoice


@dataclass(frozen=True, kw_only=True)
class FinalsConfig:
    """Arguments of one command.

    Attributes:
        jobs: worker processes; None for the default of the device.
        mlflow: where runs are logged; None to log none.
        timeout: seconds until the workers are stopped.
    """

    storage: str
    mlflow: TrackingConfig | None = None
    data_dir: Path | None = None
    jobs: int | None = None
    device: str = "auto"
    precision: PrecisionChoice = "auto"
    timeout: float | None = None


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
    config: FinalsConfig,
    study: str,
    *,
    top: int,
    seeds: int,
    again: bool,
    make_reporter: ReporterFactory,
    notify: Callable[[str], None],
) -> FinalsResult:
    """Train and evaluate a study's finalists, and register the champion once all are finished.

    The same command does what is left of an interrupted one.

    Raises:
        MnistSearchError: no finals can be run, or the champion cannot be registered.
    """
    store = Store.open(config.storage, write=True)
    record = SearchStudy.open(store, study).record()
    tasks = finalists(record, top, seeds)
    tasks = select_round(finals_of(store, record), study, tasks, again=again)

    def open_finals() -> FinalsStudy:
        return FinalsStudy.open_or_create(store, name_of_finals(study), finals_uid(record.uid))

    stop, trials = _run(config, open_finals, tasks, make_reporter)
    failed = [trial for trial in trials if trial.is_finished and trial.is_open]
    if stop is None and not failed and config.mlflow is not None:
        from mnist_search.evaluation.registry import register_champion  # torch, MLflow

        register_champion(store, record, config.mlflow, config.data_dir, notify)
    return FinalsResult(final_rows(store, record) or [], stop, failed)


@quiet_optuna()
def reproduce(
    config: FinalsConfig, baseline: str, *, seeds: int, make_reporter: ReporterFactory
) -> FinalsResult:
    """Train and evaluate a baseline, or ``all``, with its author's recipe and the default training.

    Raises:
        MnistSearchError: no reproduction can be run; no store is created.
    """
    tasks = reproductions(list(BASELINES) if baseline == "all" else [baseline], seeds)

    def open_finals() -> FinalsStudy:
        return FinalsStudy.open_or_create(Store.open_or_create(config.storage), BASELINE_FINALS)

    stop, trials = _run(config, open_finals, tasks, make_reporter)
    failed = [trial for trial in trials if trial.is_finished and trial.is_open]
    names = {task.name for task in tasks}
    reported = {recipe.name: recipe.reported.test_accuracy for recipe in BASELINES.values()}
    rows = [
        asdict(row) | {"reported_test_accuracy": reported.get(row.name)}
        for row in seed_statistics(trials)
        if row.name in names
    ]
    return FinalsResult(rows, stop, failed)


def _run(
    config: FinalsConfig,
    open_finals: Callable[[], FinalsStudy],
    tasks: Sequence[FinalTask],
    make_reporter: ReporterFactory,
) -> tuple[Stop | None, list[TrialRecord]]:
    """Train the tasks that are not complete, in finals that are opened after device and data have been checked."""
    device, max_jobs = device_and_jobs(config.device, config.jobs)
    folder = mnist.resolve_data_dir(config.data_dir)
    mnist.verify(folder)
    try:
        finals = open_finals()
        finals.add(tasks)
        jobs = min(max_jobs, sum(trial.is_open for trial in finals.record().current))
        workers = WorkerConfig(
            kind="finals",
            storage=config.storage,
            study=finals.name,
            supervisor=ProcessIdentity.current(),
            data_dir=folder.absolute(),
            device=device,
            precision=config.precision,
        )
        sync = None
        if config.mlflow is not None:
            sync = SyncConfig(
                storage=config.storage, study=finals.name, mlflow=config.mlflow, data_dir=folder.absolute()
            )
        stop = train(workers, sync, jobs, finals.queue, finals.record, make_reporter, config.timeout)
    except (OSError, SQLAlchemyError, StorageInternalError) as error:
        raise failure(error, config.storage) from error
    keys = {task.key for task in tasks}
    return stop, [trial for trial in finals.record().current if trial.task and trial.task.key in keys]
