"""Run final evaluations: start the workers, log the runs, register the champion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import BASELINES
from mnist_search.data import mnist
from mnist_search.evaluation.finals import REPRODUCTION, final_queue_for, finalists, reproductions
from mnist_search.evaluation.statistics import final_rows, seed_statistics
from mnist_search.execution.config import FinalWorkerConfig
from mnist_search.execution.events import Message
from mnist_search.execution.run_study import device_and_jobs
from mnist_search.execution.runtime import run_worker
from mnist_search.execution.supervisor import ProgressReporter, Stop, supervise
from mnist_search.records import FinalTask, StudyRecord
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.final_queue import FinalQueue
from mnist_search.tracking.config import TrackingConfig

if TYPE_CHECKING:
    from mnist_search.training.device import PrecisionChoice

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class FinalsConfig:
    """Arguments of one command.

    Attributes:
        jobs: worker processes; None for the default of the device.
        mlflow: where runs are logged; None to log none.
        timeout: seconds until the workers are stopped.
    """

    storage: str
    mlflow: TrackingConfig | None = None
    data_dir: Path | None = None
    jobs: int | None = None
    device: str = "auto"
    precision: PrecisionChoice = "auto"
    timeout: float | None = None


def finalize(
    config: FinalsConfig, study: str, *, top: int, seeds: int, again: bool, reporter: ProgressReporter
) -> tuple[Rows, Stop | None]:
    """Train and evaluate a study's finalists, and register the champion once all are finished.

    Returns:
        Statistics of every finalist, and why the workers were stopped early.

    Raises:
        MnistSearchError: no finals can be run; the store is unchanged.
    """
    store = Store.open(config.storage, write=True)
    record = SearchStudy.open(store, study).record()
    tasks = finalists(record, top, seeds)
    queue = final_queue_for(store, record, tasks, again=again, needs_runs=config.mlflow is not None)
    stop = _run(config, lambda: queue, tasks, record, reporter)[1]
    if stop is None and config.mlflow is not None:
        from mnist_search.evaluation.registry import register_champion  # torch, MLflow

        register_champion(store, record, config.mlflow, config.data_dir, _notify(reporter))
    return final_rows(store, record) or [], stop


def reproduce(
    config: FinalsConfig, baseline: str, *, seeds: int, reporter: ProgressReporter
) -> tuple[Rows, Stop | None]:
    """Train and evaluate a baseline, or ``all``, with its author's recipe and the default training.

    Returns:
        Statistics of every network, and why the workers were stopped early.

    Raises:
        MnistSearchError: no reproduction can be run; no store is created.
    """
    tasks = reproductions(list(BASELINES) if baseline == "all" else [baseline], seeds)

    def open_queue() -> FinalQueue:
        return FinalQueue(Store.open_or_create(config.storage), REPRODUCTION)

    queue, stop = _run(config, open_queue, tasks, None, reporter)
    names = {task.name for task in tasks}
    reported = {recipe.name: recipe.reported.test_accuracy for recipe in BASELINES.values()}
    rows = [
        asdict(row) | {"reported_test_accuracy": reported.get(row.name)}
        for row in seed_statistics(queue)
        if row.name in names
    ]
    return rows, stop


def _run(
    config: FinalsConfig,
    open_queue: Callable[[], FinalQueue],
    tasks: Sequence[FinalTask],
    record: StudyRecord | None,
    reporter: ProgressReporter,
) -> tuple[FinalQueue, Stop | None]:
    """Run the open tasks of a queue, which is opened after device and data have been checked."""
    device, max_jobs = device_and_jobs(config.device, config.jobs)
    folder = mnist.resolve_data_dir(config.data_dir)
    mnist.verify(folder)
    queue = open_queue()
    queue.add(tasks)
    jobs, stop = min(max_jobs, len(queue.open)), None
    if jobs:
        worker_config = FinalWorkerConfig(
            storage=config.storage,
            queue=queue.name,
            data_dir=folder.absolute(),
            device=device,
            precision=config.precision,
        )
        stop = supervise(partial(run_worker, worker_config), jobs, reporter, config.timeout)
    if config.mlflow is not None:
        from mnist_search.tracking.final_runs import log_finals  # MLflow

        with Store.open(config.storage, write=True).lock("mirror"):
            log_finals(config.mlflow, queue, record, _notify(reporter))
    return queue, stop


def _notify(reporter: ProgressReporter) -> Callable[[str], None]:
    return lambda text: reporter.handle(Message(text))
