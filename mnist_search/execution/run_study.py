"""Run a study: validate, open the store, supervise the workers and the sync process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeAlias

import cloudpickle
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from mnist_search.data import mnist
from mnist_search.devices import MAX_TRIALS_PER_GPU, default_jobs, resolve_devices
from mnist_search.errors import (
    MnistSearchError,
    NoFinishedTrials,
    StudyConflict,
    TryAgain,
    UnusableConfiguration,
    UsageError,
)
from mnist_search.execution.config import ReadRecord, RunConfig
from mnist_search.execution.events import Stop
from mnist_search.execution.process import ModuleProcess, SyncRunner
from mnist_search.execution.supervisor import ProgressReporter, Supervisor, WorkerHandle
from mnist_search.records import StudyRecord
from mnist_search.search.configurations import check_size
from mnist_search.search.pruners import check_pruner
from mnist_search.search.samplers import check_sampler, class_path
from mnist_search.search.study import DEFAULT_TRIALS, SearchStudy, quiet_optuna, stored_study
from mnist_search.search.warm_start import enqueue_baselines, enqueue_best, enqueue_templates
from mnist_search.storage.database import Store, failure, retry
from mnist_search.storage.queue import TrialQueue
from mnist_search.storage.urls import sqlite_path
from mnist_search.tracking.config import local_file

WORKER, SYNC = "mnist_search.execution.worker", "mnist_search.execution.sync_process"
"""Modules that the started processes run."""

DISPLAY_SECONDS = 1.0
"""How long the display of the progress waits for a locked store."""

ReporterFactory: TypeAlias = Callable[..., AbstractContextManager[ProgressReporter]]
"""Makes a reporter from a function that reads the study and the number of concurrent trials.

Optionally it takes ``started``, when the command started by ``time.monotonic``, for the elapsed time.
"""


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
        config = _checked(run_config)
        if retry(partial(_is_done, config)):
            config = replace(config, jobs=None)
        else:
            config = with_device_and_data(config, mnist.TRAIN_FILES)
        search_study = _open(config)
        n_before = len(search_study.record().done)
        stop = train(config, search_study.queue, make_reporter)
        record = search_study.record()
    except (OSError, SQLAlchemyError, StorageInternalError) as error:
        raise failure(error, run_config.storage) from error
    if stop and not stop.signal and not record.done:
        raise NoFinishedTrials(f"{stop.reason} before any trial finished; allow more time")
    return RunResult(record, stop, len(record.done) - n_before)


def train(config: RunConfig, queue: TrialQueue, make_reporter: ReporterFactory) -> Stop | None:
    """Run the processes of one command on an existing study of either kind.

    Args:
        config: with device and data; without ``jobs`` nothing is trained.
        queue: of the study, which is open for writing.
        make_reporter: makes the display.

    Returns:
        Why the workers were stopped early.

    Raises:
        MnistSearchError: the error of a worker.
        TryAgain: too many workers crashed, and trials are left.
    """
    shown = retry(lambda: config.open_study(Store.open(config.storage, busy_seconds=DISPLAY_SECONDS)))
    read_record: ReadRecord = shown.record
    record = retry(read_record)
    # The sync process does not need the sampler, whose classes it might not be able to import.
    start_sync = partial(ModuleProcess, SYNC, replace(config, sampler=None)) if config.mlflow else None
    with ExitStack() as stack:
        launcher = stack.enter_context(open_launcher(config, record.n_left))
        workers = launcher.worker_configs(record.n_left)
        n_jobs = sum(worker.trial_threads for worker in workers)
        reporter = stack.enter_context(make_reporter(read_record, n_jobs))
        supervisor = Supervisor(launcher.start, reporter, SyncRunner(start_sync), config.finish_running)
        with supervisor.handling_signals():
            try:
                stop = supervisor.run_workers(workers, config.stop_conditions.timeout)
            except MnistSearchError:
                retry(partial(queue.release_expired, count_crashes=False))
                supervisor.finish_sync("FAILED")
                raise
            retry(partial(queue.release_expired, count_crashes=stop is None))
            record = retry(read_record)
            is_done = not record.n_left
            has_crashed = supervisor.restarts and not stop and not is_done
            if is_done:  # the running trials were the last ones
                stop = supervisor.stop
            supervisor.finish_sync("KILLED" if has_crashed or (stop and stop.signal) else "FINISHED")
    if has_crashed:
        raise TryAgain(
            f"workers crashed {supervisor.restarts} times; if the machine is short of memory, use fewer "
            "with --jobs, then run the same command again"
        )
    return supervisor.stop or stop


class Launcher(Protocol):
    """Starts the workers of one command."""

    def worker_configs(self, n_left: int) -> list[RunConfig]:
        """The configs of the workers for the trials that are left."""

    def start(self, config: RunConfig, /) -> WorkerHandle:
        """Start a worker."""


class ProcessLauncher:
    """Workers are processes of this machine."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def worker_configs(self, n_left: int) -> list[RunConfig]:
        """A process per job on the CPU, or one per GPU."""
        return worker_configs(self._config, n_left)

    def start(self, config: RunConfig) -> ModuleProcess:
        """Start a process."""
        return ModuleProcess(WORKER, config)


