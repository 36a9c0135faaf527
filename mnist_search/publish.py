"""From what the store keeps of a trial to what people see of it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import nn

from experiments import Experiment
from mnist_search import artefact
from mnist_search.facts import TrialFacts
from mnist_search.tasks import Task
from mnist_search.tracking import MODEL_EXAMPLES, ModelCard, TrialCard
from mnist_search.training.digits import Digits
from mnist_search.training.files import read_test
from mnist_search.training.fit import confusion_matrix, evaluate
from mnist_search.training.model import build, count, layer_table


def trial_card(
    experiment: Experiment,
    number: int,
    genes: Mapping[str, Any],
    seed: int,
    network: nn.Module | None = None,
) -> TrialCard:
    """What a trial's run says from the beginning."""
    architecture = experiment.space.architecture(genes)
    return TrialCard(
        number=number,
        num_params=architecture.num_params(),
        params=experiment.space.describe(genes) | {"budget": experiment.budget, "trial_seed": seed},
        seed=experiment.seed,
        layer_table=layer_table(network or build(architecture, seed)),
    )


def model_card(experiment: Experiment, trial: TrialFacts, weights: bytes, val: Digits) -> ModelCard:
    """A kept network, built anew from its genes and its stored weights, counted and judged again.

    Raises:
        ValueError: the stored network is not within the budget.
    """
    network = restore(experiment, trial, weights)
    num_params = count(network)
    if num_params > experiment.budget:
        raise ValueError(f"trial {trial.number} has {num_params:,} parameters")
    judged = evaluate(network, val)
    return ModelCard(
        network=network,
        example=(val.images[:MODEL_EXAMPLES].float() / 255).numpy(),
        confusion=confusion_matrix(judged.predictions, val.labels).numpy(),
        num_params=num_params,
        step=trial.epochs,
        requirements=_requirements(),
    )


def final_card(task: Task, weights: bytes, folder: Path) -> ModelCard:
    """A network of the finals, built anew from its weights and judged again on the test set."""
    network = artefact.restore(task.architecture, weights)
    test = Digits.from_arrays(*read_test(folder))
    judged = evaluate(network, test)
    return ModelCard(
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


def restore(experiment: Experiment, trial: TrialFacts, weights: bytes) -> nn.Module:
    """The trained network of a kept trial, on the CPU and in evaluation mode."""
    network = build(experiment.space.architecture(trial.genes), seed=0)
    network.load_state_dict(load(weights))
    return network.eval()
