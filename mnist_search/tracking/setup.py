"""Find or create the MLflow experiment and the parent run, before any worker starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow.entities import LifecycleStage
from mlflow.tracking import MlflowClient

from mnist_search import __version__
from mnist_search.records import StudyRecord
from mnist_search.tracking.circuit_breaker import CircuitBreaker
from mnist_search.tracking.config import TrackingConfig, local_file
from mnist_search.tracking.runs import ROLE_TAG, connect, create_run, raise_log_levels

STUDY_TAG = "study.uid"


@dataclass(frozen=True, slots=True)
class ParentRun:
    """The parent run of a study or of reproductions.

    Attributes:
        uid: value of the tag by which the run is found again.
    """

    uid: str
    name: str
    params: Mapping[str, Any]


def parent_run(record: StudyRecord) -> ParentRun:
    """The parent run of a study."""
    config = record.config
    names = ("budget", "fill", "sampler", "pruner", "seed", "train_images", "val_images")
    params = {name: getattr(config, name) for name in names}
    params |= {name: getattr(config.space, name) for name in ("epochs", "depth", "width")}
    return ParentRun(record.uid, record.name, params)


def prepare(config: TrackingConfig, parent: ParentRun, warn: Callable[[str], None]) -> TrackingConfig | None:
    """Find or create the experiment and the parent run; None while MLflow is unavailable.

    Call this in one process before any worker starts: MLflow creates its schema on the first
    connection, and two processes that create it concurrently corrupt it.
    """
    raise_log_levels()
    file = local_file(config.tracking_uri)
    if file is not None and not file.exists():
        CircuitBreaker(warn)("create its database", lambda: _create_database(file))
    return CircuitBreaker(warn)("find or create the parent run", lambda: _prepare(config, parent))


def _create_database(file: Path) -> None:
    """Create MLflow's tables atomically: MLflow refuses a partly created database."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{temporary}").search_experiments(max_results=1)
    temporary.replace(file)


def _prepare(config: TrackingConfig, parent: ParentRun) -> TrackingConfig:
    client = connect(config.tracking_uri)
    config = replace(config, experiment_id=_experiment_id(client, config))
    query = f"tags.`{STUDY_TAG}` = '{parent.uid}' AND tags.`{ROLE_TAG}` = 'study'"
    runs = client.search_runs([config.experiment_id], query, order_by=["attributes.start_time ASC"])
    if runs:
        return replace(config, parent_run_id=runs[0].info.run_id)
    tags = {STUDY_TAG: parent.uid, "study": parent.name, "version": __version__}
    run_id = create_run(client, config, "study", parent.name, tags=tags, params=parent.params)
    return replace(config, parent_run_id=run_id)


def _experiment_id(client: MlflowClient, config: TrackingConfig) -> str:
    experiment = client.get_experiment_by_name(config.experiment_name)
    if experiment is None:
        root = Path(config.artifact_root).as_uri() if config.artifact_root else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # show runs first, not traces
        return str(client.create_experiment(config.experiment_name, root, kind))
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)
