"""Conditions that stop a study before it has all of its trials."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

from mnist_search.records import StudyRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class StopConditions:
    """When to stop early; None disables a condition.

    Attributes:
        timeout, trial_timeout: maximum duration of one command and of one trial, in seconds.
        target_accuracy: validation accuracy at which to stop, a fraction.
        patience: number of trials without an improvement of the best.
    """

    timeout: float | None = None
    trial_timeout: float | None = None
    target_accuracy: float | None = None
    patience: int | None = None

    def after(self, seconds: float) -> Self:
        """The conditions of a part of the command that starts after so many seconds of it."""
        if self.timeout is None:
            return self
        return replace(self, timeout=float(max(1, math.ceil(self.timeout - seconds))))

    def reached(self, record: StudyRecord) -> str | None:
        """Reason to stop; None to continue."""
        best = record.best
        if best is None:
            return None
        if self.target_accuracy is not None and (best.val_accuracy or 0.0) >= self.target_accuracy:
            return f"trial {best.number} reached the target accuracy of {self.target_accuracy:.4f}"
        if self.patience is not None and best.completed:
            later = [t for t in record.done if t.completed and t.completed > best.completed]
            if len(later) >= self.patience:
                return f"no improvement in {len(later)} trials since trial {best.number}"
        return None
