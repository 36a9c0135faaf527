"""Find or create the MLflow experiment and the parent run of a study."""

from __future__ import annotations

import os
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow.entities import LifecycleStage, Run, ViewType
from mlflow.tracking import MlflowClient

from experiments import StudyConfig
from mnist_search import __version__
from mnist_search.storage.tracked import Location, TrackedStudy
from mnist_search.tracking import runs
from mnist_search.tracking.config import TrackingConfig, local_file, sqlite_url
from mnist_search.tracking.runs import ROLE_TAG, STUDY_TAG, UID_TAG, Tracking, run_tags
from mnist_search.tracking.views import save_view
from search_space.ranges import to_text

CREATION_SECONDS = 120.0
"""How long to wait for another process that creates MLflow's database."""


def open_tracking(config: TrackingConfig, study: TrackedStudy) -> Tracking:
    """Connect to MLflow, and find or create the study's experiment and parent run.

    The parent run is that of a search study with its finals, or of the baselines' finals. The study
    remembers both; ``config`` names the experiment of a study that is new in MLflow. A deleted
    experiment or parent run is restored.

    Raises:
        MlflowException, SQLAlchemyError, OSError, ImportError: MLflow is unavailable.
    """
    runs.raise_log_levels()
    if file := local_file(config.tracking_uri):
        create_database(file)
    mlflow.set_tracking_uri(config.tracking_uri)
    client = MlflowClient(config.tracking_uri)
    record = study.parent_record()
    parent = record or study
    remembered = study.location(config.tracking_uri)
    run = runs.find_run(client, remembered.parent_run_id) if remembered else None
    run = run or _find_parent_run(client, parent.uid)
    if run is None:
        tags = run_tags("study") | {UID_TAG: parent.uid, STUDY_TAG: parent.name, "version": __version__}
        run = client.create_run(_experiment_id(client, config), tags=tags, run_name=parent.name)
    _restore(client, run)
    if record is not None:
        client.log_batch(run.info.run_id, params=runs.missing_params(run, study_params(record.config)))
    location = Location(run.info.experiment_id, run.info.run_id)
    study.remember(config.tracking_uri, location)
    tracking = Tracking(client, location.experiment_id, location.parent_run_id, parent.name)
    if record is not None:
        with runs.suppress_mlflow("INVALID_PARAMETER_VALUE"):  # a longer tag than this version accepts
            save_view(tracking)
    return tracking


def create_database(file: Path) -> None:
    """Create MLflow's tables atomically, in one process at a time: MLflow refuses a partly created database."""
    if file.exists():
        return
    lock_file = file.with_name(f".{file.name}.lock")
    lock_file.touch()  # FileLock retries without end in a folder that is not writable
    with FileLock(lock_file, timeout=CREATION_SECONDS):
        if file.exists():
            return
        for left in file.parent.glob(f".{escape(file.name)}.*.new*"):  # by a process that was killed
            left.unlink(missing_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.new")
        try:
            MlflowClient(sqlite_url(temporary)).search_experiments(max_results=1)
            with suppress(FileExistsError):  # another program created the database
                file.hardlink_to(temporary)
        finally:
            temporary.unlink(missing_ok=True)


def study_params(config: StudyConfig) -> dict[str, Any]:
    """The stored configuration, for the params of the parent run."""
    names = ("budget", "fill", "sampler", "pruner", "seed", "train_images", "val_images")
    space = config.space
    of_space = {name: getattr(space, name) for name in ("epochs", "depth", "width")}
    narrowed = {f"range.{name}": to_text(space.distributions[name]) for name in space.params}
    return {name: getattr(config, name) for name in names} | of_space | narrowed


def _find_parent_run(client: MlflowClient, uid: str) -> Run | None:
    """The oldest parent run with this uid in any experiment; an active one before a deleted one."""
    experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
    query = f"tags.`{UID_TAG}` = '{uid}' AND tags.`{ROLE_TAG}` = 'study'"
    found = client.search_runs(experiments, query, ViewType.ALL, order_by=["attributes.start_time ASC"])
    return min(found, key=runs.is_deleted, default=None)


def _restore(client: MlflowClient, run: Run) -> None:
    experiment = client.get_experiment(run.info.experiment_id)
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_experiment(experiment.experiment_id)
        run = client.get_run(run.info.run_id)
    if runs.is_deleted(run):
        client.restore_run(run.info.run_id)


def _experiment_id(client: MlflowClient, config: TrackingConfig) -> str:
    if client.get_experiment_by_name(config.experiment_name) is None:
        root = Path(config.artifact_root).as_uri() if config.artifact_root else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # show runs first, not traces
        with runs.suppress_mlflow("RESOURCE_ALREADY_EXISTS"):  # another process created it
            client.create_experiment(config.experiment_name, root, kind)
    experiment = client.get_experiment_by_name(config.experiment_name)
    assert experiment is not None
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)
