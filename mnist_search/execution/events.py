"""Events that workers send to the supervisor, and its requests to them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mnist_search.errors import MnistSearchError

STOP, FINISH_RUNNING = "stop", "finish running trials"
"""Requests of the supervisor: release the trials and exit; claim no trial and exit when the running ones have ended."""


class Event:
    """A message from a worker to its supervisor."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class TrialStarted(Event):
    """Training of a trial starts, in a cluster on a ``node``."""

    number: int
    num_params: int
    epochs: int
    node: str | None = None


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
class Stop(Event):
    """Why the workers stop before the study is done.

    Attributes:
        signal: number of the received signal, if any.
        finish_running: whether the running trials are trained to their end.
    """

    reason: str
    signal: int | None = None
    finish_running: bool = False


@dataclass(frozen=True, slots=True)
class WorkerFailed(Event):
    """The worker stopped with an error that a replacement would raise as well."""

    error: MnistSearchError
    traceback: str


@dataclass(frozen=True, slots=True)
class DeviceFailed(Event):
    """An error of the device after which the worker cannot use it; ``n_trials`` were running and are not finished."""

    error: str
    n_trials: int


class ProcessEvent(Event, Enum):
    """An event without details."""

    DONE = "the process has ended without an error"
    OUT_OF_MEMORY = "the device has no memory for another trial; the worker released its trial and exits"
    SYNC_PROGRESS = "the sync process has written to MLflow"
    ONLY_SYNC = "the workers have ended, the sync process has not"
