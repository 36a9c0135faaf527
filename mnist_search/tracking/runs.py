"""MLflow runs of trials: list, create, log epochs, end, delete.

Only the client API is used: the fluent API would mark a pruned trial FAILED and a killed one FINISHED.
"""

from __future__ import annotations

import getpass
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient

from mnist_search import __version__
from mnist_search.records import EpochMetrics, State, TrialRecord
from mnist_search.tracking.datasets import dataset_inputs

ROLE_TAG, UID_TAG, ATTEMPT_TAG, NUMBER_TAG, STUDY_TAG = "role", "study.uid", "attempt", "trial", "study"
FINAL_TAG, NETWORK_TAG = "final", "network"
"""Number of a final trial, and the name of its network; its tag ``trial`` is the trial of the search."""

PARENT_TAG, COMMIT_TAG = "mlflow.parentRunId", "mlflow.source.git.commit"

OLD_STATE_TAG = "trial.state"
"""Older versions wrote the state of a trial twice."""

ARTIFACTS_TAG = "artifacts"
"""``complete``, or ``missing`` if a later command must log artifacts of the ended run again."""

STATUS: Mapping[State, str] = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
"""MLflow's run status for each final state of a trial; MLflow has no status for pruned."""


@dataclass(frozen=True, slots=True)
class Tracking:
    """An MLflow experiment with the parent run of one study, whose name its runs carry."""

    client: MlflowClient
    experiment_id: str
    parent_run_id: str
    study: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """Values of a trial's run that are known before training.

    Attributes:
        role: ``trial`` or ``final``.
        params: at most 25, so that a table of runs stays readable.
        layer_table: one line per layer, as text.
        rung: of a screened study, that the trial has reached so far.
    """

    role: str
    name: str
    params: Mapping[str, Any]
    tags: dict[str, str]
    layer_table: str
    rung: str | None = None


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


def milliseconds(moment: datetime | None) -> int:
    """Milliseconds since 1970; now for None."""
    return int(1000 * (moment.timestamp() if moment else time.time()))


def all_pages(search: Callable[..., PagedList[Any]]) -> Iterator[Any]:
    """The results of every page; ``search`` takes a ``page_token``."""
    page = search(page_token=None)
    yield from page
    while page.token:
        page = search(page_token=page.token)
        yield from page


def list_runs(tracking: Tracking, uid: str, role: str, linked: Sequence[str] = ()) -> list[Run]:
    """Runs of a study's trials, deleted ones included, and runs of version 0.1.

    ``linked`` are runs of version 0.1 that the store knows; their parent run may be another.
    """
    runs: dict[str, Run] = {}
    for tag, value in ((UID_TAG, uid), (PARENT_TAG, tracking.parent_run_id)):
        query = f"tags.`{tag}` = '{value}' AND tags.`{ROLE_TAG}` = '{role}'"
        search = partial(tracking.client.search_runs, [tracking.experiment_id], query, ViewType.ALL, 1000)
        runs |= {run.info.run_id: run for run in all_pages(search)}
    for run_id in set(linked) - runs.keys():
        if (run := find_run(tracking.client, run_id)) is not None:
            runs[run_id] = run
    return [run for run in runs.values() if run.data.tags.get(UID_TAG, uid) == uid]


