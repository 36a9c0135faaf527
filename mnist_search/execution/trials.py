"""Training of one trial of a search, and of one final task."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState
from torch import AcceleratorError, OutOfMemoryError

from experiments import StudyConfig
from mnist_search import __version__
from mnist_search.data.dataset import Digits, Split
from mnist_search.records import STATES, EpochMetrics, FinalResult, FinalTask
from mnist_search.search.samplers import trial_seed
from mnist_search.storage.queue import LostLease
from mnist_search.storage.studies import OVER_BUDGET_ATTR
from mnist_search.tracking.base import Tracker, TrialEnd, TrialRun
from mnist_search.tracking.run_info import trial_run_info
from mnist_search.training.device import ComputeMode, describe_device
from mnist_search.training.evaluate import evaluate
from mnist_search.training.fit import Diverged, fit
from mnist_search.training.model import build, to_safetensors


class Interrupted(Exception):
    """The worker must stop; the trial is released."""


class TrialTimeout(Exception):
    """The trial exceeded its timeout."""


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """Arguments that the trials of a worker share.

    Attributes:
        checkpoint: called every few steps; raises Interrupted, LostLease or TrialTimeout.
        on_start: called before training with the trial's number, parameter count and MLflow run id.
        on_epoch: called after every epoch with the trial's number and the metrics.
    """

    config: StudyConfig
    data: Split
    compute_mode: ComputeMode
    tracker: Tracker
    checkpoint: Callable[[], None]
    on_start: Callable[[int, int, str | None], None]
    on_epoch: Callable[[int, EpochMetrics], None]


@dataclass
class TrialResult:
    """Final state of a trial, and what to store and log of it."""

    state: TrialState
    reason: str | None = None
    curve: list[EpochMetrics] = field(default_factory=list)
    run: TrialRun = field(default_factory=TrialRun)
    safetensors: bytes | None = None
    traceback: str | None = None

    @property
    def value(self) -> float | None:
        """The score of a complete trial: validation accuracy after the last epoch."""
        return self.curve[-1].val_accuracy if self.state == TrialState.COMPLETE else None

    @property
    def attributes(self) -> dict[str, Any]:
        """User attributes of the stored trial."""
        curve = [metrics.to_dict() for metrics in self.curve]
        return {"curve": curve, "reason": self.reason, "traceback": self.traceback}

    @property
    def end(self) -> TrialEnd:
        """The end of the trial's run."""
        return TrialEnd(state=STATES[self.state.name], reason=self.reason, curve=self.curve)


def run_search_trial(trial: Trial, context: TrialContext) -> TrialResult:
    """Decode the params, count, check the budget, build, train and report; complete, prune or fail."""
    config = context.config.space.suggest(trial)  # the values that the claim has set
    num_params = config.architecture.num_params()
    trial.set_user_attr("num_params", num_params)
    if trial.should_prune():  # before the first report only ParameterBudgetPruner prunes
        trial.set_user_attr(OVER_BUDGET_ATTR, True)
        reason = f"over budget: {num_params:,} parameters, {context.config.budget:,} allowed"
        return TrialResult(TrialState.PRUNED, reason)

    data, mode, check = context.data, context.compute_mode, context.checkpoint
    trial.set_user_attr("device", device_and_mode(data.train, mode))
    seed = trial_seed(context.config, trial.number)
    network = build(config.architecture, seed)
    run = context.tracker.start_trial(trial_run_info(context.config, trial.number, trial.params, seed))
    context.on_start(trial.number, num_params, run.run_id)
    result = TrialResult(TrialState.COMPLETE, run=run)
    epochs = fit(
        network, data.train, data.val, config.training, seed=seed, compute_mode=mode, checkpoint=check
    )
    try:
        for metrics in epochs:
            result.curve.append(metrics)
            run.log_epoch(metrics)
            context.on_epoch(trial.number, metrics)
            trial.report(metrics.val_accuracy or 0.0, metrics.epoch)
            if metrics.epoch < config.training.epochs and trial.should_prune():
                result.state = TrialState.PRUNED
                result.reason = f"{context.config.pruner} pruner after epoch {metrics.epoch}"
                return result
        result.safetensors = to_safetensors(network)
    except TrialTimeout as error:
        result.state, result.reason = TrialState.PRUNED, str(error)
    except Diverged as error:
        result.state, result.reason = TrialState.FAIL, f"diverged: {error}"
    except (Interrupted, LostLease, OSError, StorageInternalError, AcceleratorError, OutOfMemoryError):
        raise  # not the trial's fault: it keeps its slot
    except Exception as error:  # noqa: BLE001 - a bug fails its trial, not the study
        result.state, result.reason = TrialState.FAIL, f"error: {type(error).__name__}: {error}"
        result.traceback = traceback.format_exc()
    return result


def run_final_trial(
    task: FinalTask,
    train: Digits,
    test: Digits,
    compute_mode: ComputeMode,
    *,
    checkpoint: Callable[[], None] = lambda: None,
) -> tuple[FinalResult, bytes | None]:
    """Run a final task; its result and its weights as safetensors.

    The test set is evaluated after the last epoch and influences nothing. If the task evaluates every
    epoch, a plateau schedule follows the test accuracy, as in the author's code.

    Args:
        task: what to train.
        train: all 60,000 training images.
        test: the test images, on the same device.
        compute_mode: how a step is computed.
        checkpoint: called every few steps; may raise to stop training.
    """
    started = time.monotonic()
    network = build(task.architecture, task.seed)
    curve: list[dict[str, float]] = []
    result = partial(
        FinalResult, curve=curve, device=device_and_mode(train, compute_mode), version=__version__
    )
    val = test if task.evaluate == "every epoch" else None
    epochs = fit(
        network, train, val, task.training, seed=task.seed, compute_mode=compute_mode, checkpoint=checkpoint
    )
    try:
        for metrics in epochs:
            test_metrics = {name.replace("val_", "test_"): x for name, x in metrics.to_dict().items()}
            curve.append(test_metrics)
    except Diverged as error:
        return result(seconds=time.monotonic() - started, failure=f"diverged: {error}"), None
    test_evaluation = evaluate(network, test)
    return result(
        test_accuracy=test_evaluation.accuracy,
        test_loss=test_evaluation.loss,
        seconds=time.monotonic() - started,
    ), to_safetensors(network)


def device_and_mode(digits: Digits, compute_mode: ComputeMode) -> str:
    """The stored description of device and compute mode, such as ``cpu Xeon, bf16, channels last``."""
    return f"{describe_device(digits.images.device)}, {compute_mode}"
