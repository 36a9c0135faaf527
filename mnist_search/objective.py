"""One trial's life, on one page."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState
from safetensors.torch import save

from experiments import Experiment
from mnist_search.facts import OVER_BUDGET, STATES, EpochFacts
from mnist_search.publish import trial_card
from mnist_search.tracking import Ending, NullRun, Tracker, TrialRun
from mnist_search.training.device import describe_device
from mnist_search.training.digits import Split
from mnist_search.training.fit import Diverged, EpochRecord, fit
from mnist_search.training.model import build
from mnist_search.training.step import Way


class Interrupted(Exception):
    """The worker was asked to stop; the trial is to be begun again."""


class OutOfTime(Exception):
    """The trial took longer than a trial may."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every trial of a worker is run with.

    Attributes:
        seed_of: the seed of weights, batches and augmentation, from a trial's number.
        checkpoint: called every few steps; raises Interrupted or OutOfTime.
        on_begin: told that a trial is about to train: number, parameters and run.
        on_epoch: told of every epoch: trial number and record.
    """

    experiment: Experiment
    data: Split
    device: torch.device
    way: Way
    tracker: Tracker
    seed_of: Callable[[int], int]
    checkpoint: Callable[[], None]
    on_begin: Callable[[int, int, str | None], None]
    on_epoch: Callable[[int, EpochRecord], None]


@dataclass
class Outcome:
    """How a trial ended, and what is left to write down."""

    state: TrialState
    reason: str | None = None
    curve: list[EpochFacts] = field(default_factory=list)
    run: TrialRun = field(default_factory=NullRun)
    trained: bytes | None = None
    traceback: str | None = None

    @property
    def value(self) -> float | None:
        """The score of a complete trial: validation accuracy after the last epoch."""
        return self.curve[-1]["val_accuracy"] if self.state == TrialState.COMPLETE else None

    @property
    def ending(self) -> Ending:
        """For the trial's run."""
        return Ending(state=STATES[self.state.name], reason=self.reason, curve=self.curve)


def objective(trial: Trial, setup: Setup) -> Outcome:
    """Decode, count, build, train, report; prune or complete."""
    config = setup.experiment.space.suggest(trial)
    num_params = config.architecture.num_params()
    trial.set_user_attr("num_params", num_params)
    if trial.should_prune():  # before any tensor exists, only the budget can say so
        limit = setup.experiment.budget
        return Outcome(TrialState.PRUNED, f"{OVER_BUDGET}: {num_params:,} parameters, {limit:,} allowed")

    trial.set_user_attr("device", f"{describe_device(setup.device)}, {setup.way}")
    seed = setup.seed_of(trial.number)
    network = build(config.architecture, seed)
    run = setup.tracker.start_trial(trial_card(setup.experiment, trial.number, trial.params, seed, network))
    setup.on_begin(trial.number, num_params, run.run_id)
    outcome = Outcome(TrialState.COMPLETE, run=run)
    epochs = fit(
        network, setup.data.train, setup.data.val, config.training,
        seed=seed, way=setup.way, checkpoint=setup.checkpoint,
    )  # fmt: skip
    try:
        for record in epochs:
            outcome.curve.append(asdict(record) | {"timestamp": int(1000 * time.time())})
            run.log_epoch(outcome.curve[-1])
            setup.on_epoch(trial.number, record)
            trial.report(outcome.curve[-1]["val_accuracy"], record.epoch)
            if record.epoch < config.training.epochs and trial.should_prune():
                outcome.state = TrialState.PRUNED
                outcome.reason = f"{setup.experiment.pruner} pruner after epoch {record.epoch}"
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
