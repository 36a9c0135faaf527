"""The MLflow experiment and the study's parent run, found or made before any worker starts."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LifecycleStage, Param
from mlflow.tracking import MlflowClient

from mnist_search import __version__
from mnist_search.records import StudyRecord
from mnist_search.tracking.circuit_breaker import CircuitBreaker, quieten
from mnist_search.tracking.config import TrackingConfig, local_file

STUDY_TAG, ROLE_TAG = "study.uid", "role"


@dataclass(frozen=True, slots=True)
class Parent:
    """The run under which others stand.

    Attributes:
        uid: finds it again.
    """

    uid: str
    name: str
    params: Mapping[str, Any]


def parent_of(record: StudyRecord) -> Parent:
    """The parent run of a study."""
    experiment = record.config
    params = {
        "budget": experiment.budget,
        "fill": experiment.fill,
        "sampler": experiment.sampler,
        "pruner": experiment.pruner,
        "seed": experiment.seed,
        "epochs": experiment.space.epochs,
        "depth": experiment.space.depth,
        "width": experiment.space.width,
        "train_images": experiment.train_images,
        "val_images": experiment.val_images,
    }
    return Parent(record.uid, record.name, params)


def prepare(config: TrackingConfig, parent: Parent, warn: Callable[[str], None]) -> TrackingConfig | None:
    """Find or make the experiment and the parent run; None while MLflow is out of reach.

    Call it in one process before any worker starts: MLflow's first connection makes its schema,
    and two that make it at once break it.
    """
    quieten()
    mlflow.set_tracking_uri(config.tracking_uri)
    file = local_file(config.tracking_uri)
    if file is not None and not file.exists():
        CircuitBreaker(warn)("its store", lambda: _make_store(file))
    return CircuitBreaker(warn)("the study", lambda: _prepare(config, parent))


def _make_store(file: Path) -> None:
    """Make MLflow's tables in one step: MLflow refuses a file whose making was cut short."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{fresh}").search_experiments(max_results=1)
    fresh.replace(file)


def user() -> str:
    """Who runs this; a container may run under a number that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _prepare(config: TrackingConfig, parent: Parent) -> TrackingConfig:
    client = MlflowClient(config.tracking_uri)
    experiment_id = _experiment(client, config)
    query = f"tags.`{STUDY_TAG}` = '{parent.uid}' AND tags.`{ROLE_TAG}` = 'study'"
    found = client.search_runs([experiment_id], query, order_by=["attributes.start_time ASC"])
    run_id = found[0].info.run_id if found else _make(client, experiment_id, parent)
    return replace(config, experiment_id=experiment_id, parent_run_id=run_id)


def _experiment(client: MlflowClient, config: TrackingConfig) -> str:
    found = client.get_experiment_by_name(config.experiment_name)
    if found is None:
        root = Path(config.artifact_root).as_uri() if config.artifact_root else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # runs first, not traces
        return str(client.create_experiment(config.experiment_name, root, kind))
    if found.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _make(client: MlflowClient, experiment_id: str, parent: Parent) -> str:
    tags: dict[str, Any] = {
        STUDY_TAG: parent.uid,
        ROLE_TAG: "study",
        "study": parent.name,
        "mlflow.user": user(),
        "mlflow.source.name": "mnist-search",
        "version": __version__,
    }
    run = client.create_run(experiment_id, tags=tags, run_name=parent.name)
    client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in parent.params.items()])
    run_id: str = run.info.run_id
    return run_id
