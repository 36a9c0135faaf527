"""From what the store keeps of a trial to what people see of it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import nn

from experiments import StudyConfig
from mnist_search.data.dataset import Digits
from mnist_search.data.mnist import read_test
from mnist_search.export import formats
from mnist_search.records import FinalTask, TrialRecord
from mnist_search.tracking.base import MODEL_EXAMPLES, ModelPayload, RunInfo
from mnist_search.training.fit import confusion_matrix, evaluate
from mnist_search.training.model import build, count, layer_table


def trial_run_info(
    study_config: StudyConfig,
    number: int,
    params: Mapping[str, Any],
    seed: int,
    network: nn.Module | None = None,
) -> RunInfo:
    """What a trial's run says from the beginning."""
    architecture = study_config.space.architecture(params)
    return RunInfo(
        number=number,
        num_params=architecture.num_params(),
        params=study_config.space.describe(params) | {"budget": study_config.budget, "trial_seed": seed},
        seed=study_config.seed,
        layer_table=layer_table(network or build(architecture, seed)),
    )


def model_payload(study_config: StudyConfig, trial: TrialRecord, weights: bytes, val: Digits) -> ModelPayload:
    """A kept network, built anew from its params and its stored weights, counted and judged again.

    Raises:
        ValueError: the stored network is not within the budget.
    """
    network = restore(study_config, trial, weights)
    num_params = count(network)
    if num_params > study_config.budget:
        raise ValueError(f"trial {trial.number} has {num_params:,} parameters")
    judged = evaluate(network, val)
    return ModelPayload(
        network=network,
        example=(val.images[:MODEL_EXAMPLES].float() / 255).numpy(),
        confusion=confusion_matrix(judged.predictions, val.labels).numpy(),
        num_params=num_params,
        step=trial.epochs,
        requirements=_requirements(),
    )


def final_payload(task: FinalTask, weights: bytes, folder: Path) -> ModelPayload:
    """A network of the finals, built anew from its weights and judged again on the test set."""
    network = formats.restore(task.architecture, weights)
    test = Digits.from_arrays(*read_test(folder))
    judged = evaluate(network, test)
    return ModelPayload(
        network=network,
        example=(test.images[:MODEL_EXAMPLES].float() / 255).numpy(),
        confusion=confusion_matrix(judged.predictions, test.labels).numpy(),
        num_params=count(network),
        step=task.training.epochs,
        requirements=_requirements(),
        judged_on="test images",
    )


def _requirements() -> tuple[str, ...]:
    return f"torch=={version('torch').partition('+')[0]}", f"numpy=={version('numpy')}"


def restore(study_config: StudyConfig, trial: TrialRecord, weights: bytes) -> nn.Module:
    """The trained network of a kept trial, on the CPU and in evaluation mode."""
    network = build(study_config.space.architecture(trial.params), seed=0)
    network.load_state_dict(load(weights))
    return network.eval()
