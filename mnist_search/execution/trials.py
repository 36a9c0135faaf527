"""One trial's life, on one page."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState
from safetensors.torch import save

from experiments import StudyConfig
from mnist_search import __version__
from mnist_search.data.dataset import Digits, Split
from mnist_search.records import OVER_BUDGET, STATES, EpochMetrics, FinalResult, FinalTask
from mnist_search.tracking.base import NullRun, Tracker, TrialEnd, TrialRun
from mnist_search.tracking.run_info import trial_run_info
from mnist_search.training.device import ComputeMode, describe_device
from mnist_search.training.fit import Diverged, EpochRecord, evaluate, fit
from mnist_search.training.model import build


class Interrupted(Exception):
    """The worker was asked to stop; the trial is to be begun again."""


class OutOfTime(Exception):
    """The trial took longer than a trial may."""


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What every trial of a worker is run with.

    Attributes:
        seed_of: the seed of weights, batches and augmentation, from a trial's number.
        checkpoint: called every few steps; raises Interrupted or OutOfTime.
        on_begin: told that a trial is about to train: number, parameters and run.
        on_epoch: told of every epoch: trial number and record.
    """

    config: StudyConfig
    data: Split
    device: torch.device
    compute_mode: ComputeMode
    tracker: Tracker
    seed_of: Callable[[int], int]
    checkpoint: Callable[[], None]
    on_begin: Callable[[int, int, str | None], None]
    on_epoch: Callable[[int, EpochRecord], None]


@dataclass
class TrialResult:
    """How a trial ended, and what is left to write down."""

    state: TrialState
    reason: str | None = None
    curve: list[EpochMetrics] = field(default_factory=list)
    run: TrialRun = field(default_factory=NullRun)
    trained: bytes | None = None
    traceback: str | None = None

    @property
    def value(self) -> float | None:
        """The score of a complete trial: validation accuracy after the last epoch."""
        return self.curve[-1]["val_accuracy"] if self.state == TrialState.COMPLETE else None

    @property
    def ending(self) -> TrialEnd:
        """For the trial's run."""
        return TrialEnd(state=STATES[self.state.name], reason=self.reason, curve=self.curve)


def run_search_trial(trial: Trial, setup: TrialContext) -> TrialResult:
    """Decode, count, build, train, report; prune or complete."""
    config = setup.config.space.suggest(trial)
    num_params = config.architecture.num_params()
    trial.set_user_attr("num_params", num_params)
    if trial.should_prune():  # before any tensor exists, only the budget can say so
        limit = setup.config.budget
        return TrialResult(TrialState.PRUNED, f"{OVER_BUDGET}: {num_params:,} parameters, {limit:,} allowed")

    trial.set_user_attr("device", f"{describe_device(setup.device)}, {setup.compute_mode}")
    seed = setup.seed_of(trial.number)
    network = build(config.architecture, seed)
    run = setup.tracker.start_trial(trial_run_info(setup.config, trial.number, trial.params, seed, network))
    setup.on_begin(trial.number, num_params, run.run_id)
    outcome = TrialResult(TrialState.COMPLETE, run=run)
    epochs = fit(
        network, setup.data.train, setup.data.val, config.training,
        seed=seed, compute_mode=setup.compute_mode, checkpoint=setup.checkpoint,
    )  # fmt: skip
    try:
        for record in epochs:
            outcome.curve.append(asdict(record) | {"timestamp": int(1000 * time.time())})
            run.log_epoch(outcome.curve[-1])
            setup.on_epoch(trial.number, record)
            trial.report(outcome.curve[-1]["val_accuracy"], record.epoch)
            if record.epoch < config.training.epochs and trial.should_prune():
                outcome.state = TrialState.PRUNED
                outcome.reason = f"{setup.config.pruner} pruner after epoch {record.epoch}"
                return outcome
        outcome.trained = save({k: v.cpu().contiguous() for k, v in network.state_dict().items()})
    except OutOfTime as limit_reached:
        outcome.state, outcome.reason = TrialState.PRUNED, str(limit_reached)
    except Diverged as error:
        outcome.state, outcome.reason = TrialState.FAIL, f"diverged: {error}"
    except (Interrupted, OSError, StorageInternalError, torch.AcceleratorError, torch.OutOfMemoryError):
        raise  # not the trial's fault: it is begun again
    except Exception as error:  # noqa: BLE001 - the trial fails, and says why
        outcome.state, outcome.reason = TrialState.FAIL, f"error: {type(error).__name__}: {error}"
        outcome.traceback = traceback.format_exc()
    return outcome


def run_final_trial(
    task: FinalTask,
    train: Digits,
    test: Digits,
    compute_mode: ComputeMode,
    *,
    checkpoint: Callable[[], None] = lambda: None,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
) -> tuple[FinalResult, bytes | None]:
    """Train a task to its end; its result and its weights as safetensors.

    The test set is opened after the last epoch and decides nothing, unless the task is to be
    judged after every epoch. Then a plateau schedule follows it, as its author's did.

    Args:
        task: what to train.
        train: all 60,000 training images.
        test: the test images, on the same device.
        compute_mode: how to do the arithmetic.
        checkpoint: called every few steps; what it raises ends the training.
        on_epoch: told of every epoch.
    """
    started = time.monotonic()
    network = build(task.architecture, task.seed)
    judges = test if task.judged == "every epoch" else None
    curve: list[dict[str, Any]] = []
    epochs = fit(
        network,
        train,
        judges,
        task.training,
        seed=task.seed,
        compute_mode=compute_mode,
        checkpoint=checkpoint,
    )
    came_to = partial(
        FinalResult,
        curve=curve,
        device=f"{describe_device(train.images.device)}, {compute_mode}",
        version=__version__,
    )
    try:
        for record in epochs:
            curve.append(_epoch(record))
            on_epoch(record)
    except Diverged as error:
        return came_to(seconds=time.monotonic() - started, failure=f"diverged: {error}"), None
    judged = evaluate(network, test)
    result = came_to(test_accuracy=judged.accuracy, test_loss=judged.loss, seconds=time.monotonic() - started)
    return result, save({k: v.cpu().contiguous() for k, v in network.state_dict().items()})


def _epoch(record: EpochRecord) -> dict[str, Any]:
    """An epoch whose judge, if it had one, was the test set."""
    plain = asdict(record) | {"timestamp": int(1000 * time.time())}
    loss, accuracy = plain.pop("val_loss"), plain.pop("val_accuracy")
    return plain if accuracy is None else plain | {"test_loss": loss, "test_accuracy": accuracy}
