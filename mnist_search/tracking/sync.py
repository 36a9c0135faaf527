"""Make MLflow agree with the store: the only writer of trial runs, their models and the study's summary.

Every pass compares the store with what this process has written. It starts from what MLflow has, found
by tags, so that an outage, a crash or a deletion in the UI is repaired by the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mnist_search.data import mnist
from mnist_search.data.dataset import Digits, load_split
from mnist_search.records import FinalsRecord, StudyRecord, TrialRecord
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking import models, run_info, runs
from mnist_search.tracking.config import TrackingConfig
from mnist_search.tracking.figures import learning_curve
from mnist_search.tracking.runs import UID_TAG, Notify, RunInfo, TrackedRun, Tracking
from mnist_search.tracking.setup import open_tracking
from mnist_search.tracking.summary import log_summary
from mnist_search.training.device import CPU

TERMINATED = {"FINISHED", "KILLED", "FAILED"}


@dataclass
class SyncedRun:
    """What this process knows of a trial's run.

    Attributes:
        has_info: whether it has what is known before training.
        written: number of epochs that the run has.
        is_ended: whether it has the trial's final state.
    """

    run_id: str
    attempt: str
    has_info: bool = False
    written: int = 0
    is_ended: bool = False
    model_id: str | None = None


class StudySync:
    """Writes one study to MLflow; call ``sync`` repeatedly while the study's sync lock is held.

    Args:
        study: of the store.
        config: where runs are logged.
        data_dir: the MNIST files, for the confusion matrix of a model; None for the cache.
        notify: receives what cannot be written, once each.
        on_progress: called after every write that no later pass repeats, and once MLflow has been opened.
    """

    def __init__(
        self,
        study: TrackedStudy,
        config: TrackingConfig,
        data_dir: Path | None,
        notify: Notify,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._study = study
        self._config = config
        self._data_dir = data_dir
        self._notify = notify
        self._on_progress = on_progress
        self._tracking: Tracking | None = None
        self._has_opened = False
        self._runs: dict[int, SyncedRun] = {}
        self._seen: object = None
        self._summary: object = None
        self._skipped: set[int] = set()
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

    @property
    def tracking_uri(self) -> str:
        """Where runs are logged."""
        return self._config.tracking_uri

    def run_of(self, trial: TrialRecord) -> str:
        """The run of a trial, after ``sync``."""
        return self._runs[trial.number].run_id

    def reset(self) -> None:
        """Forget what MLflow has, after an error or before the last pass: the next pass reads it."""
        self._tracking, self._seen, self._summary, self._runs = None, None, None, {}

    def sync(self, status: str = "RUNNING") -> None:
        """Write what MLflow lacks and delete what the store does not have.

        Args:
            status: of the study's run.

        Raises:
            MlflowException, SQLAlchemyError, OSError, ImportError: MLflow or the store is unavailable.
        """
        seen = (self._study.fingerprint(), status)
        if seen == self._seen:
            return
        is_new = self._tracking is None
        tracking = self.tracking
        record = self._study.search_record() if self._study.is_search else self._study.finals_record()
        if is_new:
            self._adopt(tracking, record)
        for trial in record.trials:
            self._sync_run(tracking, record, trial)
        summary = (len(record.done), record.n_trials, status)
        if summary != self._summary:
            self._update_parent(tracking, record, status)
            self._summary = summary
        if isinstance(record, StudyRecord):
            self._sync_models(tracking, record)
        self._seen = seen

    def _adopt(self, tracking: Tracking, record: StudyRecord | FinalsRecord) -> None:
        """Take over the runs and models that MLflow has, one for every trial, and delete the others."""
        role = "trial" if self._study.is_search else "final"
        linked = [trial.run_id for trial in record.trials if trial.run_id and _is_old(trial)]
        found = runs.list_runs(tracking, self._study.uid, role, linked)
        adopted: set[str] = set()
        for trial in record.trials:
            matches = sorted((run for run in found if _is_run_of(run, trial)), key=_preference)
            if matches and trial.state != "WAITING":
                self._adopt_run(tracking, trial, matches[0])
                adopted.add(matches[0].run_id)
        for run in found:
            if run.run_id not in adopted and run.number is not None and not run.is_deleted:
                runs.delete_run(tracking, run.run_id)
        if self._study.is_search:
            self._adopt_models(tracking)
        for trial in record.trials:
            if trial.number in self._runs:
                self._record(trial, self._runs[trial.number])

    def _adopt_run(self, tracking: Tracking, trial: TrialRecord, run: TrackedRun) -> None:
        if run.is_deleted:
            tracking.client.restore_run(run.run_id)
        if run.attempt is None or run.uid is None:
            runs.set_tags(tracking, run.run_id, runs.identity(tracking, self._study.uid, trial))
        is_ended = not run.is_deleted and trial.is_finished and run.status == runs.STATUS[trial.state]
        self._runs[trial.number] = SyncedRun(run.run_id, trial.attempt or "", is_ended=is_ended)

    def _adopt_models(self, tracking: Tracking) -> None:
        run_ids = {synced.run_id for synced in self._runs.values()}

        def is_of_trial(model: LoggedModel) -> bool:
            if UID_TAG in model.tags:
                return bool(model.tags[UID_TAG] == self._study.uid)
            return model.source_run_id in run_ids and "-trial-" in model.name  # version 0.1

        by_run: dict[str, list[LoggedModel]] = {}
        for model in models.list_models(tracking, is_of_trial):
            by_run.setdefault(str(model.source_run_id), []).append(model)
        for synced in self._runs.values():
            synced.model_id = models.adopt_model(tracking, by_run.pop(synced.run_id, []))
        for model in (model for left in by_run.values() for model in left):
            models.delete_model(tracking, model.model_id)

    def _sync_run(self, tracking: Tracking, record: StudyRecord | FinalsRecord, trial: TrialRecord) -> None:
        synced = self._runs.get(trial.number)
        if synced and (trial.state == "WAITING" or synced.attempt != (trial.attempt or "")):
            runs.delete_run(tracking, synced.run_id)
            del self._runs[trial.number]
            synced = None
        is_current = synced is not None and synced.is_ended
        is_untrained = trial.state == "RUNNING" and trial.device is None
        if is_current or is_untrained or trial.state == "WAITING" or trial.is_over_budget:
            return
        info = self._info(record, trial)
        if info is None:
            return
        if synced is None:
            run_id = runs.create_run(tracking, self._study.uid, trial, info)
            synced = self._runs[trial.number] = SyncedRun(run_id, trial.attempt or "")
            self._record(trial, synced)
        if not synced.has_info:
            runs.log_info(tracking, synced.run_id, trial, info)
            synced.has_info = True
        runs.log_epochs(tracking, synced.run_id, trial.curve[synced.written :], info.prefix)
        synced.written = trial.epochs
        if trial.is_finished:
            self._log_curve(tracking, synced, trial)
            runs.end_run(tracking, synced.run_id, trial)
            synced.is_ended = True
            self._on_progress()

    def _info(self, record: StudyRecord | FinalsRecord, trial: TrialRecord) -> RunInfo | None:
        if isinstance(record, StudyRecord):
            return run_info.search_run_info(record, trial)
        assert trial.task is not None
        return run_info.final_run_info(record.name, trial.task)

    def _log_curve(self, tracking: Tracking, synced: SyncedRun, trial: TrialRecord) -> None:
        if not trial.curve:
            return
        title = f"{trial.state.lower()}: {trial.epochs} epochs"
        try:
            figure = learning_curve(trial.curve, title)
            tracking.client.log_figure(synced.run_id, figure, "learning_curve.png")
        except (MlflowException, SQLAlchemyError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a figure that cannot be drawn stops nothing
            self._notify(f"MLflow has no learning curves ({type(error).__name__}: {error})")

    def _record(self, trial: TrialRecord, synced: SyncedRun) -> None:
        if (trial.run_id, trial.model_id) != (synced.run_id, synced.model_id):
            self._study.record_run(trial, synced.run_id, synced.model_id)

    def _sync_models(self, tracking: Tracking, record: StudyRecord) -> None:
        """Log the networks whose weights the store keeps, and delete the others."""
        kept = self._study.kept_ids()
        for trial in record.trials:
            synced = self._runs.get(trial.number)
            if synced is None:
                continue
            if synced.model_id and trial.trial_id not in kept:
                models.delete_model(tracking, synced.model_id)
                synced.model_id = None
            elif trial.trial_id in kept - self._skipped and trial.is_finished and not synced.model_id:
                self._log_model(tracking, record, trial, synced)
            else:
                continue
            self._study.record_run(trial, synced.run_id, synced.model_id)
            self._on_progress()

    def _log_model(
        self, tracking: Tracking, record: StudyRecord, trial: TrialRecord, synced: SyncedRun
    ) -> None:
        try:
            payload = run_info.search_payload(
                record, trial, self._study.weights_of(trial), self._validation_images(record)
            )
            name, tags = f"{record.name}-trial-{trial.number}", {"study": record.name, UID_TAG: record.uid}
            synced.model_id = models.log_pt2(tracking, synced.run_id, payload, name, tags)
        except (MlflowException, SQLAlchemyError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a model that cannot be logged stops nothing
            if trial.trial_id in self._study.kept_ids():  # else a better trial has replaced it
                self._skipped.add(trial.trial_id)
                self._notify(f"MLflow lacks a model ({type(error).__name__}: {error})")

    def _validation_images(self, record: StudyRecord) -> Digits:
        if self._val is None:
            folder = mnist.resolve_data_dir(self._data_dir)
            mnist.verify(folder, mnist.TRAIN_FILES)
            self._val = load_split(folder, *record.config.split, CPU).val
        return self._val

    def _update_parent(self, tracking: Tracking, record: StudyRecord | FinalsRecord, status: str) -> None:
        parent = tracking.parent_run_id
        if isinstance(record, StudyRecord):
            log_summary(tracking, record)
        else:
            runs.set_tags(tracking, parent, {"finals": f"{len(record.done)}/{record.n_trials}"})
        if status != "RUNNING":
            tracking.client.set_terminated(parent, status)
        elif isinstance(record, StudyRecord):
            tracking.client.update_run(parent, status)


def _is_run_of(run: TrackedRun, trial: TrialRecord) -> bool:
    if run.attempt is None:  # version 0.1
        return _is_old(trial) and (run.run_id == trial.run_id or run.number == trial.number)
    return run.number == trial.number and run.attempt == (trial.attempt or "")


def _is_old(trial: TrialRecord) -> bool:
    """Whether version 0.1 trained the trial."""
    return (trial.attempt or "0.1/").startswith("0.1/")


def _preference(run: TrackedRun) -> tuple[bool, bool]:
    """Sort key: active runs first, then ended ones."""
    return run.is_deleted, run.status not in TERMINATED
