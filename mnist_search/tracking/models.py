"""Models in MLflow: log as ``pt2``, list, delete, register, set the alias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from importlib import metadata

import mlflow.pytorch as flavor
import numpy as np
import torch
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from torch import Tensor, nn

from mnist_search.data.dataset import Digits
from mnist_search.tracking.figures import confusion
from mnist_search.tracking.runs import Tracking, all_pages, suppress_mlflow
from mnist_search.training.evaluate import confusion_matrix, evaluate
from mnist_search.training.model import count

CHAMPION = "champion"

BATCH_SIZE = 250
"""Images per forward pass of the confusion matrix."""

EXAMPLES = 2
"""Batch size of a logged model's input example: torch.export specializes a batch size of 1."""


def log_pt2(
    tracking: Tracking,
    run_id: str,
    network: nn.Module,
    digits: Digits,
    *,
    name: str,
    step: int,
    tags: Mapping[str, str],
    evaluated_on: str = "validation images",
) -> str:
    """Log a network and its confusion matrix under a run; the model's id.

    The network is on the CPU and takes (N, 1, 28, 28) float32 pixels in [0, 1]. The matrix counts
    ``digits``, in words ``evaluated_on``; ``step`` is the number of trained epochs.
    """
    matrix = _confusion_matrix(network, digits)
    client, params = tracking.client, {"num_params": str(count(network))}
    model = client.create_logged_model(
        tracking.experiment_id, name=name, source_run_id=run_id, params=params, tags=dict(tags)
    )
    Model.log(
        None,
        flavor,
        model_id=model.model_id,
        run_id=run_id,
        step=step,
        pytorch_model=network,
        input_example=(digits.images[:EXAMPLES].float() / 255).numpy(),
        pip_requirements=[
            f"torch=={metadata.version('torch').partition('+')[0]}",
            f"numpy=={metadata.version('numpy')}",
        ],
        serialization_format="pt2",
        validate_serving_input=False,
    )
    client.log_figure(run_id, confusion(matrix, evaluated_on), "confusion_matrix.png")
    return str(model.model_id)


def _confusion_matrix(network: nn.Module, digits: Digits) -> np.ndarray:
    """Counts by true and predicted digit; a third of the time that the default layout and batches take."""
    layout = torch.channels_last
    copy = deepcopy(network).eval().to(memory_format=layout)

    def logits(images: Tensor) -> Tensor:
        output: Tensor = copy(images.contiguous(memory_format=layout))
        return output

    return confusion_matrix(evaluate(logits, digits, BATCH_SIZE).predictions, digits.labels).numpy()


def list_models(tracking: Tracking) -> list[LoggedModel]:
    """Logged models of the experiment, oldest first."""
    order = [{"field_name": "creation_timestamp", "ascending": True}]
    experiments = [tracking.experiment_id]
    search = partial(tracking.client.search_logged_models, experiments, max_results=100, order_by=order)
    return list(all_pages(search))


def adopt_model(tracking: Tracking, models: Sequence[LoggedModel]) -> str | None:
    """The id of the first complete model; the others are deleted."""
    adopted = next((model.model_id for model in models if str(model.status) == "READY"), None)
    for model in models:
        if model.model_id != adopted:
            delete_model(tracking, model.model_id)
    return adopted


def delete_model(tracking: Tracking, model_id: str) -> None:
    """Delete a logged model and its files; no error if it no longer exists."""
    with suppress_mlflow("RESOURCE_DOES_NOT_EXIST"):
        location = tracking.client.get_logged_model(model_id).artifact_location
        tracking.client.delete_logged_model(model_id)
        with suppress(MlflowException, OSError):  # its files were not written
            get_artifact_repository(location).delete_artifacts()


def version_of(client: MlflowClient, name: str, run_id: str) -> str | None:
    """The version of a run's model in the registry."""
    found = client.search_model_versions(f"name = '{name}' AND run_id = '{run_id}'")
    return str(found[0].version) if found else None


def register(client: MlflowClient, name: str, model_id: str, run_id: str, tags: Mapping[str, object]) -> str:
    """Register a run's model, with tags, and set the alias ``champion``; the version."""
    with suppress_mlflow("RESOURCE_ALREADY_EXISTS"):
        client.create_registered_model(name)
    version = version_of(client, name, run_id)
    if version is None:
        created = client.create_model_version(name, f"models:/{model_id}", run_id, model_id=model_id)
        version = str(created.version)
    for tag, value in tags.items():
        client.set_model_version_tag(name, version, tag, str(value))
    client.set_registered_model_alias(name, CHAMPION, version)
    return version
