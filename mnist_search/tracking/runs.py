"""Create MLflow runs: client, common tags, metric rows."""

from __future__ import annotations

import getpass
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import mlflow
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from mnist_search.tracking.config import TrackingConfig

ROLE_TAG = "role"
PARENT_TAG = "mlflow.parentRunId"


def connect(tracking_uri: str) -> MlflowClient:
    """A client for this tracking URI, which becomes MLflow's default."""
    raise_log_levels()
    mlflow.set_tracking_uri(tracking_uri)
    return MlflowClient(tracking_uri)


def raise_log_levels() -> None:
    """Hide INFO lines and warnings: MLflow and alembic log every step of creating a database."""
    for name in ("mlflow", "alembic", "torch.export", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)


def create_run(
    client: MlflowClient,
    config: TrackingConfig,
    role: str,
    name: str,
    *,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    metrics: Sequence[Metric] = (),
) -> str:
    """Create a run, below the parent run if ``config`` names one; the run's id."""
    common = {"mlflow.user": user(), "mlflow.source.name": "mnist-search", ROLE_TAG: role}
    if config.parent_run_id:
        common[PARENT_TAG] = config.parent_run_id
    run_id: str = client.create_run(config.experiment_id, tags=common | dict(tags), run_name=name).info.run_id
    client.log_batch(run_id, metrics, [Param(key, str(value)) for key, value in params.items()])
    return run_id


def epoch_metrics(values: Mapping[str, float]) -> list[Metric]:
    """Metrics by name, at the ``epoch`` and ``timestamp`` (ms) among them; repeated rows are idempotent."""
    step, timestamp = int(values["epoch"]), int(values["timestamp"])
    names = [name for name in values if name not in {"epoch", "timestamp"}]
    return [Metric(name, values[name], timestamp, step) for name in names]


def user() -> str:
    """Name of the current user; a container's numeric user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
