"""Delete what MLflow has of a study."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from mnist_search.tracking import models, runs
from mnist_search.tracking.config import TrackingConfig, local_file
from mnist_search.tracking.runs import ROLE_TAG, UID_TAG, Tracking, all_pages, suppress_mlflow
from mnist_search.tracking.views import delete_view


class Deleted(NamedTuple):
    """Number of deleted runs, logged models and registered versions."""

    runs: int = 0
    models: int = 0
    versions: int = 0


def delete_from_mlflow(config: TrackingConfig, uids: Iterable[str], linked: Iterable[str]) -> Deleted:
    """Delete the runs, saved views, logged models and registered versions of studies; repeatable after an error.

    MLflow keeps deleted runs until ``mlflow gc``. The files of models are deleted.

    Args:
        config: where the studies were logged.
        uids: of the studies.
        linked: runs of version 0.1, which wrote no uid.

    Raises:
        MlflowException, SQLAlchemyError, OSError, ImportError: MLflow is unavailable.
    """
    file = local_file(config.tracking_uri)
    if file and not file.exists():
        return Deleted()
    runs.raise_log_levels()
    client = MlflowClient(config.tracking_uri)
    experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
    found = {run_id: run for run_id in linked if (run := runs.find_run(client, run_id))}
    for uid in uids:
        query = f"tags.`{UID_TAG}` = '{uid}'"
        search = partial(client.search_runs, experiments, query, ViewType.ALL, max_results=1000)
        found |= {run.info.run_id: run for run in all_pages(search)}
    n_versions = n_models = 0
    for experiment_id in {run.info.experiment_id for run in found.values()}:
        tracking = Tracking(client, experiment_id, "")
        for model in models.list_models(tracking):
            if model.source_run_id in found:
                n_versions += _delete_versions(client, str(model.source_run_id))
                models.delete_model(tracking, model.model_id)
                n_models += 1
    for run_id, run in found.items():
        if run.data.tags.get(ROLE_TAG) == "study":
            delete_view(client, run.info.experiment_id, run_id)
    active = [run_id for run_id, run in found.items() if not runs.is_deleted(run)]
    for run_id in active:
        client.delete_run(run_id)
    return Deleted(len(active), n_models, n_versions)


def _delete_versions(client: MlflowClient, run_id: str) -> int:
    """Delete the registered versions of a run's model, and a registered model without any version left."""
    versions = list(client.search_model_versions(f"run_id = '{run_id}'"))
    for version in versions:
        client.delete_model_version(version.name, version.version)
        if not client.search_model_versions(f"name = '{version.name}'"):
            with suppress_mlflow("RESOURCE_DOES_NOT_EXIST"):
                client.delete_registered_model(version.name)
    return len(versions)
