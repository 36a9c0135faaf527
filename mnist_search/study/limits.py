"""Limits that end a study before it is full."""

from __future__ import annotations

from dataclasses import dataclass

from mnist_search.facts import StudyFacts, TrialFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop early; None is no limit.

    Attributes:
        timeout: seconds that one command may run.
        trial_timeout: seconds that one trial may train.
        target: validation accuracy that is good enough, a fraction.
        patience: trials without a better best.
    """

    timeout: float | None = None
    trial_timeout: float | None = None
    target: float | None = None
    patience: int | None = None

    def reached(self, facts: StudyFacts) -> str | None:
        """Why the study needs no further trial; None while it does."""
        best = facts.best
        if best is None:
            return None
        if self.target is not None and (best.val_accuracy or 0.0) >= self.target:
            return f"trial {best.number} reached the target of {self.target:.4f}"
        if self.patience is not None:
            since = len([t for t in facts.done if _later(t, best)])
            if since >= self.patience:
                return f"{since} trials in a row were no better than trial {best.number}"
        return None


def _later(trial: TrialFacts, best: TrialFacts) -> bool:
    return bool(trial.completed and best.completed and trial.completed > best.completed)
