"""Compare a study with its runs in MLflow; nothing is written."""

from __future__ import annotations

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mnist_search.records import TrialRecord
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking import runs
from mnist_search.tracking.config import TrackingConfig, local_file
from mnist_search.tracking.runs import Tracking


def n_experiments(config: TrackingConfig) -> int | None:
    """Number of experiments; None if MLflow's database does not exist yet.

    Raises:
        MlflowException, SQLAlchemyError, OSError, ImportError: MLflow is unavailable.
    """
    file = local_file(config.tracking_uri)
    if file and not file.exists():
        return None
    runs.raise_log_levels()
    return len(MlflowClient(config.tracking_uri).search_experiments())


def differences(study: TrackedStudy, config: TrackingConfig) -> list[str] | None:
    """What MLflow has otherwise than the store, one line per trial; None if the study is not in this MLflow.

    Raises:
        MlflowException, SQLAlchemyError, OSError, ImportError: MLflow is unavailable.
    """
    location = study.location(config.tracking_uri)
    if location is None:
        return None
    tracking = Tracking(MlflowClient(config.tracking_uri), location.experiment_id, location.parent_run_id)
    trials = [trial for trial in study.record().trials if trial.curve]
    linked = [trial.run_id for trial in trials if trial.run_id and runs.is_old(trial)]
    found = runs.list_runs(tracking, study.uid, "trial" if study.is_search else "final", linked)
    active = [run for run in found if not runs.is_deleted(run)]
    lines = []
    for trial in trials:
        of_trial = [run for run in active if runs.is_run_of(run, trial)]
        active = [run for run in active if run not in of_trial]
        if len(of_trial) != 1:
            lines.append(f"trial {trial.number} of {study.name} has {len(of_trial)} runs")
        elif line := _difference(trial, of_trial[0]):
            lines.append(f"trial {trial.number} of {study.name}: {line}")
    return lines + [f"run {run.info.run_id} is of no trial of {study.name}" for run in active]


def _difference(trial: TrialRecord, run: Run) -> str | None:
    """The first value of a run that is not the trial's."""
    if not trial.is_finished:
        return None
    last = trial.curve[-1]
    pairs: list[tuple[str, object, object]] = [
        ("status", run.info.status, runs.STATUS[trial.state]),
        ("epochs", run.data.metrics.get("epochs"), float(trial.epochs)),
        ("train_loss", run.data.metrics.get("train_loss"), last.to_dict().get("train_loss")),
    ]
    if trial.task is None:
        pairs.append(("val_accuracy", run.data.metrics.get("val_accuracy"), last.val_accuracy))
    elif trial.test_accuracy is not None:
        pairs.append(("test_accuracy", run.data.metrics.get("test_accuracy"), trial.test_accuracy))
    wrong = [(name, logged, stored) for name, logged, stored in pairs if logged != stored]
    return f"{wrong[0][0]} is {wrong[0][1]} in MLflow, {wrong[0][2]} in the store" if wrong else None
