"""MLflow runs of final training: children of the parent run, logged from the store after training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from mlflow.entities import Metric, RunTag, ViewType
from mlflow.tracking import MlflowClient

from mnist_search import __version__
from mnist_search.records import FinalResult, FinalTask, StudyRecord
from mnist_search.storage.final_queue import FinalQueue
from mnist_search.tracking.circuit_breaker import CircuitBreaker
from mnist_search.tracking.config import TrackingConfig
from mnist_search.tracking.runs import connect, create_run, epoch_metrics
from mnist_search.tracking.setup import ParentRun, parent_run, prepare

KEY_TAG = "training"
"""Identifies the run of a final task, so that it is logged once."""


def log_finals(
    config: TrackingConfig, queue: FinalQueue, record: StudyRecord | None, warn: Callable[[str], None]
) -> None:
    """Log the finished tasks of a queue that have no run, as far as MLflow is available.

    Args:
        config: where runs are logged.
        queue: the tasks.
        record: the study whose parent run is used; None for one parent run per queue.
        warn: receives one message when MLflow is unavailable.
    """
    parent = parent_run(record) if record else ParentRun(queue.name, queue.name, {})
    parent_config = prepare(config, parent, warn)
    if parent_config is None:
        return
    client, call = connect(parent_config.tracking_uri), CircuitBreaker(warn)
    for training in queue.trainings():
        if training.result is not None and training.run_id is None:
            log = partial(log_final, client, parent_config, queue.name, training.task, training.result)
            run_id = call("log a final run", log)
            if run_id is not None:
                queue.record_run(training, run_id)


def log_final(
    client: MlflowClient, config: TrackingConfig, queue: str, task: FinalTask, result: FinalResult
) -> str:
    """The finished run of a task, a child of the parent run, created if it is missing."""
    key = f"{queue}/{task.name}/{task.seed}/{_digest(result)}"
    query = f"tags.`{KEY_TAG}` = '{key}'"
    for run in client.search_runs([config.experiment_id], query, ViewType.ACTIVE_ONLY):
        if run.info.status in {"FINISHED", "FAILED"}:
            return str(run.info.run_id)
        client.delete_run(run.info.run_id)  # its process stopped halfway
    tags = {KEY_TAG: key, "seed": str(task.seed), "version": result.version, "written_by": __version__}
    name = f"final {task.name} seed {task.seed}"
    metrics = _metrics(task, result)
    run_id = create_run(client, config, "final", name, tags=tags, params=_params(task), metrics=metrics)
    if result.failure:
        client.log_batch(run_id, tags=[RunTag("reason", result.failure)])
    client.set_terminated(run_id, "FINISHED" if result.failure is None else "FAILED")
    return run_id


def _digest(result: FinalResult) -> str:
    """Distinguishes a task from the same one in another store."""
    return hashlib.sha256(json.dumps(asdict(result)).encode()).hexdigest()[:12]


def _metrics(task: FinalTask, result: FinalResult) -> list[Metric]:
    last = result.curve[-1] if result.curve else {"epoch": 0, "timestamp": 0}
    summary = {name: last[name] for name in ("epoch", "timestamp")}
    summary["num_params"] = task.architecture.num_params()
    if result.test_accuracy is not None and result.test_loss is not None:
        summary |= {"test_accuracy": result.test_accuracy, "test_loss": result.test_loss}
    rows = [metric for values in (summary, *result.curve) for metric in epoch_metrics(values)]
    return list({(row.key, row.step): row for row in rows}.values())  # both may have a test accuracy


def _params(task: FinalTask) -> dict[str, Any]:
    training = task.training
    return {
        "name": task.name,
        "architecture": str(task.architecture),
        "multiply_adds": task.architecture.multiply_adds(),
        "judged": task.evaluate,
        "final_seed": task.seed,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "optimizer": type(training.optimizer).__name__.lower(),
        "peak_lr": training.optimizer.lr,
        "weight_decay": training.optimizer.weight_decay,
        "schedule": type(training.schedule).__name__.lower(),
        "label_smoothing": training.label_smoothing,
    }
