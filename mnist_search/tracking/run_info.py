"""Run info and model payloads from stored trials."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments import StudyConfig
from mnist_search.data.dataset import Digits, load_test
from mnist_search.records import FinalTask, TrialRecord
from mnist_search.tracking.base import MODEL_EXAMPLES, ModelPayload, RunInfo
from mnist_search.training.evaluate import confusion_matrix, evaluate
from mnist_search.training.model import count, load_network
from search_space import Architecture


def trial_run_info(study_config: StudyConfig, number: int, params: Mapping[str, Any], seed: int) -> RunInfo:
    """The values of a trial's run that are known before training."""
    architecture = study_config.space.architecture(params)
    return RunInfo(
        number=number,
        num_params=architecture.num_params(),
        params=study_config.space.describe(params) | {"budget": study_config.budget, "trial_seed": seed},
        seed=study_config.seed,
        layer_table=architecture.layer_table(),
    )


def model_payload(study_config: StudyConfig, trial: TrialRecord, weights: bytes, val: Digits) -> ModelPayload:
    """A kept network, loaded from its weights, counted and evaluated on the validation images.

    Raises:
        ValueError: the stored network exceeds the budget.
    """
    architecture = study_config.space.architecture(trial.params)
    payload = _payload(architecture, weights, val, trial.epochs, "validation images")
    if payload.num_params > study_config.budget:
        raise ValueError(f"trial {trial.number} has {payload.num_params:,} parameters")
    return payload


def final_payload(task: FinalTask, weights: bytes, data_dir: Path) -> ModelPayload:
    """A network of a final training run, loaded from its weights and evaluated on the test images."""
    return _payload(task.architecture, weights, load_test(data_dir), task.training.epochs, "test images")


def _payload(
    architecture: Architecture, weights: bytes, digits: Digits, epochs: int, evaluated_on: str
) -> ModelPayload:
    network = load_network(architecture, weights)
    predictions = evaluate(network, digits).predictions
    return ModelPayload(
        network=network,
        example=(digits.images[:MODEL_EXAMPLES].float() / 255).numpy(),
        confusion=confusion_matrix(predictions, digits.labels).numpy(),
        num_params=count(network),
        step=epochs,
        requirements=(f"torch=={version('torch').partition('+')[0]}", f"numpy=={version('numpy')}"),
        evaluated_on=evaluated_on,
    )
