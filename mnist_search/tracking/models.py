"""Models in MLflow: log as ``pt2``, register, set the alias."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mlflow.pytorch as flavor
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from mnist_search.tracking.base import ModelPayload
from mnist_search.tracking.config import TrackingConfig
from mnist_search.tracking.figures import confusion

CHAMPION = "champion"


def log_pt2(
    client: MlflowClient,
    experiment_id: str,
    run_id: str,
    model: ModelPayload,
    name: str,
    tags: dict[str, str],
) -> str:
    """Log a network and its confusion matrix under a run; the model's id."""
    params = {"num_params": str(model.num_params)}
    logged_model = client.create_logged_model(
        experiment_id, name=name, source_run_id=run_id, params=params, tags=tags
    )
    Model.log(
        None,
        flavor,
        model_id=logged_model.model_id,
        run_id=run_id,
        step=model.step,
        pytorch_model=model.network,
        input_example=model.example,
        pip_requirements=list(model.requirements),
        serialization_format="pt2",
        validate_serving_input=False,
    )
    client.log_figure(run_id, confusion(model.confusion, model.evaluated_on), "confusion_matrix.png")
    return str(logged_model.model_id)


class Registry:
    """Logged and registered models of one experiment.

    Args:
        config: with the experiment that holds their runs.
    """

    def __init__(self, config: TrackingConfig) -> None:
        self._client = MlflowClient(config.tracking_uri)
        self._config = config

    def log(self, name: str, run_id: str, make: Callable[[], ModelPayload], tags: dict[str, str]) -> str:
        """The id of the model that is logged under a run; logs the result of ``make`` if none is."""
        experiment_id = self._config.experiment_id
        models = self._client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
        if models:
            return str(models[0].model_id)
        return log_pt2(self._client, experiment_id, run_id, make(), name, tags)

    def register(self, name: str, model_id: str, run_id: str) -> str:
        """The version of a registered model for this run, created if it is missing."""
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for version in self._client.search_model_versions(f"name = '{name}'"):
            if version.run_id == run_id:
                return str(version.version)
        version = self._client.create_model_version(name, f"models:/{model_id}", run_id, model_id=model_id)
        return str(version.version)

    def set_champion_alias(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set the alias ``champion`` to a version, with its evaluation as tags."""
        for tag, value in tags.items():
            self._client.set_model_version_tag(name, version, tag, value)
        self._client.set_registered_model_alias(name, CHAMPION, version)
