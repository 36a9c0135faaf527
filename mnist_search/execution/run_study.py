"""Run a study: validate, open the store, supervise the workers and the sync process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import cloudpickle
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from mnist_search.data import mnist
from mnist_search.errors import (
    MnistSearchError,
    NoFinishedTrials,
    NotFound,
    StudyConflict,
    TryAgain,
    UnusableConfiguration,
    UsageError,
)
from mnist_search.execution.config import RunConfig, SyncConfig, WorkerConfig
from mnist_search.execution.process import ModuleProcess
from mnist_search.execution.supervisor import ProgressReporter, Stop, Supervisor
from mnist_search.execution.sync_runner import SyncRunner
from mnist_search.records import FinalsRecord, StudyRecord
from mnist_search.search.pruners import check_pruner
from mnist_search.search.samplers import check_sampler, class_path
from mnist_search.search.study import SearchStudy, quiet_optuna
from mnist_search.search.warm_start import enqueue_baselines, enqueue_best, enqueue_templates
from mnist_search.storage.database import Store, failure, retry
from mnist_search.storage.leases import ProcessIdentity
from mnist_search.storage.queue import TrialQueue
from mnist_search.storage.urls import sqlite_path
from mnist_search.tracking.config import local_file

WORKER, SYNC = "mnist_search.execution.worker", "mnist_search.execution.sync_process"
"""Modules that the started processes run."""

DISPLAY_SECONDS = 1.0
"""How long the display of the progress waits for a locked store."""

ReadRecord: TypeAlias = Callable[[], StudyRecord | FinalsRecord]
ReporterFactory: TypeAlias = Callable[[ReadRecord, int], AbstractContextManager[ProgressReporter]]
"""Makes a reporter from a function that reads the study and the number of workers."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of a run.

    Attributes:
        stop: why the run stopped early; None if the study is done.
        n_finished: number of trials that finished during the run.
    """

    record: StudyRecord
    stop: Stop | None
    n_finished: int


@quiet_optuna()
def run_study(run_config: RunConfig, make_reporter: ReporterFactory) -> RunResult:
    """Train a study until it has its number of trials, a stop condition is met or a signal arrives.

    Raises:
        MnistSearchError: the study cannot be run; the store is unchanged if no worker has started.
    """
    try:
        return _run(run_config, make_reporter)
    except (OSError, SQLAlchemyError, StorageInternalError) as error:
        raise failure(error, run_config.storage) from error


def _run(run_config: RunConfig, make_reporter: ReporterFactory) -> RunResult:
    _check_sampler_object(run_config)
    run_config = _with_noted_sampler(run_config)
    _validate(run_config)
    is_done = _is_done(run_config)
    device, max_jobs = ("cpu", 0) if is_done else device_and_jobs(run_config.device, run_config.jobs)
    data_dir = run_config.data_dir if is_done else training_data(run_config.data_dir)
    search_study = _open(run_config)
    record = search_study.record()
    jobs = max(0, min(max_jobs, record.n_trials - len(record.done)))
    workers = None
    if jobs and data_dir is not None:
        workers = WorkerConfig(
            kind="search",
            storage=run_config.storage,
            study=run_config.study,
            supervisor=ProcessIdentity.current(),
            data_dir=data_dir,
            device=device,
            precision=run_config.precision,
            sampler=run_config.sampler,
            keep_models=run_config.keep_models,
            stop_conditions=run_config.stop_conditions,
        )
    sync = None
    if run_config.mlflow is not None:
        sync = SyncConfig(
            storage=run_config.storage, study=run_config.study, mlflow=run_config.mlflow, data_dir=data_dir
        )
    stop = train(
        workers,
        sync,
        jobs,
        search_study.queue,
        SearchStudy.open(
            Store.open(run_config.storage, busy_seconds=DISPLAY_SECONDS), run_config.study
        ).record,
        make_reporter,
        run_config.stop_conditions.timeout,
    )
    final = search_study.record()
    if stop and not stop.signal and not final.done:
        raise NoFinishedTrials(f"{stop.reason} before any trial finished; allow more time")
    return RunResult(final, stop, len(final.done) - len(record.done))


def train(
    workers: WorkerConfig | None,
    sync: SyncConfig | None,
    jobs: int,
    queue: TrialQueue,
    read_record: ReadRecord,
    make_reporter: ReporterFactory,
    timeout: float | None,
) -> Stop | None:
    """Run the processes of one command on a study of either kind.

    Args:
        workers: None if nothing is to train.
        sync: None without MLflow.
        jobs: number of workers.
        queue: of the study.
        read_record: reads the study.
        make_reporter: makes the display.
        timeout: seconds until the workers are stopped.

    Returns:
        Why the workers were stopped early.

    Raises:
        MnistSearchError: the error of a worker.
        TryAgain: too many workers crashed, and trials are left.
    """
    with make_reporter(read_record, jobs) as reporter:
        supervisor = Supervisor(
            partial(ModuleProcess.start, WORKER, workers),
            reporter,
            SyncRunner(partial(ModuleProcess.start, SYNC, sync) if sync else None),
        )
        with supervisor.handling_signals():
            try:
                stop = supervisor.run_workers(jobs if workers else 0, timeout)
            except MnistSearchError:
                queue.release_expired(count_crashes=False)
                supervisor.finish_sync("FAILED")
                raise
            queue.release_expired(count_crashes=stop is None)
            record = retry(read_record)
            is_done = len(record.done) >= record.n_trials
            has_crashed = supervisor.restarts and not stop and not is_done
            supervisor.finish_sync("KILLED" if has_crashed or (stop and stop.signal) else "FINISHED")
    if has_crashed:
        raise TryAgain(
            f"workers crashed {supervisor.restarts} times; if the machine is short of memory, use fewer "
            "with --jobs, then run the same command again"
        )
    return supervisor.stop


def _check_sampler_object(run_config: RunConfig) -> None:
    """Check that the workers can receive the sampler object.

    Raises:
        UsageError: it cannot be pickled.
    """
    try:
        cloudpickle.dumps(run_config.sampler)
    except Exception as error:  # whatever its attributes raise
        raise UsageError(f"the sampler cannot be sent to worker processes: {error}") from error


def _with_noted_sampler(run_config: RunConfig) -> RunConfig:
    """Note the class of a sampler object in the StudyConfig."""
    if run_config.sampler is None or run_config.config is None:
        return run_config
    return replace(run_config, config=replace(run_config.config, sampler=class_path(run_config.sampler)))


def _validate(run_config: RunConfig) -> None:
    """Check what needs neither heavy imports nor the store."""
    if run_config.config is not None:
        if run_config.sampler is None:
            check_sampler(run_config.config.sampler)
        check_pruner(run_config.config.pruner)
    mlflow = run_config.mlflow
    if mlflow and mlflow.artifact_root and sqlite_path(run_config.storage) == local_file(mlflow.tracking_uri):
        raise UnusableConfiguration(
            "Optuna and MLflow cannot share a database; name two with --storage and --tracking-uri"
        )


def _is_done(run_config: RunConfig) -> bool:
    """Whether no trial is left to train, so that neither device nor data are needed.

    Raises:
        NotFound: there is no study to resume.
        StudyConflict: the study has another configuration.
    """
    try:
        search_study = SearchStudy.open(Store.open(run_config.storage), run_config.study)
    except NotFound:
        if run_config.config is None:
            raise
        return False
    if run_config.sampler is None:
        check_sampler(search_study.config.sampler)  # an older version had others
    elif search_study.config.sampler != class_path(run_config.sampler):
        raise StudyConflict(
            f"study {run_config.study!r} is searched with {search_study.config.sampler}, not with "
            f"{class_path(run_config.sampler)}; create another study"
        )
    if run_config.config is not None:
        search_study.check_same_config(run_config.config)
    record = search_study.record()
    return len(record.done) >= max(run_config.n_trials or 0, record.n_trials) + run_config.extra_trials


def device_and_jobs(name: str, jobs: int | None) -> tuple[str, int]:
    """Type of the device, and number of workers: ``jobs``, or the default of the device.

    Raises:
        UnusableConfiguration: this machine has no such device.
    """
    from mnist_search.training.device import default_jobs, resolve_device  # imports torch

    device = resolve_device(name)
    return device.type, jobs or default_jobs(device)


def training_data(data_dir: Path | None) -> Path:
    """The folder of the training images, absolute.

    Raises:
        Unavailable: there are none.
    """
    folder = mnist.resolve_data_dir(data_dir)
    mnist.verify(folder, mnist.TRAIN_FILES)
    return folder.absolute()


def _open(run_config: RunConfig) -> SearchStudy:
    name, config = run_config.study, run_config.config
    if config is None:
        search_study = SearchStudy.open(Store.open(run_config.storage, write=True), name)
        search_study.raise_n_trials((run_config.n_trials or search_study.n_trials) + run_config.extra_trials)
        return search_study
    store = Store.open_or_create(run_config.storage)
    search_study = SearchStudy.open_or_create(store, name, config, run_config.n_trials)
    if run_config.smaller_study is not None:
        enqueue_best(search_study, SearchStudy.open(store, run_config.smaller_study).record())
    if run_config.warm_start == "baselines":
        enqueue_baselines(search_study)
    if run_config.warm_start == "templates":
        enqueue_templates(search_study)
    return search_study