@contextmanager
def suppress_mlflow(*codes: str) -> Iterator[None]:
    """Suppress MLflow's exceptions with these error codes."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in codes:
            raise


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """A run, deleted or not; None if this MLflow has none."""
    with suppress_mlflow("RESOURCE_DOES_NOT_EXIST"):
        return client.get_run(run_id)
    return None


def is_deleted(run: Run) -> bool:
    """Whether a run is deleted; MLflow keeps it until ``mlflow gc``."""
    return bool(run.info.lifecycle_stage == LifecycleStage.DELETED)


def identity(tracking: Tracking, uid: str, trial: TrialRecord) -> dict[str, str]:
    """Tags by which the run of a trial is found again, and the name of its study."""
    numbers = {NUMBER_TAG: str(trial.number)}
    if trial.task:
        numbers = {FINAL_TAG: str(trial.number), NETWORK_TAG: trial.task.name}
        searched = trial.task.name.removeprefix("trial ")
        numbers |= {NUMBER_TAG: searched} if searched.isdecimal() else {}
    return numbers | {
        UID_TAG: uid,
        ATTEMPT_TAG: trial.attempt or "",
        PARENT_TAG: tracking.parent_run_id,
        STUDY_TAG: tracking.study,
    }


def create_run(tracking: Tracking, uid: str, trial: TrialRecord, info: RunInfo) -> str:
    """Create the run of a trial, with the trial's start and without its params; the run's id."""
    tags = run_tags(info.role) | identity(tracking, uid, trial) | info.tags
    tags |= {"version": trial.version or __version__, "state": "RUNNING"}
    run = tracking.client.create_run(tracking.experiment_id, milliseconds(trial.started), tags, info.name)
    return str(run.info.run_id)


def log_info(tracking: Tracking, run_id: str, trial: TrialRecord, info: RunInfo) -> None:
    """Log params, number of parameters, data sets, hardware and software; repeated calls change nothing."""
    params = missing_params(tracking.client.get_run(run_id), info.params)
    num_params = Metric("num_params", trial.num_params or 0, milliseconds(trial.started), 0)
    versions = {"torch": trial.software.get("torch"), COMMIT_TAG: trial.software.get("commit")}
    tags = {"device": trial.device} | versions
    tracking.client.log_batch(run_id, [num_params], params, _tags(tags))
    has_test = trial.task is not None and trial.task.split is None
    tracking.client.log_inputs(run_id, dataset_inputs(has_test=has_test))


def _tags(values: Mapping[str, str | None]) -> list[RunTag]:
    """The tags that have a value."""
    return [RunTag(name, value) for name, value in values.items() if value]


def log_epochs(tracking: Tracking, run_id: str, trial: TrialRecord, written: int) -> None:
    """Log the epochs after the first ``written`` ones; repeated points are idempotent."""
    prefix = "test" if trial.task else "val"
    epochs = trial.curve[written:]
    if rows := [metric for epoch in epochs for metric in epoch_metrics(epoch.to_dict(), prefix)]:
        tracking.client.log_batch(run_id, metrics=rows)


def epoch_metrics(values: Mapping[str, float], prefix: str = "val") -> list[Metric]:
    """Metrics by name, at the ``epoch`` and ``timestamp`` (ms) among them; ``val_`` becomes ``prefix``.

    ``seconds`` becomes ``epoch_seconds``, because the seconds of a trial in the tables are those of all epochs.
    """
    step, timestamp = int(values["epoch"]), int(values["timestamp"])
    names = {
        name: name.replace("val_", f"{prefix}_") for name in values if name not in {"epoch", "timestamp"}
    }
    names |= {"seconds": "epoch_seconds"} if "seconds" in names else {}
    return [Metric(metric, values[name], timestamp, step) for name, metric in names.items()]


def end_run(tracking: Tracking, run_id: str, trial: TrialRecord, info: RunInfo, artifacts: str) -> None:
    """Write the final state of a finished trial, with the trial's end; after all of its epochs."""
    tags = {"state": trial.state, "reason": trial.reason, "rung": info.rung, ARTIFACTS_TAG: artifacts}
    last = trial.curve[-1] if trial.curve else EpochMetrics()
    metrics = [Metric("epochs", trial.epochs, milliseconds(trial.completed), last.epoch)]
    if trial.task and last.val_accuracy is None:  # evaluated after the last epoch only
        results = {
            "test_accuracy": trial.test_accuracy,
            "test_loss": trial.test_loss,
            "repeat_val_accuracy": trial.val_accuracy,  # not among the trials' in charts
            "repeat_val_loss": trial.val_loss,
        }
        known = {name: value for name, value in results.items() if value is not None}
        metrics += epoch_metrics(known | {"epoch": last.epoch, "timestamp": last.timestamp})
    tracking.client.log_batch(run_id, metrics, tags=_tags(tags))
    tracking.client.set_terminated(run_id, STATUS[trial.state], milliseconds(trial.completed))


def delete_run(tracking: Tracking, run_id: str) -> None:
    """Delete a run, unless it is deleted."""
    run = find_run(tracking.client, run_id)
    if run is not None and not is_deleted(run):
        tracking.client.set_terminated(run_id, "KILLED")
        tracking.client.delete_run(run_id)


def set_tags(tracking: Tracking, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    tracking.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def remove_old_state(tracking: Tracking, run: Run) -> None:
    """Delete the second tag with the state, which an older version wrote."""
    if OLD_STATE_TAG in run.data.tags:
        tracking.client.delete_tag(run.info.run_id, OLD_STATE_TAG)


def is_run_of(run: Run, trial: TrialRecord) -> bool:
    """Whether a run is that of the current attempt of a trial."""
    tags = run.data.tags
    number = tags.get(NUMBER_TAG)
    has_number = (tags.get(FINAL_TAG, number) if trial.task else number) == str(trial.number)
    if ATTEMPT_TAG in tags:
        return has_number and tags[ATTEMPT_TAG] == (trial.attempt or "")
    return is_old(trial) and (has_number or run.info.run_id == trial.run_id)  # version 0.1


def is_old(trial: TrialRecord) -> bool:
    """Whether version 0.1 trained the trial."""
    return (trial.attempt or "0.1/").startswith("0.1/")


def preference(run: Run) -> tuple[bool, bool]:
    """Sort key: active runs first, then ended ones."""
    return is_deleted(run), run.info.status not in STATUS.values()
