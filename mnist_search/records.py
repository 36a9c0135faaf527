"""Plain-value views of stored trials, studies and finals, for every package."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Literal, TypeAlias

from experiments import StudyConfig
from experiments.study_config import N_TRAIN_IMAGES, rungs
from search_space import Architecture, TrainingConfig
from search_space.serialization import from_dict, to_dict

State: TypeAlias = Literal["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]
"""Optuna's names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """Metrics of one epoch. Losses are mean cross-entropies, accuracies fractions.

    A metric that a store of an older version lacks is NaN.

    Attributes:
        epoch: counted from 1.
        train_loss, train_accuracy: over the epoch's own augmented batches, dropout on.
        val_loss, val_accuracy: over every validation image after the epoch; None without any.
        learning_rate: of the epoch's last step.
        seconds: training and evaluation.
        samples_per_second: trained images per second of training without evaluation.
        timestamp: milliseconds since 1970 at the end of the epoch.
    """

    epoch: int = 0
    train_loss: float = math.nan
    train_accuracy: float = math.nan
    val_loss: float | None = None
    val_accuracy: float | None = None
    learning_rate: float = math.nan
    seconds: float = math.nan
    samples_per_second: float = math.nan
    timestamp: int = 0

    def to_dict(self) -> dict[str, float]:
        """Plain values by name, without those that are None or NaN."""
        values = asdict(self).items()
        return {name: value for name, value in values if value is not None and not math.isnan(value)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> EpochMetrics:
        """The inverse of ``to_dict``; other keys are ignored."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in plain.items() if name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One stored trial.

    Attributes:
        trial_id: primary key in the store.
        params: every param of the space, or fewer while the trial waits.
        num_params: learned parameters; None until counted.
        val_accuracy, val_loss: after the last trained epoch; None without one.
        reason: why it ended before its last epoch.
        is_over_budget: whether it was rejected before training; such a trial takes no slot.
        rejected: number of over-budget proposals that were drawn before this one.
        crashes: number of attempts whose worker crashed.
        attempt: identifies the last attempt; None in a store of version 0.1.
        run_id, model_id: of its MLflow run and logged model.
        device: device and compute mode.
        software: versions of torch and, in a checkout, of mnist-search, by ``torch`` and ``commit``.
        task: what a final trial trains; None for a trial of a search.
        test_accuracy, test_loss: of a final trial after the last epoch.
    """

    number: int
    trial_id: int
    state: State
    params: Mapping[str, Any]
    num_params: int | None
    val_accuracy: float | None
    val_loss: float | None
    curve: Sequence[EpochMetrics]
    reason: str | None = None
    is_over_budget: bool = False
    rejected: int = 0
    crashes: int = 0
    attempt: str | None = None
    run_id: str | None = None
    model_id: str | None = None
    started: datetime | None = None
    completed: datetime | None = None
    device: str | None = None
    version: str | None = None
    traceback: str | None = None
    task: FinalTask | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    software: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether the state is final."""
        return self.state in {"COMPLETE", "PRUNED", "FAIL"}

    @property
    def epochs(self) -> int:
        """Number of trained epochs."""
        return len(self.curve)

    @property
    def best_epoch_accuracy(self) -> float | None:
        """The highest test accuracy of any epoch of a final trial, as authors report it; it never selects."""
        accuracies = [epoch.val_accuracy for epoch in self.curve if epoch.val_accuracy is not None]
        return max(accuracies, default=None) if self.task else None

    @property
    def is_open(self) -> bool:
        """Whether a final trial must still be trained: unfinished, or failed other than by divergence."""
        has_diverged = str(self.reason).startswith("diverged")
        return not self.is_finished or (self.state == "FAIL" and not has_diverged)

    @property
    def seconds(self) -> float | None:
        """Duration of the last attempt."""
        if self.started is None or self.completed is None:
            return None
        return (self.completed - self.started).total_seconds()

    @property
    def rank(self) -> tuple[float, float, int]:
        """Sort key of complete trials, best first: accuracy, then loss, then number."""
        return (-(self.val_accuracy or 0.0), self.val_loss or 0.0, self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrials:
    """Every trial of one stored study of either kind, by number; the study's ``uid`` is unique across stores."""

    name: str
    uid: str
    trials: Sequence[TrialRecord]

    def trial(self, number: int) -> TrialRecord | None:
        """The trial with this number."""
        return next((trial for trial in self.trials if trial.number == number), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord(StoredTrials):
    """One stored search study; ``n_trials`` is the requested number of trained trials."""

    config: StudyConfig
    n_trials: int

    @property
    def slots(self) -> list[TrialRecord]:
        """Trials that take a slot: all but the over-budget ones."""
        return [trial for trial in self.trials if not trial.is_over_budget]

    @property
    def done(self) -> list[TrialRecord]:
        """Finished trials: complete, pruned by score or failed."""
        return [trial for trial in self.slots if trial.is_finished]

    @property
    def n_left(self) -> int:
        """Number of trials that are not finished."""
        return max(0, self.n_trials - len(self.done))

    @property
    def ranked(self) -> list[TrialRecord]:
        """Complete trials within the budget, best first."""
        fitting = (t for t in self.slots if 0 < (t.num_params or 0) <= self.config.budget)
        return sorted((t for t in fitting if t.state == "COMPLETE"), key=lambda t: t.rank)

    @property
    def best(self) -> TrialRecord | None:
        """The best complete trial."""
        return next(iter(self.ranked), None)

    @property
    def rejected(self) -> int:
        """Number of over-budget proposals: those drawn again and those pruned before training."""
        return sum(trial.is_over_budget + trial.rejected for trial in self.trials)

    @property
    def trained_epochs(self) -> int:
        """Number of trained epochs of all trials."""
        return sum(trial.epochs for trial in self.trials)

    def rung(self, epochs: int) -> str | None:
        """The rung that a trial of so many epochs trains or has ended at, such as ``2/3``; None without screening."""
        if self.config.pruner != "screening":
            return None
        ends = rungs(self.config.space.epochs)
        return f"{1 + sum(end < epochs for end in ends)}/{len(ends)}"

    def row(self, trial: TrialRecord) -> dict[str, Any]:
        """A trial for a table, without its params and its curve."""
        names = ["number", "state", "num_params", "val_accuracy", "val_loss", "epochs", "seconds"]
        names += ["run_id", "model_id", "reason"]
        is_sampled = self.config.space.architecture_params.keys() <= trial.params.keys()
        return {name: getattr(trial, name) for name in names} | {
            "rung": self.rung(trial.epochs),
            "rejected_draws": trial.rejected,
            "device": trial.device,
            "architecture": str(self.config.space.architecture(trial.params)) if is_sampled else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTask:
    """What one final trial trains: on all 60,000 training images, evaluated on the test set.

    A repeated training, which selects among the finalists, is a final trial with a split.

    Attributes:
        name: of the network, such as ``trial 33`` or ``seed-001``.
        seed: of weights, batches and augmentation.
        evaluate: on the test set once, after the last epoch, or after every epoch, as authors do.
        round: 1, or more if finalists were trained again.
        split: of the search (``StudyConfig.split``): the trial trains on its training images and is
            evaluated on its validation images; None for the test set.
    """

    name: str
    seed: int
    architecture: Architecture
    training: TrainingConfig
    evaluate: Literal["once", "every epoch"] = "once"
    round: int = 1
    split: tuple[int, int, int] | None = None

    @property
    def key(self) -> tuple[int, str, int]:
        """Unique in a study of finals."""
        return self.round, self.name, self.seed

    @property
    def images(self) -> int:
        """Training images of an epoch."""
        return self.split[0] if self.split else N_TRAIN_IMAGES

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.split is None:  # an earlier 0.2 does not know it
            del values["split"]
        return values | {"architecture": to_dict(self.architecture), "training": to_dict(self.training)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FinalTask:
        """The inverse of ``to_dict``."""
        parts = {name: from_dict(plain[name]) for name in ("architecture", "training")}
        split = plain.get("split")
        return cls(**{**plain, **parts, "split": tuple(split) if split else None})


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalStage:
    """A later stage of finals, whose trials are not stored yet: their number, epochs and training images."""

    n_trials: int
    epochs: int
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalsRecord(StoredTrials):
    """Final trials of one search study, or of the baselines; ``later`` are the stages after the stored ones."""

    later: Sequence[FinalStage] = ()

    @property
    def n_trials(self) -> int:
        """Number of trials of the last round with its later stages, without those that were replaced."""
        return self.n_left + len(self.done) + sum(stage.n_trials for stage in self.later)

    @property
    def n_left(self) -> int:
        """Number of stored trials of the last round that are not finished."""
        return sum(not trial.is_finished for trial in self.of_round(self.rounds))

    @property
    def done(self) -> list[TrialRecord]:
        """Finished trials of the last round, without those that were replaced."""
        return [trial for trial in self.of_round(self.rounds) if trial.is_finished]

    @property
    def rounds(self) -> int:
        """Number of the last round; 0 without trials."""
        return max((trial.task.round for trial in self.trials if trial.task), default=0)

    @property
    def current(self) -> list[TrialRecord]:
        """The last trial of every task."""
        return list({trial.task.key: trial for trial in self.trials if trial.task}.values())

    def of_round(self, number: int) -> list[TrialRecord]:
        """The last trial of every task of a round."""
        return [trial for trial in self.current if trial.task and trial.task.round == number]


def counted(number: int, noun: str) -> str:
    """A number of things, such as ``1 epoch`` or ``2 epochs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as a percentage, such as ``99.13 %``; ``-`` for None."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"
