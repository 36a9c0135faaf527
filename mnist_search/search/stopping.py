"""StopConditions that end a study before it is full."""

from __future__ import annotations

from dataclasses import dataclass

from mnist_search.records import StudyRecord, TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class StopConditions:
    """When to stop early; None is no limit.

    Attributes:
        timeout: seconds that one command may run.
        trial_timeout: seconds that one trial may train.
        target_accuracy: validation accuracy that is good enough, a fraction.
        patience: trials without a better best.
    """

    timeout: float | None = None
    trial_timeout: float | None = None
    target_accuracy: float | None = None
    patience: int | None = None

    def reached(self, record: StudyRecord) -> str | None:
        """Why the study needs no further trial; None while it does."""
        best = record.best
        if best is None:
            return None
        if self.target_accuracy is not None and (best.val_accuracy or 0.0) >= self.target_accuracy:
            return f"trial {best.number} reached the target of {self.target_accuracy:.4f}"
        if self.patience is not None:
            since = len([t for t in record.done if _later(t, best)])
            if since >= self.patience:
                return f"{since} trials in a row were no better than trial {best.number}"
        return None


def _later(trial: TrialRecord, best: TrialRecord) -> bool:
    return bool(trial.completed and best.completed and trial.completed > best.completed)
