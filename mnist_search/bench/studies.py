"""Whole studies by the clock: trials at once, logging, memory, and the study written by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mnist_search.bench import reference
from mnist_search.bench.handwritten_study import handwritten_study
from mnist_search.bench.process_pool import ProcessPool
from mnist_search.bench.result import Row, ratio, row
from mnist_search.execution.events import Event, TrialBegan, TrialEnded
from mnist_search.execution.run_study import RunConfig, run_study
from mnist_search.records import StudyRecord
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.tracking.config import make_tracking_config


@dataclass(frozen=True, kw_only=True)
class Work:
    """What each timed study does: ``trials`` times the reference network."""

    data_dir: Path
    device: str
    epochs: int
    train_images: int
    val_images: int = 2000
    keep_models: int = 5
    mlflow: bool = True

    @property
    def images_per_trial(self) -> int:
        """Trained images."""
        return self.epochs * self.train_images


@dataclass
class Clock:
    """A screen that only looks at the time and at the memory of the workers.

    Times are seconds from the making of the clock; ``memory`` has the bytes of the largest worker
    at the end of every trial.
    """

    began: float | None = None
    ended: float = 0.0
    memory: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._started = time.perf_counter()

    def show(self, event: Event) -> None:
        """Note when trials begin and end."""
        now = time.perf_counter() - self._started
        match event:
            case TrialBegan():
                self.began = now if self.began is None else self.began
            case TrialEnded():
                self.ended = now
                workers = psutil.Process().children()
                self.memory.append(max(worker.memory_info().rss for worker in workers))

    def tick(self) -> None:
        """Nothing to refresh."""

    @property
    def seconds(self) -> float:
        """From the first trial's beginning to the last one's end."""
        assert self.began is not None
        return self.ended - self.began


def timed_study(work: Work, folder: Path, jobs: int, trials: int) -> Clock:
    """Run a new study in ``folder`` whose every trial is the reference."""
    storage = f"sqlite:///{folder}/study-{time.time_ns()}.db"
    definition = reference.study_config(work.epochs, work.train_images, work.val_images)
    search_study = SearchStudy.open_or_create(Store.open_or_create(storage), "bench", definition, trials)
    for _ in range(trials):
        search_study.study.enqueue_trial(reference.PARAMS)
    clock = Clock()
    plan = RunConfig(
        storage=storage, study="bench", config=definition, n_trials=trials, jobs=jobs,
        device=work.device, data_dir=work.data_dir, keep_models=work.keep_models,
        mlflow=make_tracking_config(f"sqlite:///{folder}/mlflow.db", "bench") if work.mlflow else None,
    )  # fmt: skip
    run_study(plan, _showing(clock))
    return clock


def _showing(clock: Clock) -> Callable[[Callable[[], StudyRecord], int], Clock]:
    return lambda _record, _jobs: clock


def measure(
    work: Work,
    folder: Path,
    jobs: Sequence[int],
    by_hand: ProcessPool,
    *,
    rounds: int,
    trials_each: int,
    plain_images: int,
) -> Iterator[Row]:
    """Trials per hour with one worker, with several, and of the study written by hand, alternating."""
    clocks: dict[int, list[Clock]] = {k: [] for k in jobs}
    plain: list[float] = []
    for number in range(rounds):
        for k, taken in clocks.items():
            taken.append(timed_study(work, folder, k, trials_each * k))
        storage = f"sqlite:///{folder}/plain-{number}.db"
        tracking = f"sqlite:///{folder}/mlflow.db"
        plain.append(
            by_hand.run_one(handwritten_study, work.data_dir, work.device, storage, tracking, plain_images)
        )
    rates = {k: [3600 * trials_each * k / c.seconds for c in taken] for k, taken in clocks.items()}
    what = f"trials of {work.images_per_trial:,} images, logged to MLflow"
    for k in jobs:
        yield row(f"parallel.trials_per_hour.k{k}", "trials/h", rates[k], what)
    best = max(jobs, key=lambda k: sum(rates[k]))
    yield ratio("parallel.ratio", rates[best], rates[jobs[0]], f"{best} workers against {jobs[0]}")
    every = [clock for taken in clocks.values() for clock in taken]
    largest = [max(clock.memory) / 2**20 for clock in every]
    yield row("worker.rss_mib", "MiB", largest, "the largest worker")
    began = [clock.began or 0.0 for clock in every]
    yield row("first_trial.seconds", "s", began, "from the command to its first step")
    ours = [rate * work.images_per_trial / 3600 for rate in rates[best]]
    yield row("study.samples_per_second", "images/s", ours, f"{best} workers, MLflow and study store")
    yield row("plain_optuna.samples_per_second", "images/s", plain, "one process, a metric a step")
    yield ratio("plain_optuna.ratio", ours, plain, "reference network, logging included, starts not")
