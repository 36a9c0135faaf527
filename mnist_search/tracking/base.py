"""What a tracker of runs does, and one that does nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

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
"""MLflow's word for each state of a trial; it has none for pruned."""

MODEL_EXAMPLES = 2
"""Images in a logged model's example: torch.export would fix a batch of one for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a run says of its trial from the beginning.

    Attributes:
        params: at most 25, so that a table of runs stays readable.
        layer_table: the network layer by layer, as text.
    """

    number: int
    num_params: int
    params: Mapping[str, ParamValue]
    seed: int
    layer_table: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnd:
    """How a trial ended.

    Attributes:
        curve: every epoch; what was not written while it trained is written at the end.
        completed_ms: milliseconds since 1970 when the trial ended; None for now.
    """

    state: State
    reason: str | None
    curve: Sequence[EpochMetrics]
    completed_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPayload:
    """A trained network that is worth keeping.

    Attributes:
        network: on the CPU, in evaluation mode, taking (N, 1, 28, 28) float32 pixels in [0, 1].
        example: (MODEL_EXAMPLES, 1, 28, 28) float32.
        confusion: (10, 10) counts, a row per true digit.
        step: the epoch after which the network was judged.
        judged_on: what it was judged on, in words.
    """

    network: nn.Module
    example: np.ndarray
    confusion: np.ndarray
    num_params: int
    step: int
    requirements: Sequence[str] = field(default_factory=tuple)
    judged_on: str = "validation images"


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A trial's run as the tracker has it."""

    run_id: str
    number: int
    status: str


class TrialRun(Protocol):
    """The run of one trial while it trains."""

    run_id: str | None

    def log_epoch(self, epoch: EpochMetrics) -> None:
        """Write one epoch."""

    def end(self, ending: TrialEnd) -> None:
        """Write what is missing and close the run."""


class Tracker(Protocol):
    """Keeps runs for people to compare.

    No method fails because the tracker cannot be reached: it answers None, and what could not
    be written is written from the store at the next reconciliation.
    """

    def start_trial(self, card: RunInfo) -> TrialRun:
        """Open a trial's run."""

    def reopen_trial(self, run_id: str) -> TrialRun:
        """Continue with a run that was opened before."""

    def delete_run(self, run_id: str) -> None:
        """Take away a run that mirrors nothing."""

    def tracked_runs(self) -> list[TrackedRun] | None:
        """The runs of this study's trials."""

    def log_model(self, run_id: str, model: ModelPayload) -> str | None:
        """Keep a network with its run; the id of what was kept."""

    def delete_model(self, model_id: str) -> bool:
        """Delete a kept network and its files; whether it is gone."""

    def update_study(self, record: StudyRecord, *, status: str = "RUNNING") -> None:
        """Refresh the live summary on the study's run."""

    def log_study_page(self, html: str, name: str) -> None:
        """Keep a page with the study's run."""


class NullRun:
    """The run of nobody."""

    run_id: str | None = None

    def log_epoch(self, epoch: EpochMetrics) -> None:
        """Write nothing."""

    def end(self, ending: TrialEnd) -> None:
        """Close nothing."""


class NullTracker:
    """Keeps nothing."""

    def start_trial(self, card: RunInfo) -> TrialRun:
        """A run of nobody."""
        return NullRun()

    def reopen_trial(self, run_id: str) -> TrialRun:
        """A run of nobody."""
        return NullRun()

    def delete_run(self, run_id: str) -> None:
        """Nothing to take away."""

    def tracked_runs(self) -> list[TrackedRun] | None:
        """None: nothing can be told."""
        return None

    def log_model(self, run_id: str, model: ModelPayload) -> str | None:
        """Keep nothing."""
        return None

    def delete_model(self, model_id: str) -> bool:
        """Nothing to drop."""
        return True

    def update_study(self, record: StudyRecord, *, status: str = "RUNNING") -> None:
        """No summary."""

    def log_study_page(self, html: str, name: str) -> None:
        """Keep nothing."""
