"""Configuration of one command and of its processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from experiments import StudyConfig
from mnist_search.errors import UsageError
from mnist_search.records import FinalsRecord, StudyRecord
from mnist_search.search.stopping import StopConditions
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.finals import FinalsStudy
from mnist_search.storage.leases import ProcessIdentity
from mnist_search.tracking.config import TrackingConfig

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from mnist_search.training.device import PrecisionChoice

ReadRecord: TypeAlias = Callable[[], StudyRecord | FinalsRecord]
WarmStart: TypeAlias = Literal["none", "baselines", "templates"]
EngineName: TypeAlias = Literal["processes", "ray"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Arguments of one command that trains a study; its workers and its sync process receive them.

    Attributes:
        study: name of the search study or of the finals.
        config: of a search study; None to continue the stored one.
        n_trials: number of trained trials; None for the stored number.
        extra_trials: number of trained trials in addition to ``n_trials``.
        sampler: a sampler in place of the one that ``config`` names.
        engine: what starts the workers: processes of this machine, or Ray.
        address: of the Ray cluster; None for a local one.
        jobs: number of concurrent trials on the CPU or on each GPU; None for the device's default.
        device: auto, cuda for every GPU, cuda:0,cuda:2 for some, mps or cpu; of a worker, one.
        trial_threads: of a worker.
        trials_alone: number of trials that a worker runs one at a time first.
        data_dir: the MNIST files; None for the cache.
        mlflow: where runs are logged; None for nowhere.
        keep_models: number of trained networks to keep; None for all.
        warm_start: trials to enqueue first: templates in a new study, or baselines.
        finish_running: whether the first Ctrl-C lets the running trials end.
        smaller_study: study of a smaller budget whose best trials are enqueued first.
        supervisor: the process of the command.

    Raises:
        UsageError: a value is out of range.
    """

    kind: Literal["search", "finals"] = "search"
    storage: str
    study: str
    config: StudyConfig | None = None
    n_trials: int | None = None
    extra_trials: int = 0
    sampler: BaseSampler | None = None
    engine: EngineName = "processes"
    address: str | None = None
    jobs: int | None = None
    device: str = "auto"
    trial_threads: int = 1
    trials_alone: int = 0
    precision: PrecisionChoice = "auto"
    data_dir: Path | None = None
    mlflow: TrackingConfig | None = None
    keep_models: int | None = 5
    warm_start: WarmStart = "none"
    smaller_study: str | None = None
    finish_running: bool = False
    stop_conditions: StopConditions = field(default_factory=StopConditions)
    supervisor: ProcessIdentity = field(default_factory=ProcessIdentity.current)

    def __post_init__(self) -> None:
        stop = asdict(self.stop_conditions)
        for name, value in {"n_trials": self.n_trials, "jobs": self.jobs, **stop}.items():
            if value is not None and value <= 0:
                raise UsageError(f"{name} takes a number above 0, not {value}")
        if (self.keep_models or 0) < 0 or (stop["target_accuracy"] or 0) > 1:
            raise UsageError("keep_models takes a number from 0, and target_accuracy a fraction")
        choices = {
            "precision": ("auto", "bf16", "fp32"),
            "warm_start": get_args(WarmStart),
            "engine": get_args(EngineName),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} takes {', '.join(known)}, not {getattr(self, name)!r}")
        if self.address and self.engine != "ray":
            raise UsageError("an address is that of a Ray cluster; pass --engine ray, too")

    def open_study(self, store: Store) -> SearchStudy | FinalsStudy:
        """Open the study; a worker's store is open for writing."""
        if self.kind == "search":
            return SearchStudy.open(store, self.study, self.supervisor, self.sampler)
        return FinalsStudy.open(store, self.study, self.supervisor)
