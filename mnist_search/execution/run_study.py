"""Run a study: validate, open store and tracker, supervise the workers, sync."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from experiments import StudyConfig
from mnist_search.data import mnist
from mnist_search.errors import IO_ERROR, DiskError, MnistSearchError, NotFound, UnusableConfiguration
from mnist_search.execution.config import RunConfig, WorkerConfig
from mnist_search.execution.events import Message
from mnist_search.execution.runtime import run_worker
from mnist_search.execution.supervisor import ProgressReporter, Stop, supervise
from mnist_search.execution.sync import TrackerSync, make_tracker
from mnist_search.records import StudyRecord
from mnist_search.search.pruners import check_pruner
from mnist_search.search.samplers import check_sampler
from mnist_search.search.study import SearchStudy
from mnist_search.search.warm_start import enqueue_baselines, enqueue_best, enqueue_templates
from mnist_search.storage.database import Store, sqlite_path
from mnist_search.tracking.config import TrackingConfig, local_file

if TYPE_CHECKING:
    from mnist_search.data.dataset import Digits

ReporterFactory: TypeAlias = Callable[
    [Callable[[], StudyRecord], int], AbstractContextManager[ProgressReporter]
]
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


def run_study(run_config: RunConfig, make_reporter: ReporterFactory) -> RunResult:
    """Train a study until it has its number of trials, a stop condition is met or a signal arrives.

    Raises:
        MnistSearchError: the study cannot be run; the store is unchanged if no worker has started.
    """
    try:
        return _run(run_config, make_reporter)
    except (OSError, SQLAlchemyError, StorageInternalError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DiskError(IO_ERROR.format(reason)) from error


def _run(run_config: RunConfig, make_reporter: ReporterFactory) -> RunResult:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _validate(run_config)
    is_done = _is_done(run_config)
    device, max_jobs = ("cpu", 0) if is_done else device_and_jobs(run_config.device, run_config.jobs)
    data_dir = None if is_done else _training_data(run_config.data_dir)
    search_study = _open(run_config)
    record = search_study.record()
    jobs = max(0, min(max_jobs, record.n_trials - len(record.done)))
    with make_reporter(search_study.record, jobs) as reporter:

        def warn(text: str) -> None:
            reporter.handle(Message(text))

        with search_study.lock("mirror"):  # so that two machines create one parent run
            mlflow = _prepare_mlflow(run_config.mlflow, record, warn)
        tracker = make_tracker(mlflow, run_config.study, warn)
        load_val = cache(partial(_validation_images, search_study.config, data_dir or run_config.data_dir))
        sync = TrackerSync(search_study, tracker, load_val)
        sync.sync()
        stop = None
        if data_dir is not None and jobs:
            worker_config = WorkerConfig(
                storage=run_config.storage,
                study=run_config.study,
                data_dir=data_dir,
                device=device,
                precision=run_config.precision,
                mlflow=mlflow,
                keep_models=run_config.keep_models,
                stop_conditions=run_config.stop_conditions,
            )
            try:
                stop = supervise(
                    partial(run_worker, worker_config), jobs, reporter, run_config.stop_conditions.timeout
                )
            except MnistSearchError:
                tracker.update_study(search_study.record(), status="FAILED")
                raise
            finally:
                search_study.queue.release_expired()
        final = sync.sync(status="KILLED" if stop and stop.signal else "FINISHED")
        return RunResult(final, stop, len(final.done) - len(record.done))


def _validate(run_config: RunConfig) -> None:
    """Check what needs neither heavy imports nor the store."""
    if run_config.config is not None:
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
    check_sampler(search_study.config.sampler)  # an older version had others
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


def _training_data(data_dir: Path | None) -> Path:
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


def _prepare_mlflow(
    config: TrackingConfig | None, record: StudyRecord, warn: Callable[[str], None]
) -> TrackingConfig | None:
    if config is None:
        return None
    from mnist_search.tracking.setup import parent_run, prepare  # imports MLflow

    return prepare(config, parent_run(record), warn)


def _validation_images(config: StudyConfig, data_dir: Path | None) -> Digits:
    from mnist_search.data.dataset import load_split  # imports torch
    from mnist_search.training.device import CPU

    return load_split(_training_data(data_dir), *config.split, CPU).val
