"""Timed studies: concurrent trials, memory of workers, and the handwritten study."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mnist_search.bench import reference
from mnist_search.bench.handwritten_study import handwritten_study
from mnist_search.bench.measurement import Result, Workload, ratio_result, result
from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import Event, TrialEnded, TrialStarted
from mnist_search.execution.run_study import WORKER, run_study
from mnist_search.execution.supervisor import ProgressReporter
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.tracking.config import make_tracking_config


@dataclass
class TimingReporter(ProgressReporter):
    """A progress reporter that records times and the memory of the workers.

    Attributes:
        started, ended: starts and ends of trials, in seconds from the creation of the reporter.
        memory: resident MiB of the largest worker at the end of every trial.
    """

    started: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._created = time.perf_counter()

    def handle(self, event: Event) -> None:
        """Record the start and the end of trials."""
        now = time.perf_counter() - self._created
        match event:
            case TrialStarted():
                self.started.append(now)
            case TrialEnded():
                self.ended.append(now)
                children = [c.as_dict(["cmdline", "memory_info"]) for c in psutil.Process().children()]
                workers = [
                    child["memory_info"].rss for child in children if WORKER in (child["cmdline"] or ())
                ]
                self.memory.append(max(workers, default=0) / 2**20)

    @property
    def seconds(self) -> float:
        """From the start of the first trial to the end of the last one."""
        return self.ended[-1] - self.started[0]


def timed_study(work: Workload, folder: Path, jobs: int, trials: int) -> TimingReporter:
    """Run a new study in ``folder`` in which every trial is the reference."""
    storage = f"sqlite:///{folder}/study-{time.time_ns()}.db"
    study_config = reference.study_config(
        epochs=work.epochs, train_images=work.train_images, val_images=work.val_images
    )
    search_study = SearchStudy.open_or_create(Store.open_or_create(storage), "bench", study_config, trials)
    for _ in range(trials):
        search_study.study.enqueue_trial(reference.PARAMS)
    reporter = TimingReporter()
    run_config = RunConfig(
        storage=storage, study="bench", config=study_config, n_trials=trials, jobs=jobs,
        device=work.device, data_dir=work.data_dir, keep_models=work.keep_models,
        mlflow=make_tracking_config(f"sqlite:///{folder}/mlflow.db", "bench") if work.mlflow else None,
    )  # fmt: skip
    run_study(run_config, lambda _record, _jobs: nullcontext(reporter))
    return reporter


def measure(work: Workload, folder: Path, pool: ProcessPoolExecutor) -> Iterator[Result]:
    """Trials per hour with each number of workers, alternating with the handwritten study in ``pool``."""
    jobs = sorted({1, work.processes}) if work.device == "cpu" else [1, 2, 4, 8, 16]
    reporters: dict[int, list[TimingReporter]] = {k: [] for k in jobs}
    handwritten: list[float] = []
    for number in range(work.rounds):
        for k in jobs:
            reporters[k].append(timed_study(work, folder, k, work.trials_per_worker * k))
        databases = f"sqlite:///{folder}/handwritten-{number}.db", f"sqlite:///{folder}/mlflow.db"
        arguments = work.data_dir, work.device, *databases, work.train_images // 4
        handwritten.append(pool.submit(handwritten_study, *arguments).result())
    images = work.epochs * work.train_images
    rates = {k: [3600 * work.trials_per_worker * k / each.seconds for each in reporters[k]] for k in jobs}
    for k in jobs:
        note = f"trials of {images:,} images, logged to MLflow"
        yield result(f"parallel.trials_per_hour.k{k}", "trials/h", rates[k], note)
    best = max(jobs, key=lambda k: sum(rates[k]))
    yield ratio_result("parallel.ratio", rates[best], rates[jobs[0]], f"{best} workers / {jobs[0]}")
    studies = [reporter for each in reporters.values() for reporter in each]
    yield result("worker.rss_mib", "MiB", [max(each.memory) for each in studies], "the largest worker")
    started = [each.started[0] for each in studies]
    yield result("first_trial.seconds", "s", started, "from the command to its first step")
    project = [rate * images / 3600 for rate in rates[best]]
    note = f"{best} workers, with MLflow and the study's store"
    yield result("study.samples_per_second", "images/s", project, note)
    note = "one process, one metric per step"
    yield result("handwritten_study.samples_per_second", "images/s", handwritten, note)
    note = "reference network, with logging, without start-up"
    yield ratio_result("handwritten_study.ratio", project, handwritten, note)
