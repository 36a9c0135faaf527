"""What a store knows of trials and studies, as plain values that every room may read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args

from experiments import StudyConfig
from search_space import Architecture, TrainingConfig
from search_space.serialization import from_dict, to_dict

State: TypeAlias = Literal["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]

STATES: dict[str, State] = {name: name for name in get_args(State)}
"""Optuna's names of states, for the type checker."""

OVER_BUDGET = "over budget"
"""How the reason of a trial that never trained begins."""

EpochMetrics: TypeAlias = Mapping[str, float | int]
"""One epoch of a trial's curve: the fields of ``EpochRecord`` and ``timestamp`` in ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial as the store has it.

    Attributes:
        trial_id: the store's own key.
        params: every param of the space, or fewer while the trial waits.
        num_params: learned parameters; None until counted.
        val_accuracy, val_loss: after the last trained epoch; None without one.
        curve: a record per trained epoch.
        reason: why the trial ended other than by its last epoch.
        rejected: proposals that were drawn again before this one fitted.
        deaths: how often its worker died.
        run_id, model_id: of its MLflow run and logged model.
        traceback: of the exception that failed it.
    """

    number: int
    trial_id: int
    state: State
    params: Mapping[str, Any]
    num_params: int | None
    val_accuracy: float | None
    val_loss: float | None
    curve: Sequence[EpochMetrics]
    reason: str | None
    rejected: int
    deaths: int
    run_id: str | None
    model_id: str | None
    started: datetime | None
    completed: datetime | None
    device: str | None
    traceback: str | None

    @property
    def is_finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in {"COMPLETE", "PRUNED", "FAIL"}

    @property
    def is_over_budget(self) -> bool:
        """Whether the budget kept the trial from training; such a trial takes no place."""
        return self.state == "PRUNED" and (self.reason or "").startswith(OVER_BUDGET)

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return len(self.curve)

    @property
    def seconds(self) -> float | None:
        """From the beginning to the end of the last attempt."""
        if self.started is None or self.completed is None:
            return None
        return (self.completed - self.started).total_seconds()

    @property
    def rank(self) -> tuple[float, float, int]:
        """Sorts complete trials from best to worst: accuracy, then loss, then the earlier one."""
        return (-(self.val_accuracy or 0.0), self.val_loss or 0.0, self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """One study as the store has it.

    Attributes:
        uid: tells studies of the same name in different stores apart.
        trials: every trial, by number.
        trials_target: how many trained trials the study shall hold.
    """

    name: str
    uid: str
    config: StudyConfig
    n_trials: int
    trials: Sequence[TrialRecord]

    @property
    def slots(self) -> list[TrialRecord]:
        """The trials that count: all but those that the budget kept from training."""
        return [trial for trial in self.trials if not trial.is_over_budget]

    @property
    def done(self) -> list[TrialRecord]:
        """Trials that have trained to an end: complete, pruned by score or failed."""
        return [trial for trial in self.slots if trial.is_finished]

    @property
    def ranked(self) -> list[TrialRecord]:
        """Complete trials within the budget, best first."""
        fit = (t for t in self.slots if t.state == "COMPLETE" and t.num_params is not None)
        return sorted((t for t in fit if (t.num_params or 0) <= self.config.budget), key=lambda t: t.rank)

    @property
    def best(self) -> TrialRecord | None:
        """The best complete trial."""
        return next(iter(self.ranked), None)

    @property
    def rejected(self) -> int:
        """Proposals over the budget: drawn again, or refused as a trial before training."""
        refused = sum(trial.is_over_budget for trial in self.trials)
        return refused + sum(trial.rejected for trial in self.trials)

    @property
    def trained_epochs(self) -> int:
        """Epochs trained over all trials."""
        return sum(trial.epochs for trial in self.trials)

    def trial(self, number: int) -> TrialRecord | None:
        """The trial of this number."""
        return next((trial for trial in self.trials if trial.number == number), None)


Judged: TypeAlias = Literal["once", "every epoch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTask:
    """One training on all 60,000 images, and a look at the test set.

    Attributes:
        name: of what is trained, such as ``trial 33`` or ``seed-001``.
        seed: decides weights, batches and augmentation.
        judged: on the test set once, when it has ended, or after every epoch, as authors do.
    """

    name: str
    seed: int
    architecture: Architecture
    training: TrainingConfig
    judged: Judged = "once"

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "architecture": to_dict(self.architecture),
                "training": to_dict(self.training),
                "judged": self.judged,
            }
        )

    @classmethod
    def from_json(cls, name: str, seed: int, text: str) -> FinalTask:
        """The task that ``to_json`` wrote."""
        plain = json.loads(text)
        return cls(
            name=name,
            seed=seed,
            architecture=from_dict(plain["architecture"]),
            training=from_dict(plain["training"]),
            judged=plain["judged"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalResult:
    """What a training came to. Accuracies are fractions, losses mean cross-entropies.

    Attributes:
        test_accuracy, test_loss: after the last epoch; None for a failed training.
        curve: a record per epoch; with ``test_accuracy`` where every epoch was judged.
        failure: why there is no result.
    """

    test_accuracy: float | None = None
    test_loss: float | None = None
    seconds: float = 0.0
    device: str = ""
    version: str = ""
    curve: Sequence[dict[str, Any]] = ()
    failure: str | None = None

    @property
    def best_epoch_accuracy(self) -> float | None:
        """The highest test accuracy of any epoch: what authors report, and nobody may select by."""
        return max((epoch["test_accuracy"] for epoch in self.curve if "test_accuracy" in epoch), default=None)
