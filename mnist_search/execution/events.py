"""Events that workers send to the supervisor."""

from __future__ import annotations

from dataclasses import dataclass

from mnist_search.errors import MnistSearchError


class Event:
    """A message from a worker to its supervisor."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class TrialStarted(Event):
    """Training of a trial starts."""

    number: int
    num_params: int
    epochs: int


@dataclass(frozen=True, slots=True)
class TrialEpoch(Event):
    """A trial finished an epoch."""

    number: int
    epoch: int
    accuracy: float | None
    samples_per_second: float | None


@dataclass(frozen=True, slots=True)
class TrialEnded(Event):
    """A trial has finished (COMPLETE, PRUNED, FAIL) or was released (WAITING)."""

    number: int
    state: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Message(Event):
    """A line for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class StopConditionReached(Event):
    """A stop condition of the study is met."""

    reason: str


@dataclass(frozen=True, slots=True)
class WorkerFailed(Event):
    """The worker stopped with an error that a replacement would raise as well.

    Attributes:
        traceback: of ``error``, as text.
    """

    error: MnistSearchError
    traceback: str


@dataclass(frozen=True, slots=True)
class OutOfMemory(Event):
    """The device has too little memory for another trial; the worker released its trial and exits."""


@dataclass(frozen=True, slots=True)
class SyncProgress(Event):
    """The sync process has written to MLflow."""


@dataclass(frozen=True, slots=True)
class WorkerDone(Event):
    """The worker has ended without an error."""
