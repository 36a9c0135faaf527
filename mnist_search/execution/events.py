"""What workers tell the supervisor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class TrialBegan:
    """A trial is about to train."""

    number: int
    num_params: int


@dataclass(frozen=True, slots=True)
class TrialEpoch:
    """A trial has trained another epoch."""

    number: int
    epoch: int
    val_accuracy: float
    samples_per_second: float


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial has ended for ever (COMPLETE, PRUNED, FAIL) or was put back (WAITING)."""

    number: int
    state: str
    val_accuracy: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """Something that the user should know."""

    text: str


@dataclass(frozen=True, slots=True)
class StopConditionReached:
    """The whole study is to stop, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """The worker cannot go on, and another could not either."""

    exit_code: int
    text: str
    traceback: str


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """The device has no memory for one trial more; the worker leaves, its trial is put back."""


@dataclass(frozen=True, slots=True)
class WorkerDone:
    """The worker has nothing left to do."""


Event: TypeAlias = (
    TrialBegan
    | TrialEpoch
    | TrialEnded
    | Message
    | StopConditionReached
    | WorkerFailed
    | OutOfMemory
    | WorkerDone
)