def open_launcher(config: RunConfig, n_left: int = 1) -> AbstractContextManager[Launcher]:
    """The launcher of a command for the trials that are left, until the context ends."""
    if config.engine == "processes" or not n_left:  # without trials, Ray would start in vain
        return nullcontext(ProcessLauncher(config))
    from mnist_search.execution.ray_launcher import ray_launcher

    return ray_launcher(config)


def _checked(run_config: RunConfig) -> RunConfig:
    """Check what needs neither heavy imports nor the store, and note the class of a sampler object."""
    config, sampler, mlflow = run_config.config, run_config.sampler, run_config.mlflow
    try:
        cloudpickle.dumps(sampler)
    except Exception as error:  # whatever its attributes raise
        raise UsageError(f"the sampler cannot be sent to worker processes: {error}") from error
    if mlflow and mlflow.artifact_root and sqlite_path(run_config.storage) == local_file(mlflow.tracking_uri):
        raise UnusableConfiguration(
            "Optuna and MLflow cannot share a database; name two with --storage and --tracking-uri"
        )
    if config is None:
        return run_config
    check_pruner(config.pruner)
    if sampler is not None:
        return replace(run_config, config=replace(config, sampler=class_path(sampler)))
    check_sampler(config.sampler)
    return run_config


def with_device_and_data(config: RunConfig, files: Iterable[str]) -> RunConfig:
    """The config with the device of this machine, a number of jobs, and the folder of verified MNIST files.

    Raises:
        UnusableConfiguration: this machine has no such device.
        Unavailable: a file is missing.
    """
    folder = mnist.resolve_data_dir(config.data_dir)
    mnist.verify(folder, files)
    if config.engine == "ray":  # whose nodes have devices of their own
        return replace(config, data_dir=folder.absolute())
    devices = resolve_devices(config.device)
    jobs = config.jobs or default_jobs(devices[0])
    return replace(config, device=",".join(devices), jobs=jobs, data_dir=folder.absolute())


def worker_configs(config: RunConfig, n_left: int) -> list[RunConfig]:
    """The configs of the workers for the trials that are left: a process per job on the CPU, or one per GPU.

    A GPU takes turns between processes, but overlaps the work of threads of one (experiments/LOG.md).
    """
    jobs, devices = config.jobs or 0, config.device.split(",")
    if not devices[0].startswith("cuda"):
        return [config] * min(jobs, n_left)
    trials = [n_left // len(devices) + (i < n_left % len(devices)) for i in range(len(devices))]
    return [
        replace(config, device=device, trial_threads=min(jobs, n, MAX_TRIALS_PER_GPU))
        for device, n in zip(devices, trials, strict=True)
        if n and jobs
    ]


def _is_done(run_config: RunConfig) -> bool:
    """Check the stored study; True if no trial is left to train, which needs neither device nor data."""
    if run_config.config is not None and stored_study(run_config.storage, run_config.study) is None:
        check_size(run_config.config, run_config.n_trials or DEFAULT_TRIALS)
        return False
    search_study = SearchStudy.open(Store.open(run_config.storage), run_config.study)
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


def _open(run_config: RunConfig) -> SearchStudy:
    name, config = run_config.study, run_config.config
    if config is None:
        search_study = retry(lambda: SearchStudy.open(Store.open(run_config.storage, write=True), name))
        search_study.raise_n_trials((run_config.n_trials or search_study.n_trials) + run_config.extra_trials)
        return search_study
    store = retry(partial(Store.open_or_create, run_config.storage))
    search_study = retry(partial(SearchStudy.open_or_create, store, name, config, run_config.n_trials))
    if run_config.smaller_study is not None:
        enqueue_best(search_study, SearchStudy.open(store, run_config.smaller_study).record())
    if run_config.warm_start == "baselines":
        enqueue_baselines(search_study)
    if run_config.warm_start == "templates":
        enqueue_templates(search_study)
    return search_study
