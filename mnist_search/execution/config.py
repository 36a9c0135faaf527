"""Configuration of one command and of its worker processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from experiments import StudyConfig
from mnist_search.search.stopping import StopConditions
from mnist_search.tracking.config import TrackingConfig

if TYPE_CHECKING:
    from mnist_search.training.device import PrecisionChoice

WarmStart: TypeAlias = Literal["none", "baselines", "templates"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Arguments of one command that trains a study.

    Attributes:
        config: of the study; None to continue the stored one.
        n_trials: number of trained trials; None for the stored number.
        extra_trials: number of trained trials in addition to ``n_trials``.
        jobs: number of worker processes; None for the device's default.
        mlflow: where runs are logged; None for nowhere.
        keep_models: number of trained networks to keep.
        warm_start: trials to enqueue first: templates in a new study, or baselines.
        smaller_study: study of a smaller budget whose best trials are enqueued first.
    """

    storage: str
    study: str
    config: StudyConfig | None
    n_trials: int | None
    extra_trials: int = 0
    jobs: int | None = None
    device: str = "auto"
    precision: PrecisionChoice = "auto"
    data_dir: Path | None = None
    mlflow: TrackingConfig | None = None
    keep_models: int = 5
    warm_start: WarmStart = "none"
    smaller_study: str | None = None
    stop_conditions: StopConditions = field(default_factory=StopConditions)


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Arguments of a worker process that trains trials; pickled for the worker process.

    Attributes:
        mlflow: where runs are logged; None for nowhere.
        keep_models: number of trained networks that the study keeps.
    """

    storage: str
    study: str
    data_dir: Path
    device: str
    precision: PrecisionChoice
    mlflow: TrackingConfig | None
    keep_models: int
    stop_conditions: StopConditions = field(default_factory=StopConditions)


@dataclass(frozen=True, kw_only=True)
class FinalWorkerConfig:
    """Arguments of a worker process that runs final training; pickled for the worker process."""

    storage: str
    queue: str
    data_dir: Path
    device: str
    precision: PrecisionChoice
