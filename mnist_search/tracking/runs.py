"""MLflow runs of trials: list, create, log epochs, end, delete.

Only the client API is used: the fluent API would mark a pruned trial FAILED and a killed one FINISHED.
"""

from __future__ import annotations

import getpass
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mnist_search import __version__
from mnist_search.records import EpochMetrics, State, TrialRecord

ROLE_TAG, UID_TAG, ATTEMPT_TAG, NUMBER_TAG = "role", "study.uid", "attempt", "trial"
PARENT_TAG = "mlflow.parentRunId"

STATUS: Mapping[State, str] = {
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "FAIL": "FAILED",
    "RUNNING": "RUNNING",
    "WAITING": "SCHEDULED",
}
"""MLflow's run status for each trial state; MLflow has no status for pruned."""


@dataclass(frozen=True, slots=True)
class Tracking:
    """An MLflow experiment with the parent run of one study."""

    client: MlflowClient
    experiment_id: str
    parent_run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """Values of a trial's run that are known before training.

    Attributes:
        role: ``trial`` or ``final``.
        params: at most 25, so that a table of runs stays readable.
        layer_table: one line per layer, as text.
        prefix: of the metrics of the evaluated images: ``val`` or ``test``.
    """

    role: str
    name: str
    num_params: int
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    layer_table: str
    prefix: str = "val"


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A trial's run in MLflow.

    Attributes:
        number: of the trial; None for a final run of version 0.1.
        attempt: of the trial; None for a run of version 0.1.
        uid: of the study; None for a run of version 0.1.
    """

    run_id: str
    number: int | None
    attempt: str | None
    uid: str | None
    status: str
    is_deleted: bool


def raise_log_levels() -> None:
    """Hide INFO lines and warnings: MLflow and alembic log every step of creating a database."""
    for name in ("mlflow", "alembic", "torch.export", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)


def run_tags(role: str) -> dict[str, str]:
    """Tags of every run."""
    return {"mlflow.user": user(), "mlflow.source.name": "mnist-search", ROLE_TAG: role}


def user() -> str:
    """Name of the current user; a container's numeric user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def missing_params(run: Run, params: Mapping[str, Any]) -> list[Param]:
    """The params that a run lacks: MLflow refuses another value of a stored one."""
    return [Param(key, str(value)) for key, value in params.items() if key not in run.data.params]


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def milliseconds(moment: datetime | None) -> int:
    """Milliseconds since 1970; now for None."""
    return now_ms() if moment is None else int(1000 * moment.timestamp())


