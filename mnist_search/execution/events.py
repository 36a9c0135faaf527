"""Events that workers send to the supervisor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """Training of a trial starts."""

    number: int
    num_params: int


@dataclass(frozen=True, slots=True)
class TrialEpoch:
    """A trial finished an epoch."""

    number: int
    epoch: int
    val_accuracy: float | None
    samples_per_second: float | None


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial has finished (COMPLETE, PRUNED, FAIL) or was released (WAITING)."""

    number: int
    state: str
    val_accuracy: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A line for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class StopConditionReached:
    """A stop condition of the study holds."""

    reason: str


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """The worker stopped with an error that a replacement would raise as well.

    Attributes:
        error: name of a class of ``mnist_search.errors``.
        text: message of the exception.
    """

    error: str
    text: str
    traceback: str


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """The device has too little memory for another trial; the worker released its trial and exits."""


@dataclass(frozen=True, slots=True)
class WorkerDone:
    """No trial is left for the worker."""


Event: TypeAlias = (
    TrialStarted
    | TrialEpoch
    | TrialEnded
    | Message
    | StopConditionReached
    | WorkerFailed
    | OutOfMemory
    | WorkerDone
)
