"""Networks in MLflow: logged as ``pt2``, registered, crowned."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from mnist_search.tracking.base import ModelPayload
from mnist_search.tracking.config import TrackingConfig

CHAMPION = "champion"


def log_pt2(
    client: MlflowClient,
    experiment_id: str,
    run_id: str,
    model: ModelPayload,
    name: str,
    tags: dict[str, str],
) -> str:
    """Log a network, with its confusion matrix beside it, under a run; the model's id."""
    import mlflow.pytorch as flavor  # torch, which a supervisor may never need

    created = client.create_logged_model(
        experiment_id,
        name=name,
        source_run_id=run_id,
        params={"num_params": str(model.num_params)},
        tags=tags,
    )
    Model.log(
        None,
        flavor,
        model_id=created.model_id,
        run_id=run_id,
        step=model.step,
        pytorch_model=model.network,
        input_example=model.example,
        pip_requirements=list(model.requirements),
        serialization_format="pt2",
        validate_serving_input=False,
    )
    from mnist_search.tracking.figures import confusion  # matplotlib

    client.log_figure(run_id, confusion(model.confusion, model.judged_on), "confusion_matrix.png")
    model_id: str = created.model_id
    return model_id


class Registry:
    """Registered models of one experiment.

    Args:
        place: with the experiment that holds their runs.
    """

    def __init__(self, config: TrackingConfig) -> None:
        self._client = MlflowClient(config.tracking_uri)
        self._config = config

    def log(self, name: str, run_id: str, make: Callable[[], ModelPayload], tags: dict[str, str]) -> str:
        """The id of the model that is logged under a run, logged unless it was."""
        found = self._client.search_logged_models([self._config.experiment_id], f"source_run_id = '{run_id}'")
        if found:
            return str(found[0].model_id)
        return log_pt2(self._client, self._config.experiment_id, run_id, make(), name, tags)

    def register(self, name: str, model_id: str, run_id: str) -> str:
        """The version of a registered model that is this logged one, made unless there is one."""
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for version in self._client.search_model_versions(f"name = '{name}'"):
            if version.run_id == run_id:
                return str(version.version)
        made = self._client.create_model_version(name, f"models:/{model_id}", run_id, model_id=model_id)
        return str(made.version)

    def set_champion_alias(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Make a version the champion, with what proves it as tags."""
        for tag, value in tags.items():
            self._client.set_model_version_tag(name, version, tag, value)
        self._client.set_registered_model_alias(name, CHAMPION, version)
