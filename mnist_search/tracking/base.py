"""Tracker interface, its plain values, and a tracker that does nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from mnist_search.records import EpochMetrics, State, StudyRecord

ParamValue: TypeAlias = str | int | float

STATUS: Mapping[State, str] = {
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "FAIL": "FAILED",
    "RUNNING": "RUNNING",
    "WAITING": "SCHEDULED",
}
"""MLflow's run status for each trial state; MLflow has no status for pruned."""

MODEL_EXAMPLES = 2
"""Batch size of a logged model's input example: torch.export specializes a batch size of 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """Values of a trial's run that are known before training.

    Attributes:
        params: at most 25, so that a table of runs stays readable.
        layer_table: one line per layer, as text.
    """

    number: int
    num_params: int
    params: Mapping[str, ParamValue]
    seed: int
    layer_table: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnd:
    """Final state of a trial.

    Attributes:
        curve: every epoch; epochs that were not logged during training are logged at the end.
        completed_ms: milliseconds since 1970 at the end of the trial; None for now.
    """

    state: State
    reason: str | None
    curve: Sequence[EpochMetrics]
    completed_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPayload:
    """A trained network to log.

    Attributes:
        network: on the CPU, in evaluation mode, taking (N, 1, 28, 28) float32 pixels in [0, 1].
        example: (MODEL_EXAMPLES, 1, 28, 28) float32.
        confusion: (10, 10) counts, a row per true digit.
        step: number of trained epochs.
        evaluated_on: the images that ``confusion`` counts, in words.
    """

    network: nn.Module
    example: np.ndarray
    confusion: np.ndarray
    num_params: int
    step: int
    requirements: Sequence[str] = field(default_factory=tuple)
    evaluated_on: str = "validation images"


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A trial's run in the tracker."""

    run_id: str
    number: int
    status: str


class TrialRun:
    """The run of one trial during training; the base class is a no-op run."""

    run_id: str | None = None

    def log_epoch(self, epoch: EpochMetrics) -> None:
        """Log one epoch."""

    def end(self, trial_end: TrialEnd) -> None:
        """Log missing epochs and terminate the run."""


class Tracker:
    """Logs runs; the base class is a no-op tracker.

    No method raises when the server is unavailable: it returns None, and the next sync writes the
    missing data from the store.
    """

    def start_trial(self, info: RunInfo) -> TrialRun:
        """Create a trial's run."""
        return TrialRun()

    def reopen_trial(self, run_id: str) -> TrialRun:
        """Continue an existing run."""
        return TrialRun()

    def delete_run(self, run_id: str) -> None:
        """Delete a stale run."""

    def tracked_runs(self) -> list[TrackedRun] | None:
        """The runs of this study's trials; None while the server is unavailable."""

    def log_model(self, run_id: str, model: ModelPayload) -> str | None:
        """Log a network under a run; the id of the logged model."""

    def delete_model(self, model_id: str) -> bool:
        """Delete a logged model and its files; whether it no longer exists."""
        return True

    def update_study(self, record: StudyRecord, *, status: str = "RUNNING") -> None:
        """Update the summary on the study's run."""

    def log_study_page(self, html: str, name: str) -> None:
        """Log an HTML page to the study's run."""
