"""Timed studies: concurrent trials, memory of workers, and the handwritten study."""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import mlflow
import optuna
import psutil

from mnist_search.bench import reference
from mnist_search.bench.handwritten_loop import handwritten_loop
from mnist_search.bench.measurement import Result, Workload, ratio_result, result
from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import Event, TrialEnded, TrialStarted
from mnist_search.execution.run_study import WORKER, run_study
from mnist_search.execution.supervisor import ProgressReporter
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.tracking.config import make_tracking_config
from mnist_search.training.model import build, count


class TimingReporter(ProgressReporter):
    """Records the starts and ends of trials, in seconds from its creation, and the memory of the workers."""

    def __init__(self) -> None:
        self._created = time.perf_counter()
        self.started: list[float] = []
        self.ended: list[float] = []
        self.memory: list[float] = []  # resident MiB of the largest worker at the end of every trial

    def handle(self, event: Event) -> None:
        """Record the start and the end of trials."""
        now = time.perf_counter() - self._created
        if isinstance(event, TrialStarted):
            self.started.append(now)
        elif isinstance(event, TrialEnded):
            self.ended.append(now)
            children = [c.as_dict(["cmdline", "memory_info"]) for c in psutil.Process().children()]
            workers = [child["memory_info"].rss for child in children if WORKER in (child["cmdline"] or ())]
            self.memory.append(max(workers, default=0) / 2**20)


def timed_study(work: Workload, folder: Path, jobs: int, trials: int) -> TimingReporter:
    """Run a new study in ``folder`` in which every trial is the reference."""
    storage = f"sqlite:///{folder}/study-{time.time_ns()}.db"
    images = {"train_images": work.train_images, "val_images": work.val_images}
    study_config = reference.study_config(epochs=work.epochs, **images)
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


def handwritten_study(data_dir: Path, device: str, storage: str, tracking_uri: str, images: int) -> float:
    """Images per second of a trial of one epoch, after one for warm-up, in a study as written by hand.

    It has plain TPE, the handwritten loop and one MLflow metric per step. Networks over the budget are
    pruned after they were built and counted, as is usual. The reference is enqueued, so that both
    trials train the same network as the project's.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("handwritten")
    train = reference.cached_split(data_dir, "cpu").train[:images]
    study = optuna.create_study(storage=storage, direction="minimize")
    widths = [f"width_{i}" for i in range(1, 6)]

    def objective(trial: optuna.Trial) -> float:
        recipe = reference.recipe(**{name: trial.suggest_int(name, 4, 30) for name in widths})
        if count(build(recipe.architecture, 0)) > reference.BUDGET:
            raise optuna.TrialPruned
        with mlflow.start_run():
            for step, (_, loss, _) in enumerate(handwritten_loop(recipe, train, 0, device), 1):
                mlflow.log_metric("train_loss", loss, step=step)
        return loss

    for _ in range(2):
        study.enqueue_trial({name: reference.PARAMS[name] for name in widths})
        started = time.perf_counter()
        study.optimize(objective, n_trials=1)
    return images / (time.perf_counter() - started)


def ratio_note(jobs: Sequence[int], best: int) -> str:
    """What ``parallel.ratio`` compares; with one worker it is 1 whatever the speed."""
    if len(jobs) == 1:
        return "1 by definition: one core, so one worker"
    if best == jobs[0]:
        return f"1 by definition: one worker was faster than {' or '.join(map(str, jobs[1:]))}"
    return f"{best} workers / {jobs[0]}"


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
    rates: dict[int, list[float]] = {}
    for k in jobs:
        seconds = [each.ended[-1] - each.started[0] for each in reporters[k]]
        rates[k] = [3600 * work.trials_per_worker * k / each for each in seconds]
        note = f"trials of {images:,} images, logged to MLflow"
        yield result(f"parallel.trials_per_hour.k{k}", "trials/h", rates[k], note)
    best = max(jobs, key=lambda k: sum(rates[k]))
    yield ratio_result("parallel.ratio", rates[best], rates[jobs[0]], ratio_note(jobs, best))
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
