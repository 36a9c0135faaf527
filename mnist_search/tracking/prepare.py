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

from mnist_search.facts import StudyFacts
from mnist_search.tracking.place import MlflowPlace, local_file
from mnist_search.tracking.reach import Reach, quieten
from mnist_search.version import __version__

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


def parent_of(facts: StudyFacts) -> Parent:
    """The parent run of a study."""
    experiment = facts.experiment
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
    return Parent(facts.uid, facts.name, params)


def prepare(place: MlflowPlace, parent: Parent, warn: Callable[[str], None]) -> MlflowPlace | None:
    """Find or make the experiment and the parent run; None while MLflow is out of reach.

    Call it in one process before any worker starts: MLflow's first connection makes its schema,
    and two that make it at once break it.
    """
    quieten()
    mlflow.set_tracking_uri(place.tracking_uri)
    file = local_file(place.tracking_uri)
    if file is not None and not file.exists():
        Reach(warn)("its store", lambda: _make_store(file))
    return Reach(warn)("the study", lambda: _prepare(place, parent))


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


def _prepare(place: MlflowPlace, parent: Parent) -> MlflowPlace:
    client = MlflowClient(place.tracking_uri)
    experiment_id = _experiment(client, place)
    query = f"tags.`{STUDY_TAG}` = '{parent.uid}' AND tags.`{ROLE_TAG}` = 'study'"
    found = client.search_runs([experiment_id], query, order_by=["attributes.start_time ASC"])
    run_id = found[0].info.run_id if found else _make(client, experiment_id, parent)
    return replace(place, experiment_id=experiment_id, parent_run_id=run_id)


def _experiment(client: MlflowClient, place: MlflowPlace) -> str:
    found = client.get_experiment_by_name(place.experiment_name)
    if found is None:
        root = Path(place.artifact_root).as_uri() if place.artifact_root else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # runs first, not traces
        return str(client.create_experiment(place.experiment_name, root, kind))
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
