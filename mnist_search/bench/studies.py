"""Timed studies: concurrent trials, memory of workers, and the handwritten study."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mnist_search.bench import reference
from mnist_search.bench.handwritten_study import handwritten_study
from mnist_search.bench.process_pool import ProcessPool
from mnist_search.bench.result import Result, ratio_result, result
from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import Event, TrialEnded, TrialStarted
from mnist_search.execution.run_study import run_study
from mnist_search.execution.supervisor import ProgressReporter
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.tracking.config import make_tracking_config


@dataclass(frozen=True, kw_only=True)
class StudyWorkload:
    """A study in which every trial trains the reference network."""

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
class TimingReporter(ProgressReporter):
    """A progress reporter that records times and the memory of the workers.

    Attributes:
        started, ended: start of the first trial and end of the last one, in seconds from the
            creation of the reporter.
        memory: resident bytes of the largest worker at the end of every trial.
    """

    started: float | None = None
    ended: float = 0.0
    memory: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._created = time.perf_counter()

    def handle(self, event: Event) -> None:
        """Record the start and the end of trials."""
        now = time.perf_counter() - self._created
        match event:
            case TrialStarted():
                self.started = now if self.started is None else self.started
            case TrialEnded():
                self.ended = now
                workers = psutil.Process().children()
                self.memory.append(max(worker.memory_info().rss for worker in workers))

    @property
    def seconds(self) -> float:
        """From the start of the first trial to the end of the last one."""
        assert self.started is not None
        return self.ended - self.started


def timed_study(workload: StudyWorkload, folder: Path, jobs: int, trials: int) -> TimingReporter:
    """Run a new study in ``folder`` in which every trial is the reference."""
    storage = f"sqlite:///{folder}/study-{time.time_ns()}.db"
    study_config = reference.study_config(workload.epochs, workload.train_images, workload.val_images)
    search_study = SearchStudy.open_or_create(Store.open_or_create(storage), "bench", study_config, trials)
    for _ in range(trials):
        search_study.study.enqueue_trial(reference.PARAMS)
    reporter = TimingReporter()
    run_config = RunConfig(
        storage=storage, study="bench", config=study_config, n_trials=trials, jobs=jobs,
        device=workload.device, data_dir=workload.data_dir, keep_models=workload.keep_models,
        mlflow=make_tracking_config(f"sqlite:///{folder}/mlflow.db", "bench") if workload.mlflow else None,
    )  # fmt: skip
    run_study(run_config, lambda _record, _jobs: nullcontext(reporter))
    return reporter


def measure(
    workload: StudyWorkload,
    folder: Path,
    jobs: Sequence[int],
    pool: ProcessPool,
    *,
    rounds: int,
    trials_per_worker: int,
    handwritten_images: int,
) -> Iterator[Result]:
    """Trials per hour with each number of workers, alternating with the handwritten study in ``pool``."""
    reporters: dict[int, list[TimingReporter]] = {k: [] for k in jobs}
    handwritten: list[float] = []
    for number in range(rounds):
        for k in jobs:
            reporters[k].append(timed_study(workload, folder, k, trials_per_worker * k))
        databases = f"sqlite:///{folder}/handwritten-{number}.db", f"sqlite:///{folder}/mlflow.db"
        settings = workload.data_dir, workload.device, *databases, handwritten_images
        handwritten.append(pool.run_one(handwritten_study, *settings))
    rates = {k: [3600 * trials_per_worker * k / r.seconds for r in reporters[k]] for k in jobs}
    note = f"trials of {workload.images_per_trial:,} images, logged to MLflow"
    for k in jobs:
        yield result(f"parallel.trials_per_hour.k{k}", "trials/h", rates[k], note)
    best = max(jobs, key=lambda k: sum(rates[k]))
    yield ratio_result("parallel.ratio", rates[best], rates[jobs[0]], f"{best} workers / {jobs[0]}")
    yield from _of_workers([reporter for each in reporters.values() for reporter in each])
    project = [rate * workload.images_per_trial / 3600 for rate in rates[best]]
    note = f"{best} workers, with MLflow and the study's store"
    yield result("study.samples_per_second", "images/s", project, note)
    note = "one process, one metric per step"
    yield result("handwritten_study.samples_per_second", "images/s", handwritten, note)
    note = "reference network, with logging, without start-up"
    yield ratio_result("handwritten_study.ratio", project, handwritten, note)


def _of_workers(reporters: Sequence[TimingReporter]) -> Iterator[Result]:
    memory = [max(reporter.memory) / 2**20 for reporter in reporters]
    yield result("worker.rss_mib", "MiB", memory, "the largest worker")
    started = [reporter.started or 0.0 for reporter in reporters]
    yield result("first_trial.seconds", "s", started, "from the command to its first step")
