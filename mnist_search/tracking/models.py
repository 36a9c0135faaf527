"""Models in MLflow: log as ``pt2``, list, delete, register, set the alias."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import mlflow.pytorch as flavor
import numpy as np
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from torch import nn

from mnist_search.tracking.figures import confusion
from mnist_search.tracking.runs import Tracking

CHAMPION = "champion"

MODEL_EXAMPLES = 2
"""Batch size of a logged model's input example: torch.export specializes a batch size of 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPayload:
    """A trained network to log.

    Attributes:
        network: on the CPU, in evaluation mode, taking (N, 1, 28, 28) float32 pixels in [0, 1].
        example: (MODEL_EXAMPLES, 1, 28, 28) float32.
        confusion: (10, 10) counts, a row per true digit.
        step: number of trained epochs.
        evaluated_on: the images that ``confusion`` counts, in words.
    """

    network: nn.Module
    example: np.ndarray
    confusion: np.ndarray
    num_params: int
    step: int
    requirements: Sequence[str] = field(default_factory=tuple)
    evaluated_on: str = "validation images"


def log_pt2(tracking: Tracking, run_id: str, model: ModelPayload, name: str, tags: Mapping[str, str]) -> str:
    """Log a network and its confusion matrix under a run; the model's id."""
    client = tracking.client
    logged_model = client.create_logged_model(
        tracking.experiment_id,
        name=name,
        source_run_id=run_id,
        params={"num_params": str(model.num_params)},
        tags=dict(tags),
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


def list_models(tracking: Tracking, belongs: Callable[[LoggedModel], bool]) -> list[LoggedModel]:
    """Logged models of the experiment that belong to a study, oldest first."""
    models: list[LoggedModel] = []
    token = None
    order = [{"field_name": "creation_timestamp", "ascending": True}]
    while True:
        page = tracking.client.search_logged_models(
            [tracking.experiment_id], max_results=100, order_by=order, page_token=token
        )
        models += [model for model in page if belongs(model)]
        token = page.token
        if not token:
            return models


def adopt_model(tracking: Tracking, models: Sequence[LoggedModel]) -> str | None:
    """The id of the first complete model; the others are deleted."""
    complete = [model.model_id for model in models if str(model.status) == "READY"]
    adopted = next(iter(complete), None)
    for model in models:
        if model.model_id != adopted:
            delete_model(tracking, model.model_id)
    return adopted


def delete_model(tracking: Tracking, model_id: str) -> None:
    """Delete a logged model and its files; no error if it no longer exists."""
    try:
        location = tracking.client.get_logged_model(model_id).artifact_location
        tracking.client.delete_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return
    with suppress(MlflowException, OSError):  # its files were not written
        get_artifact_repository(location).delete_artifacts()


class Registry:
    """Versions of one registered model."""

    def __init__(self, tracking: Tracking, name: str) -> None:
        self._tracking = tracking
        self._client = tracking.client
        self.name = name

    def log(self, run_id: str, make: Callable[[], ModelPayload], tags: Mapping[str, str]) -> str:
        """The id of the model that is logged under a run; logs the result of ``make`` if none is complete."""
        models = list_models(self._tracking, lambda model: model.source_run_id == run_id)
        return adopt_model(self._tracking, models) or log_pt2(self._tracking, run_id, make(), self.name, tags)

    def version_of(self, run_id: str) -> str | None:
        """The version of a run's model."""
        with suppress(MlflowException):  # no such registered model
            for version in self._client.search_model_versions(f"name = '{self.name}'"):
                if version.run_id == run_id:
                    return str(version.version)
        return None

    def register(self, model_id: str, run_id: str, tags: Mapping[str, str]) -> str:
        """The version of a run's model, created if it is missing, with its evaluation as tags."""
        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self.version_of(run_id)
        if version is None:
            uri = f"models:/{model_id}"
            version = str(
                self._client.create_model_version(self.name, uri, run_id, model_id=model_id).version
            )
        for tag, value in tags.items():
            self._client.set_model_version_tag(self.name, version, tag, value)
        return version

    def champion(self) -> str | None:
        """The version with the alias ``champion``."""
        try:
            return str(self._client.get_model_version_by_alias(self.name, CHAMPION).version)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise

    def set_champion(self, version: str) -> None:
        """Set the alias ``champion``."""
        self._client.set_registered_model_alias(self.name, CHAMPION, version)
