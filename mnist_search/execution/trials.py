"""Training of one trial of a search, and of one final trial."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from optuna import TrialPruned
from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from torch import AcceleratorError, OutOfMemoryError, nn

from experiments import StudyConfig
from mnist_search.data.dataset import Digits, Split
from mnist_search.records import EpochMetrics, FinalTask
from mnist_search.search.samplers import trial_seed
from mnist_search.storage.queue import LostLease
from mnist_search.storage.studies import OVER_BUDGET_ATTR, TASK_ATTR
from mnist_search.training.device import ComputeMode, describe_device
from mnist_search.training.evaluate import evaluate
from mnist_search.training.fit import Diverged, fit
from mnist_search.training.model import build, to_safetensors
from search_space import TrainingConfig


class Interrupted(Exception):
    """The worker must stop; the trial is released."""


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What a trial calls while it trains.

    Attributes:
        checkpoint: called every few steps; raises Interrupted, LostLease, or TrialPruned after a timeout.
        on_start: called before training with the number of parameters and of epochs.
        report: called after every epoch; stores its metrics, at the latest before the next ``store`` call.
        should_prune: whether the study's pruner prunes the trial after the stored epochs.
        store: calls a function on the store and returns its result.
    """

    compute_mode: ComputeMode
    checkpoint: Callable[[], None]
    on_start: Callable[[int, int], None]
    report: Callable[[EpochMetrics], None]
    should_prune: Callable[[], bool]
    store: Callable[[Callable[[], Any]], Any]

    def fit(
        self, network: nn.Module, train: Digits, val: Digits | None, config: TrainingConfig, seed: int
    ) -> Iterator[EpochMetrics]:
        """Train a network; see ``training.fit``."""
        mode, checkpoint = self.compute_mode, self.checkpoint
        return fit(network, train, val, config, seed=seed, compute_mode=mode, checkpoint=checkpoint)


@dataclass
class TrialResult:
    """Final state of a trial; ``values`` are its validation accuracy, or its test accuracy and test loss."""

    state: TrialState = TrialState.FAIL
    values: Sequence[float] | None = None
    reason: str | None = None
    safetensors: bytes | None = None
    traceback: str | None = None

    def complete(self, network: nn.Module, *values: float) -> None:
        """Record that the trial has trained its last epoch."""
        self.state, self.values = TrialState.COMPLETE, values
        self.safetensors = to_safetensors(network)


def run_search_trial(trial: Trial, study: StudyConfig, data: Split, context: TrialContext) -> TrialResult:
    """Decode the params, count, check the budget, build, train and report; complete, prune or fail."""
    config = context.store(partial(study.space.suggest, trial))  # the values that the claim has set
    num_params = config.architecture.num_params()
    context.store(partial(trial.set_user_attr, "num_params", num_params))
    if context.store(context.should_prune):  # before the first report only ParameterBudgetPruner prunes
        context.store(partial(trial.set_user_attr, OVER_BUDGET_ATTR, True))
        reason = f"over budget: {num_params:,} parameters, {study.budget:,} allowed"
        return TrialResult(TrialState.PRUNED, reason=reason)

    device = device_and_mode(data.train, context.compute_mode)
    context.store(partial(trial.set_user_attr, "device", device))
    seed = trial_seed(study, trial.number)
    network = build(config.architecture, seed)
    training = study.training(config.training)
    context.on_start(num_params, training.epochs)
    with _recorded_end() as result:
        for metrics in context.fit(network, data.train, data.val, training, seed):
            context.report(metrics)
            is_last = metrics.epoch == training.epochs
            if study.pruner != "none" and not is_last and context.store(context.should_prune):
                raise TrialPruned(f"{study.pruner} pruner after epoch {metrics.epoch}")
        assert metrics.val_accuracy is not None
        result.complete(network, metrics.val_accuracy)
    return result


def run_final_trial(trial: Trial, data: Split, context: TrialContext) -> TrialResult:
    """Build and train the network of a final task, then evaluate it on the test set.

    ``data`` has all training images, and the test images as ``val``. They are evaluated after the last
    epoch and influence nothing. If the task evaluates every epoch, a plateau schedule follows the test
    accuracy, as in the author's code. A repeated training uses the search's split in place of both, and
    its weights are not kept.
    """
    task = FinalTask.from_dict(context.store(lambda: trial.user_attrs[TASK_ATTR]))
    if task.split:
        data = Split.of(data.train, *task.split, data.train.images.device)
    device = device_and_mode(data.train, context.compute_mode)
    context.store(partial(trial.set_user_attr, "device", device))
    network = build(task.architecture, task.seed)
    context.on_start(task.architecture.num_params(), task.training.epochs)
    evaluated = data.val if task.evaluate == "every epoch" else None
    with _recorded_end() as result:
        for metrics in context.fit(network, data.train, evaluated, task.training, task.seed):
            context.report(metrics)
        evaluation = evaluate(network, data.val)
        result.complete(network, evaluation.accuracy, evaluation.loss)
        if task.split:
            result.safetensors = None
    return result


@contextmanager
def _recorded_end() -> Iterator[TrialResult]:
    """Record a trial's pruning or failure; an error that is not the trial's is raised: it keeps its slot."""
    result = TrialResult()
    try:
        yield result
    except TrialPruned as error:
        result.state, result.reason = TrialState.PRUNED, str(error)
    except Diverged as error:
        result.reason = f"diverged: {error}"
    except (
        *(Interrupted, LostLease, OSError, MemoryError, SQLAlchemyError, StorageInternalError),
        *(AcceleratorError, OutOfMemoryError),
    ):
        raise
    except Exception as error:  # noqa: BLE001 - a bug fails its trial, not the study
        result.reason = f"error: {type(error).__name__}: {error}"
        result.traceback = traceback.format_exc()


def device_and_mode(digits: Digits, compute_mode: ComputeMode) -> str:
    """The stored description of device and compute mode, such as ``cpu Xeon, bf16, channels last``."""
    return f"{describe_device(digits.images.device)}, {compute_mode}"