def list_runs(tracking: Tracking, uid: str, role: str, linked: Sequence[str] = ()) -> list[TrackedRun]:
    """Runs of a study's trials, deleted ones included, and runs of version 0.1.

    Args:
        tracking: with the parent run.
        uid: of the study.
        role: ``trial`` or ``final``.
        linked: runs of version 0.1 that the store knows; their parent run may be another.
    """
    queries = (f"tags.`{UID_TAG}` = '{uid}'", f"tags.`{PARENT_TAG}` = '{tracking.parent_run_id}'")
    runs = {
        run.info.run_id: run
        for query in queries
        for run in _search(tracking, f"{query} AND tags.`{ROLE_TAG}` = '{role}'")
    }
    for run_id in set(linked) - runs.keys():
        if (run := find_run(tracking.client, run_id)) is not None:
            runs[run_id] = run
    return [run for run in map(tracked_run, runs.values()) if run.uid in {uid, None}]


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """A run, deleted or not; None if this MLflow has none."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _search(tracking: Tracking, query: str) -> list[Run]:
    runs: list[Run] = []
    token = None
    while True:
        page = tracking.client.search_runs(
            [tracking.experiment_id], query, ViewType.ALL, 1000, page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def tracked_run(run: Run) -> TrackedRun:
    """The values of a run that identify its trial."""
    tags = run.data.tags
    return TrackedRun(
        run_id=run.info.run_id,
        number=int(tags[NUMBER_TAG]) if NUMBER_TAG in tags else None,
        attempt=tags.get(ATTEMPT_TAG),
        uid=tags.get(UID_TAG),
        status=run.info.status,
        is_deleted=run.info.lifecycle_stage == LifecycleStage.DELETED,
    )


def identity(tracking: Tracking, uid: str, trial: TrialRecord) -> dict[str, str]:
    """Tags by which the run of a trial is found again."""
    return {
        UID_TAG: uid,
        NUMBER_TAG: str(trial.number),
        ATTEMPT_TAG: trial.attempt or "",
        PARENT_TAG: tracking.parent_run_id,
    }


def create_run(tracking: Tracking, uid: str, trial: TrialRecord, info: RunInfo) -> str:
    """Create the run of a trial, with the trial's start and without its params; the run's id."""
    tags = run_tags(info.role) | identity(tracking, uid, trial)
    tags |= {
        "version": trial.version or __version__,
        "state": "RUNNING",
        "trial.state": "RUNNING",
        **info.tags,
    }
    run = tracking.client.create_run(tracking.experiment_id, milliseconds(trial.started), tags, info.name)
    return str(run.info.run_id)


def log_info(tracking: Tracking, run_id: str, trial: TrialRecord, info: RunInfo) -> None:
    """Log what is known before training; repeated calls change nothing."""
    params = missing_params(tracking.client.get_run(run_id), info.params)
    num_params = Metric("num_params", info.num_params, milliseconds(trial.started), 0)
    tracking.client.log_batch(run_id, [num_params], params)
    tracking.client.log_text(run_id, info.layer_table, "layers.txt")


def log_epochs(tracking: Tracking, run_id: str, epochs: Sequence[EpochMetrics], prefix: str) -> None:
    """Log epochs; repeated points are idempotent."""
    rows = [metric for epoch in epochs for metric in epoch_metrics(epoch.to_dict(), prefix)]
    if rows:
        tracking.client.log_batch(run_id, metrics=rows)


def epoch_metrics(values: Mapping[str, float], prefix: str = "val") -> list[Metric]:
    """Metrics by name, at the ``epoch`` and ``timestamp`` (ms) among them; ``val_`` becomes ``prefix``."""
    step, timestamp = int(values["epoch"]), int(values["timestamp"])
    names = [name for name in values if name not in {"epoch", "timestamp"}]
    return [Metric(name.replace("val_", f"{prefix}_"), values[name], timestamp, step) for name in names]


def end_run(tracking: Tracking, run_id: str, trial: TrialRecord) -> None:
    """Write the final state of a finished trial, with the trial's end; after all of its epochs."""
    tags = {"state": trial.state, "trial.state": trial.state, "reason": trial.reason}
    metrics: list[Metric] = []
    last = trial.curve[-1] if trial.curve else EpochMetrics()
    if trial.test_accuracy is not None and trial.test_loss is not None and last.val_accuracy is None:
        results = {"test_accuracy": trial.test_accuracy, "test_loss": trial.test_loss}
        metrics = epoch_metrics({"epoch": last.epoch, "timestamp": last.timestamp, **results})
    tracking.client.log_batch(
        run_id, metrics=metrics, tags=[RunTag(name, value) for name, value in tags.items() if value]
    )
    tracking.client.set_terminated(run_id, STATUS[trial.state], milliseconds(trial.completed))


def delete_run(tracking: Tracking, run_id: str) -> None:
    """Delete a run; MLflow keeps it as deleted until ``mlflow gc``."""
    run = find_run(tracking.client, run_id)
    if run is not None and run.info.lifecycle_stage == LifecycleStage.ACTIVE:
        tracking.client.set_terminated(run_id, "KILLED")
        tracking.client.delete_run(run_id)


def set_tags(tracking: Tracking, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    tracking.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


Notify = Callable[[str], None]
"""Receives a line for the user."""
