"""Final trainings in MLflow: runs beside the study's trials, written from the store when they have ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.tracking import MlflowClient

from mnist_search import __version__
from mnist_search.records import FinalResult, FinalTask
from mnist_search.tracking.circuit_breaker import CircuitBreaker, quieten
from mnist_search.tracking.config import TrackingConfig
from mnist_search.tracking.setup import ROLE_TAG, user

KEY_TAG = "training"
"""Tells the run of a training from all others, so that it is written once."""


class FinalsTracker:
    """Writes final trainings as children of a parent run.

    Args:
        place: with the experiment and the parent run.
        series: name of the series, for tags.
        warn: told once in plain words when MLflow cannot be reached.
    """

    def __init__(self, config: TrackingConfig, series: str, warn: Callable[[str], None]) -> None:
        quieten()
        mlflow.set_tracking_uri(config.tracking_uri)
        self._client = MlflowClient(config.tracking_uri)
        self._config = config
        self._series = series
        self._reach = CircuitBreaker(warn)

    def log(self, task: FinalTask, result: FinalResult) -> str | None:
        """The finished run of a training, made unless it is there; None while MLflow is out of reach."""
        return self._reach("a final run", lambda: self._log(task, result))

    def _log(self, task: FinalTask, result: FinalResult) -> str:
        key = f"{self._series}/{task.name}/{task.seed}/{_digest(result)}"
        for run in self._found(key):
            if run.info.status in {"FINISHED", "FAILED"}:
                return str(run.info.run_id)
            self._client.delete_run(run.info.run_id)  # its writer died half-way
        tags = {
            "mlflow.parentRunId": self._config.parent_run_id,
            "mlflow.user": user(),
            "mlflow.source.name": "mnist-search",
            ROLE_TAG: "final",
            KEY_TAG: key,
            "seed": str(task.seed),
            "version": result.version,
            "written_by": __version__,
        }
        run_id: str = self._client.create_run(
            self._config.experiment_id, tags=tags, run_name=f"final {task.name} seed {task.seed}"
        ).info.run_id
        self._write(run_id, task, result)
        self._client.set_terminated(run_id, "FINISHED" if result.failure is None else "FAILED")
        return run_id

    def _found(self, key: str) -> Any:
        query = f"tags.`{KEY_TAG}` = '{key}'"
        return self._client.search_runs([self._config.experiment_id], query, ViewType.ACTIVE_ONLY)

    def _write(self, run_id: str, task: FinalTask, result: FinalResult) -> None:
        params = [Param(name, str(value)) for name, value in _params(task).items()]
        end = result.curve[-1] if result.curve else {"timestamp": 0, "epoch": 0}
        metrics = [_metric("num_params", task.architecture.num_params(), end)]
        if result.test_accuracy is not None and result.test_loss is not None:
            metrics += [
                _metric("test_accuracy", result.test_accuracy, end),
                _metric("test_loss", result.test_loss, end),
            ]
        for epoch in result.curve:
            names = (name for name in epoch if name not in {"epoch", "timestamp"})
            metrics += [_metric(name, epoch[name], epoch) for name in names]
        unique = {(m.key, m.step): m for m in metrics}  # the last epoch may be there twice
        self._client.log_batch(run_id, list(unique.values()), params)
        if result.failure:
            self._client.log_batch(run_id, tags=[RunTag("reason", result.failure)])


def _digest(result: FinalResult) -> str:
    """Tells a training from the same one in another store."""
    return hashlib.sha256(json.dumps(asdict(result)).encode()).hexdigest()[:12]


def _metric(name: str, value: float, epoch: Mapping[str, Any]) -> Metric:
    return Metric(name, value, int(epoch["timestamp"]), int(epoch["epoch"]))


def _params(task: FinalTask) -> dict[str, Any]:
    training = task.training
    return {
        "name": task.name,
        "architecture": str(task.architecture),
        "multiply_adds": task.architecture.multiply_adds(),
        "judged": task.judged,
        "final_seed": task.seed,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "optimizer": type(training.optimizer).__name__.lower(),
        "peak_lr": training.optimizer.lr,
        "weight_decay": training.optimizer.weight_decay,
        "schedule": type(training.schedule).__name__.lower(),
        "label_smoothing": training.label_smoothing,
    }
