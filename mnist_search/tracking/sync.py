"""Make MLflow agree with the store: the only writer of trial runs, their models and the study's summary.

Every pass compares the store with what this process has written. It starts from what MLflow has, found
by tags, so that an outage, a crash or a deletion in the UI is repaired by the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from sqlalchemy.exc import SQLAlchemyError

from mnist_search.data import mnist
from mnist_search.data.dataset import Digits, load_split
from mnist_search.errors import UnusableConfiguration, first_line
from mnist_search.records import FinalsRecord, StudyRecord, TrialRecord
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking import models, run_info, runs
from mnist_search.tracking.config import Notify, TrackingConfig
from mnist_search.tracking.runs import UID_TAG, RunInfo, Tracking
from mnist_search.tracking.setup import open_tracking
from mnist_search.tracking.summary import StudySeries, leaderboard_csv, log_summary
from mnist_search.training.device import CPU

MODEL_SECONDS = 20.0
"""A model takes seconds of CPU time: while a search improves, many networks are kept only briefly."""


@dataclass
class SyncedRun:
    """What this process knows of a trial's run.

    Attributes:
        written: number of epochs that the run has; None until it has its params.
        is_ended: whether it has the trial's final state.
        lacks_artifacts: whether MLflow could not store all of its artifacts.
    """

    run_id: str
    attempt: str
    written: int | None = None
    is_ended: bool = False
    lacks_artifacts: bool = False
    model_id: str | None = None


class StudySync:
    """Writes one study to MLflow; call ``sync`` repeatedly while the study's sync lock is held.

    Args:
        study: to write.
        config: where to.
        data_dir: the MNIST files, for the confusion matrix of a model; None for the cache.
        notify: receives what cannot be written, once each.
        on_progress: called after every write that no later pass repeats, and once MLflow has been opened.
        model_seconds: how long a network must have been among the kept ones before its model is logged.
    """

    def __init__(
        self,
        study: TrackedStudy,
        config: TrackingConfig,
        data_dir: Path | None,
        notify: Notify,
        on_progress: Callable[[], None] = lambda: None,
        model_seconds: float = MODEL_SECONDS,
    ) -> None:
        self._study = study
        self._config = config
        self._data_dir = data_dir
        self._notify = notify
        self._on_progress = on_progress
        self._model_seconds = model_seconds
        self._kept_since: dict[int, float] = {}
        self._tracking: Tracking | None = None
        self._has_opened = self._has_adopted = False
        self._runs: dict[int, SyncedRun] = {}
        self._seen: object = None
        self._summary: object = None
        self._series: StudySeries | None = None
        self._failed: dict[str, type[Exception]] = {}  # artifacts that MLflow cannot store
        self._val: Digits | None = None

    @property
    def tracking(self) -> Tracking:
        """The connection; opened if there is none."""
        if self._tracking is None:
            self._tracking = open_tracking(self._config, self._study)
            if not self._has_opened:
                self._on_progress()
            self._has_opened = True
        return self._tracking

    def run_of(self, trial: TrialRecord) -> str:
        """The run of a trial, after ``sync``."""
        return self._runs[trial.number].run_id

    def is_outdated(self) -> bool:
        """Whether MLflow shows a run of the study as running, or lacks runs of trained trials."""
        tracking, is_search = self.tracking, self._study.is_search
        found = runs.list_runs(tracking, self._study.uid, "trial" if is_search else "final")
        active = [run for run in found if not runs.is_deleted(run)]
        trained = [trial for trial in self._study.record().trials if trial.is_finished and trial.curve]
        parent = [tracking.client.get_run(tracking.parent_run_id)] if is_search else []
        return len(active) < len(trained) or any(run.info.status == "RUNNING" for run in active + parent)

    def reset(self) -> None:
        """Forget what MLflow has, after an error or before the last pass: the next pass reads it."""
        self._tracking, self._seen, self._summary, self._runs = None, None, None, {}
        self._series, self._has_adopted = None, False

    def sync(self, status: str = "RUNNING") -> None:
        """Write what MLflow lacks, delete what the store lacks, and set the status of the study's run.

        Raises:
            MlflowException, SQLAlchemyError, OSError, ImportError: MLflow or the store is unavailable.
        """
        loggable = self._loggable(status)
        seen = (self._study.fingerprint(), status, loggable)
        if seen == self._seen:
            return
        record = self._study.record()
        if not self._has_adopted:
            self._adopt(record)
            self._has_adopted = True
        for trial in record.trials:
            self._sync_run(record, trial)
        summary = (len(record.done), record.n_trials, status)
        if summary != self._summary:
            self._update_parent(record, status)
            self._summary = summary
        if isinstance(record, StudyRecord):
            self._sync_models(record, loggable)
        for trial in record.trials:
            synced = self._runs.get(trial.number)
            if synced and (trial.run_id, trial.model_id) != (synced.run_id, synced.model_id):
                self._study.record_run(trial, synced.run_id, synced.model_id)
        self._seen = seen

    def _adopt(self, record: StudyRecord | FinalsRecord) -> None:
        """Take over the runs and models that MLflow has, one for every trial, and delete the others."""
        role = "trial" if self._study.is_search else "final"
        linked = [trial.run_id for trial in record.trials if trial.run_id and runs.is_old(trial)]
        found = runs.list_runs(self.tracking, self._study.uid, role, linked)
        lacking = [trial for trial in record.trials if trial.state != "WAITING"]
        for run in sorted(found, key=runs.preference):
            trial = next((trial for trial in lacking if runs.is_run_of(run, trial)), None)
            if trial is not None:
                lacking.remove(trial)
                self._runs[trial.number] = self._adopt_run(trial, run)
            elif {runs.NUMBER_TAG, runs.FINAL_TAG} & run.data.tags.keys() and not runs.is_deleted(run):
                runs.delete_run(self.tracking, run.info.run_id)
        if self._study.is_search:
            self._adopt_models()

    def _adopt_run(self, trial: TrialRecord, run: Run) -> SyncedRun:
        run_id, tags, is_deleted = run.info.run_id, run.data.tags, runs.is_deleted(run)
        if is_deleted:
            self.tracking.client.restore_run(run_id)
        identity = runs.identity(self.tracking, self._study.uid, trial)
        if not identity.items() <= tags.items():  # a run of an older version
            runs.set_tags(self.tracking, run_id, identity)
        runs.remove_old_state(self.tracking, run)
        return SyncedRun(
            run_id,
            trial.attempt or "",
            is_ended=trial.is_finished and run.info.status == runs.STATUS[trial.state] and not is_deleted,
            lacks_artifacts=tags.get(runs.ARTIFACTS_TAG) == "missing",
        )

    def _adopt_models(self) -> None:
        by_run = {synced.run_id: synced for synced in self._runs.values()}
        for model in models.list_models(self.tracking):
            synced = by_run.get(str(model.source_run_id))
            is_old = UID_TAG not in model.tags and synced is not None and "-trial-" in model.name
            if not is_old and model.tags.get(UID_TAG) != self._study.uid:
                continue  # of another study or user; version 0.1 wrote no uid
            if synced and not synced.model_id and str(model.status) == "READY":
                synced.model_id = str(model.model_id)
            else:
                models.delete_model(self.tracking, model.model_id)

    def _sync_run(self, record: StudyRecord | FinalsRecord, trial: TrialRecord) -> None:
        synced = self._runs.get(trial.number)
        if synced and (trial.state == "WAITING" or synced.attempt != (trial.attempt or "")):
            runs.delete_run(self.tracking, synced.run_id)
            del self._runs[trial.number]
            synced = None
        is_current = synced and synced.is_ended and (self._failed or not synced.lacks_artifacts)
        is_untrained = trial.state == "WAITING" or (trial.state == "RUNNING" and trial.device is None)
        if is_current or is_untrained or trial.is_over_budget:
            return
        info = run_info.run_info(record, trial)
        if info is None:
            return
        if synced is None:
            run_id = runs.create_run(self.tracking, self._study.uid, trial, info)
            synced = self._runs[trial.number] = SyncedRun(run_id, trial.attempt or "")
        self._write(synced, trial, info)

    def _write(self, synced: SyncedRun, trial: TrialRecord, info: RunInfo) -> None:
        """Write what the run of a trial lacks."""
        tracking, client, run_id = self.tracking, self.tracking.client, synced.run_id
        if synced.written is None:
            runs.log_info(tracking, run_id, trial, info)
            has_layers = self._log_artifact(client.log_text, run_id, info.layer_table, "layers.txt")
            synced.written, synced.lacks_artifacts = 0, not has_layers
        runs.log_epochs(tracking, run_id, trial, synced.written)
        synced.written = trial.epochs
        if trial.is_finished:
            runs.end_run(tracking, run_id, trial, info, "missing" if synced.lacks_artifacts else "complete")
            synced.is_ended = True
            self._on_progress()

    def _log_artifact(
        self, log: Callable[[str, Any, str], object], run_id: str, content: object, name: str
    ) -> bool:
        """Whether MLflow has stored an artifact; after a failure, only a later command tries again.

        Raises:
            MlflowException, SQLAlchemyError, OSError: MLflow or the store is unavailable.
        """
        if name in self._failed:
            return False
        try:
            log(run_id, content, name)
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a drawing, a model or the artifact store raises
            self.tracking.client.get_run(run_id)  # raises while MLflow is unavailable
            if type(error) not in self._failed.values():
                reason = f"{type(error).__name__}: {first_line(error)}"
                self._notify(
                    f"MLflow lacks artifacts, such as {name} ({reason}); the next command tries again"
                )
            self._failed[name] = type(error)
        return name not in self._failed

    def _loggable(self, status: str) -> frozenset[int]:
        """Ids of the trials whose models are logged: a better trial may soon replace one that is kept."""
        now = time.monotonic()
        self._kept_since = {key: self._kept_since.get(key, now) for key in self._study.kept_ids()}
        is_end = status != "RUNNING"
        return frozenset(
            key for key, since in self._kept_since.items() if is_end or now - since >= self._model_seconds
        )

    def _sync_models(self, record: StudyRecord, loggable: frozenset[int]) -> None:
        """Log the networks whose weights the store keeps, and delete the others."""
        kept = self._study.kept_ids()
        for trial in record.trials:
            synced, is_kept = self._runs.get(trial.number), trial.trial_id in kept
            if not synced or not trial.is_finished or is_kept == bool(synced.model_id):
                continue
            if is_kept and trial.trial_id not in loggable:
                continue
            if is_kept:
                log, name = partial(self._log_model, record), f"{record.name}-trial-{trial.number}"
                if not self._log_artifact(log, synced.run_id, trial, name):
                    continue
            else:
                models.delete_model(self.tracking, str(synced.model_id))
                synced.model_id = None
            self._on_progress()

    def _log_model(self, record: StudyRecord, run_id: str, trial: TrialRecord, name: str) -> None:
        try:
            network = run_info.kept_network(record, trial, self._study.weights_of(trial))
        except UnusableConfiguration:
            if trial.trial_id in self._study.kept_ids():
                raise
            return  # a better trial has replaced it
        if self._val is None:
            folder = mnist.resolve_data_dir(self._data_dir)
            self._val = load_split(folder, *record.config.split, CPU).val
        tags = {runs.STUDY_TAG: record.name, UID_TAG: record.uid}
        self._runs[trial.number].model_id = models.log_pt2(
            self.tracking, run_id, network, self._val, name=name, step=trial.epochs, tags=tags
        )

    def _update_parent(self, record: StudyRecord | FinalsRecord, status: str) -> None:
        client, parent = self.tracking.client, self.tracking.parent_run_id
        if isinstance(record, StudyRecord):
            self._series = self._series or StudySeries(self.tracking)
            self._series.log(record)
            log_summary(self.tracking, record)
            self._log_artifact(client.log_text, parent, leaderboard_csv(record), "leaderboard.csv")
        else:
            runs.set_tags(self.tracking, parent, {"finals": f"{len(record.done)}/{record.n_trials}"})
        if status != "RUNNING":
            client.set_terminated(parent, status)
        elif isinstance(record, StudyRecord):
            client.update_run(parent, status)
