"""Content of runs and models, from stored trials."""

from __future__ import annotations

from torch import nn

from mnist_search.records import FinalsRecord, FinalTask, StudyRecord, TrialRecord
from mnist_search.search.samplers import trial_seed
from mnist_search.tracking.runs import RunInfo
from mnist_search.training.model import count, load_network
from search_space.training_config import optimizer_name, schedule_name

LOGGED_AS_METRICS = ("num_params", "epochs")
"""Runs are sorted by them; the trained epochs are fewer than those of the study if a trial was pruned."""


def run_info(record: StudyRecord | FinalsRecord, trial: TrialRecord) -> RunInfo | None:
    """The values of a trial's run; None if its worker crashed before the params were suggested."""
    if isinstance(record, FinalsRecord):
        assert trial.task is not None
        return final_run_info(record.name.removesuffix(".finals"), trial.task)
    config = record.config
    if trial.num_params is None or not config.space.distributions.keys() <= trial.params.keys():
        return None
    params = config.space.describe(trial.params)
    for name in LOGGED_AS_METRICS:
        params.pop(name)
    return RunInfo(
        role="trial",
        name=f"{record.name} trial {trial.number}",
        params=params | {"budget": config.budget, "trial_seed": trial_seed(config, trial.number)},
        tags={"seed": str(config.seed)},
        layer_table=config.space.architecture(trial.params).layer_table(),
        rung=record.rung(trial.epochs),
    )


def final_run_info(study: str, task: FinalTask) -> RunInfo:
    """The values of a final trial's run; ``study`` is the name of the search, or ``baselines``."""
    kind, round_ = "repeat" if task.split else "final", f" round {task.round}" if task.round > 1 else ""
    training = task.training
    params = {
        "name": task.name,
        "architecture": str(task.architecture),
        "multiply_adds": task.architecture.multiply_adds(),
        "evaluate": task.evaluate,
        "evaluated_on": "validation images" if task.split else "test images",
        "final_seed": task.seed,
        "round": task.round,
        "batch_size": training.batch_size,
        "optimizer": optimizer_name(training.optimizer),
        "peak_lr": training.optimizer.lr,
        "weight_decay": training.optimizer.weight_decay,
        "schedule": schedule_name(training.schedule),
        "label_smoothing": training.label_smoothing,
    }
    return RunInfo(
        role="final",
        name=f"{study} {kind} {task.name} seed {task.seed}{round_}",
        params=params,
        tags={},
        layer_table=task.architecture.layer_table(),
    )


def kept_network(record: StudyRecord, trial: TrialRecord, weights: bytes) -> nn.Module:
    """The network of a search trial, loaded from its weights; ValueError if it exceeds the budget."""
    network = load_network(record.config.space.architecture(trial.params), weights)
    if count(network) > record.config.budget:
        raise ValueError(f"trial {trial.number} has {count(network):,} parameters")
    return network
