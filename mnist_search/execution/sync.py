"""Make the tracker agree with the store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mnist_search.errors import TryAgain
from mnist_search.records import StudyRecord, TrialRecord
from mnist_search.search.samplers import trial_seed
from mnist_search.search.study import SearchStudy
from mnist_search.tracking.base import STATUS, TrackedRun, Tracker, TrialEnd
from mnist_search.tracking.config import TrackingConfig

if TYPE_CHECKING:
    from mnist_search.data.dataset import Digits


def make_tracker(config: TrackingConfig | None, study: str, warn: Callable[[str], None]) -> Tracker:
    """The tracker of a study; a no-op tracker without a configuration."""
    if config is None:
        return Tracker()
    from mnist_search.tracking.mlflow_tracker import MlflowTracker  # imports MLflow

    return MlflowTracker(config, study, warn)


class TrackerSync:
    """Creates missing runs and models in the tracker and deletes stale ones.

    Args:
        val: loads the validation images, on the CPU, when a model is logged.
    """

    def __init__(self, search_study: SearchStudy, tracker: Tracker, val: Callable[[], Digits]) -> None:
        self._search_study = search_study
        self._tracker = tracker
        self._val = val

    def sync(self, *, status: str = "RUNNING") -> StudyRecord:
        """Sync runs, models and the study's summary; the study as stored now."""
        self.sync_runs()
        self.sync_models()
        record = self._search_study.record()
        self._tracker.update_study(record, status=status)
        return record

    def sync_runs(self) -> None:
        """Make runs agree with the finished trials, unless another process holds the lock."""
        with suppress(TryAgain), self._search_study.lock("mirror"):
            runs = self._tracker.tracked_runs()
            if runs is None:
                return
            record = self._search_study.record()  # after the runs, so that it has the trial of every run
            statuses = {run.run_id: run.status for run in runs}
            for trial in record.done:
                status = statuses.get(trial.run_id or "")
                if status is None:
                    self._log_run(record, trial)
                elif status != STATUS[trial.state]:
                    self._tracker.reopen_trial(str(trial.run_id)).end(_trial_end(trial))
            for run in runs:
                if _is_stale(run, record.trial(run.number)):
                    self._tracker.delete_run(run.run_id)

    def _log_run(self, record: StudyRecord, trial: TrialRecord) -> None:
        from mnist_search.tracking.run_info import trial_run_info  # imports torch

        if not record.config.space.distributions.keys() <= trial.params.keys():
            return  # its worker crashed before the params were suggested
        seed = trial_seed(record.config, trial.number)
        run = self._tracker.start_trial(trial_run_info(record.config, trial.number, trial.params, seed))
        if run.run_id is not None:
            run.end(_trial_end(trial))
            self._search_study.queue.record_run(trial.trial_id, run.run_id)

    def sync_models(self) -> None:
        """Log the networks whose weights the store keeps and delete others, unless another process holds the lock."""
        with suppress(TryAgain), self._search_study.lock("mirror"):
            record, kept = self._search_study.record(), self._search_study.queue.kept_weights()
            for trial in record.trials:
                if trial.model_id and trial.trial_id not in kept:
                    if self._tracker.delete_model(trial.model_id):
                        self._search_study.queue.record_run(trial.trial_id, str(trial.run_id))
                elif trial.trial_id in kept and trial.run_id and not trial.model_id:
                    self._log_model(record, trial, kept[trial.trial_id])

    def _log_model(self, record: StudyRecord, trial: TrialRecord, weights: bytes) -> None:
        from mnist_search.tracking.run_info import model_payload  # imports torch

        payload = model_payload(record.config, trial, weights, self._val())
        model_id = self._tracker.log_model(str(trial.run_id), payload)
        if model_id:
            self._search_study.queue.record_run(trial.trial_id, str(trial.run_id), model_id)


def _is_stale(run: TrackedRun, trial: TrialRecord | None) -> bool:
    """Whether no trial has this run; the worker of a running trial deletes its stale runs."""
    if trial is None or trial.state == "WAITING":
        return True
    return trial.is_finished and run.run_id != trial.run_id


def _trial_end(trial: TrialRecord) -> TrialEnd:
    completed = int(1000 * trial.completed.timestamp()) if trial.completed else None
    return TrialEnd(state=trial.state, reason=trial.reason, curve=trial.curve, completed_ms=completed)
