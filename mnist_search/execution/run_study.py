"""A run of a study, from the checks before anything is written to the last word in MLflow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from experiments import StudyConfig
from mnist_search.errors import DiskError, MnistSearchError, NotFound, UnusableConfiguration
from mnist_search.execution.events import Message
from mnist_search.execution.supervisor import ProgressReporter, Stop, supervise
from mnist_search.execution.sync import TrackerSync
from mnist_search.execution.worker import WorkerConfig, main
from mnist_search.records import StudyRecord
from mnist_search.search.pruners import check_pruner
from mnist_search.search.samplers import check_sampler
from mnist_search.search.stopping import StopConditions
from mnist_search.search.study import SearchStudy
from mnist_search.search.warm_start import enqueue_baselines, enqueue_best, enqueue_templates
from mnist_search.storage.database import Store, file_of
from mnist_search.tracking.base import NullTracker, Tracker
from mnist_search.tracking.config import TrackingConfig, local_file

if TYPE_CHECKING:
    from mnist_search.data.dataset import Digits
    from mnist_search.training.device import PrecisionChoice

WarmStart: TypeAlias = Literal["none", "seeds", "plans"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What one command asks for.

    Attributes:
        experiment: the definition; None to continue whatever the store holds.
        n_trials: trained trials that the study shall hold; None for as many as it was asked before.
        more: trained trials to add to that.
        jobs: worker processes; None for as many as the machine carries.
        mlflow: where runs are written; None for nowhere.
        keep_models: how many trained networks are kept.
        warm_start: what is put first.
        smaller: study of a smaller budget whose best are put first.
    """

    storage: str
    study: str
    config: StudyConfig | None
    n_trials: int | None
    more: int = 0
    jobs: int | None = None
    device: str = "auto"
    precision: PrecisionChoice = "auto"
    data_dir: Path | None = None
    mlflow: TrackingConfig | None = None
    keep_models: int = 5
    warm_start: WarmStart = "none"
    smaller: str | None = None
    limits: StopConditions = field(default_factory=StopConditions)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to.

    Attributes:
        stop: why it ended early; None when the study is full.
    """

    record: StudyRecord
    stop: Stop | None


def run_study(
    run_config: RunConfig, make_reporter: Callable[[Callable[[], StudyRecord], int], ProgressReporter]
) -> RunResult:
    """Bring a study to its n_trials, or as far as its limits and its user let it come.

    Args:
        run_config: what to run.
        make_reporter: given the facts as they stand and the number of workers.

    Raises:
        MnistSearchError: nothing could be run; what was there is as it was.
    """
    try:
        return _run(run_config, make_reporter)
    except (OSError, SQLAlchemyError, StorageInternalError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DiskError(f"cannot write ({reason}); make room, then run the same command again") from error


def _run(
    run_config: RunConfig, make_reporter: Callable[[Callable[[], StudyRecord], int], ProgressReporter]
) -> RunResult:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _validate(run_config)
    full = _is_full(run_config)
    device, most_jobs = ("cpu", 0) if full else device_and_jobs(run_config.device, run_config.jobs)
    data_dir = run_config.data_dir if full else _training_data(run_config.data_dir)
    search_study = _open(run_config)
    record = search_study.record()
    jobs = max(0, min(most_jobs, record.n_trials - len(record.done)))
    screen = make_reporter(search_study.record, jobs)
    with search_study.lock("mirror"):  # or two machines would make two parent runs
        mlflow = _prepare_mlflow(run_config, record, screen)
    tracker = _tracker(mlflow, run_config.study, screen)
    mirror = TrackerSync(
        search_study, tracker, cache(lambda: _validation_images(search_study.config, data_dir))
    )
    mirror.reconcile()
    stop = None
    if jobs:
        assert data_dir is not None  # None only where nothing is left to train
        worker_config = WorkerConfig(
            storage=run_config.storage, study=run_config.study, data_dir=data_dir, device=device,
            precision=run_config.precision, mlflow=mlflow, keep_models=run_config.keep_models,
            limits=run_config.limits,
        )  # fmt: skip
        stop = _supervise(worker_config, jobs, screen, search_study, tracker)
    return RunResult(mirror.reconcile(status="KILLED" if stop and stop.signal else "FINISHED"), stop)


def _supervise(
    worker_config: WorkerConfig,
    jobs: int,
    screen: ProgressReporter,
    search_study: SearchStudy,
    tracker: Tracker,
) -> Stop | None:
    try:
        return supervise(worker_config, jobs, screen, main)
    except MnistSearchError:
        tracker.update_study(search_study.record(), status="FAILED")
        raise
    finally:
        search_study.queue.release_expired()


def _validate(run_config: RunConfig) -> None:
    """Refuse what can be known before anything is loaded or written."""
    if run_config.config is not None:
        check_sampler(run_config.config.sampler)
        check_pruner(run_config.config.pruner)
    store = file_of(run_config.storage)
    if (
        run_config.mlflow
        and run_config.mlflow.artifact_root
        and store == local_file(run_config.mlflow.tracking_uri)
    ):
        raise UnusableConfiguration(
            "Optuna and MLflow cannot share one database: name two with --storage and --tracking-uri"
        )


def _is_full(run_config: RunConfig) -> bool:
    """Whether nothing is left to train, so that neither device nor data are needed.

    Raises:
        NotFound: there is nothing to resume.
        StudyConflict: the study has another definition.
    """
    try:
        search_study = SearchStudy.open(Store.open(run_config.storage), run_config.study)
    except NotFound:
        if run_config.config is None:
            raise
        return False
    if run_config.config is not None:
        search_study.check_same_config(run_config.config)
    record = search_study.record()
    return len(record.done) >= max(run_config.n_trials or 0, record.n_trials) + run_config.more


def device_and_jobs(name: str, jobs: int | None) -> tuple[str, int]:
    """The device, and how many trials it carries at once where ``jobs`` does not say."""
    from mnist_search.training.device import default_jobs, resolve_device

    device = resolve_device(name)
    return device.type, jobs or default_jobs(device)


def _training_data(data_dir: Path | None) -> Path:
    from mnist_search.data import mnist  # numpy

    folder = mnist.find(data_dir)
    mnist.verify(folder, mnist.TRAIN_FILES)
    return folder.absolute()


def _open(run_config: RunConfig) -> SearchStudy:
    if run_config.config is not None:
        store = Store.open_or_create(run_config.storage)
        search_study = SearchStudy.open_or_create(
            store, run_config.study, run_config.config, run_config.n_trials or 1
        )
        if run_config.warm_start == "seeds":
            enqueue_baselines(search_study)
        if run_config.warm_start == "plans":
            enqueue_templates(search_study)
        if run_config.smaller is not None:
            enqueue_best(search_study, SearchStudy.open(store, run_config.smaller).record())
        return search_study
    search_study = SearchStudy.open(Store.open(run_config.storage, write=True), run_config.study)
    search_study.raise_n_trials((run_config.n_trials or search_study.n_trials) + run_config.more)
    return search_study


def _prepare_mlflow(
    run_config: RunConfig, record: StudyRecord, screen: ProgressReporter
) -> TrackingConfig | None:
    if run_config.mlflow is None:
        return None
    from mnist_search.tracking.setup import parent_of, prepare  # a second to import

    return prepare(run_config.mlflow, parent_of(record), lambda text: screen.show(Message(text)))


def _tracker(mlflow: TrackingConfig | None, study: str, screen: ProgressReporter) -> Tracker:
    if mlflow is None:
        return NullTracker()
    from mnist_search.tracking.mlflow_tracker import MlflowTracker  # see above

    return MlflowTracker(mlflow, study, lambda text: screen.show(Message(text)))


def _validation_images(study_config: StudyConfig, data_dir: Path | None) -> Digits:
    from mnist_search.data.dataset import load_split
    from mnist_search.training.device import CPU  # torch

    split = (study_config.train_images, study_config.val_images, study_config.split_seed)
    return load_split(_training_data(data_dir), *split, CPU).val
