"""Content of runs and models, from stored trials."""

from __future__ import annotations

from importlib.metadata import version

from mnist_search.data.dataset import Digits
from mnist_search.records import FinalTask, StudyRecord, TrialRecord
from mnist_search.search.samplers import trial_seed
from mnist_search.tracking.models import MODEL_EXAMPLES, ModelPayload
from mnist_search.tracking.runs import RunInfo
from mnist_search.training.evaluate import confusion_matrix, evaluate
from mnist_search.training.model import count, load_network
from search_space import Architecture


def search_run_info(record: StudyRecord, trial: TrialRecord) -> RunInfo | None:
    """The values of a search trial's run; None if its worker crashed before the params were suggested."""
    config = record.config
    if trial.num_params is None or not config.space.distributions.keys() <= trial.params.keys():
        return None
    seed = trial_seed(config, trial.number)
    architecture = config.space.architecture(trial.params)
    return RunInfo(
        role="trial",
        name=f"{record.name} trial {trial.number}",
        num_params=trial.num_params,
        params=config.space.describe(trial.params) | {"budget": config.budget, "trial_seed": seed},
        tags={"study": record.name, "seed": str(config.seed)},
        layer_table=architecture.layer_table(),
    )


def final_run_info(study: str, task: FinalTask) -> RunInfo:
    """The values of a final trial's run."""
    training = task.training
    params = {
        "name": task.name,
        "architecture": str(task.architecture),
        "multiply_adds": task.architecture.multiply_adds(),
        "evaluate": task.evaluate,
        "final_seed": task.seed,
        "round": task.round,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "optimizer": type(training.optimizer).__name__.lower(),
        "peak_lr": training.optimizer.lr,
        "weight_decay": training.optimizer.weight_decay,
        "schedule": type(training.schedule).__name__.lower(),
        "label_smoothing": training.label_smoothing,
    }
    return RunInfo(
        role="final",
        name=f"final {task.name} seed {task.seed}",
        num_params=task.architecture.num_params(),
        params=params,
        tags={"study": study, "seed": str(task.seed)},
        layer_table=task.architecture.layer_table(),
        prefix="test",
    )


def search_payload(record: StudyRecord, trial: TrialRecord, weights: bytes, val: Digits) -> ModelPayload:
    """A kept network, loaded from its weights, counted and evaluated on the validation images.

    Raises:
        ValueError: the stored network exceeds the budget.
    """
    architecture = record.config.space.architecture(trial.params)
    payload = _payload(architecture, weights, val, trial.epochs, "validation images")
    if payload.num_params > record.config.budget:
        raise ValueError(f"trial {trial.number} has {payload.num_params:,} parameters")
    return payload


def final_payload(task: FinalTask, weights: bytes, test: Digits) -> ModelPayload:
    """A network of a final trial, loaded from its weights and evaluated on the test images."""
    return _payload(task.architecture, weights, test, task.training.epochs, "test images")


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
