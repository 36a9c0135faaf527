"""Makes the tracker say what the store says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mnist_search.errors import TryAgain
from mnist_search.records import StudyRecord, TrialRecord
from mnist_search.search.samplers import trial_seed
from mnist_search.search.study import SearchStudy
from mnist_search.tracking.base import STATUS, TrackedRun, Tracker, TrialEnd

if TYPE_CHECKING:
    from mnist_search.data.dataset import Digits


class TrackerSync:
    """Writes to the tracker what it lacks and takes away what mirrors nothing.

    Args:
        val: the validation images, loaded when a model is to be published.
    """

    def __init__(self, search_study: SearchStudy, tracker: Tracker, val: Callable[[], Digits]) -> None:
        self._search_study = search_study
        self._tracker = tracker
        self._val = val

    def reconcile(self, *, status: str = "RUNNING") -> StudyRecord:
        """Mend every disagreement on runs, models and summary; the study as it stands."""
        with suppress(TryAgain), self._search_study.lock("mirror"):  # else another process is at it
            self._mend_runs()
        self.models()
        record = self._search_study.record()
        self._tracker.update_study(record, status=status)
        return record

    def _mend_runs(self) -> None:
        known = self._tracker.tracked_runs()
        if known is None:
            return
        record = self._search_study.record()  # after the runs: every run's trial is among them
        status_of = {run.run_id: run.status for run in known}
        for trial in record.done:
            status = status_of.get(trial.run_id or "")
            if status is None:
                self._write_run(record, trial)
            elif status != STATUS[trial.state]:
                self._tracker.reopen_trial(str(trial.run_id)).end(_ending(trial))
        for run in known:
            if _is_stale(run, record.trial(run.number)):
                self._tracker.delete_run(run.run_id)

    def _write_run(self, record: StudyRecord, trial: TrialRecord) -> None:
        from mnist_search.tracking.run_info import trial_run_info  # torch, only when needed

        if not record.config.space.distributions.keys() <= trial.params.keys():
            return  # it died before it had params; there is nothing to show
        seed = trial_seed(record.config, trial.number)
        run = self._tracker.start_trial(trial_run_info(record.config, trial.number, trial.params, seed))
        if run.run_id is not None:
            run.end(_ending(trial))
            self._search_study.queue.record_run(trial.trial_id, run.run_id)

    def models(self) -> None:
        """Publish the networks that the store keeps, and no others."""
        with suppress(TryAgain), self._search_study.lock("mirror"):  # else another process is at it
            record, kept = self._search_study.record(), self._search_study.queue.kept_weights()
            for trial in record.trials:
                if trial.model_id and trial.trial_id not in kept:
                    if self._tracker.delete_model(trial.model_id):
                        self._search_study.queue.record_run(trial.trial_id, str(trial.run_id))
                elif trial.trial_id in kept and trial.run_id and not trial.model_id:
                    self._publish(record, trial, kept[trial.trial_id])

    def _publish(self, record: StudyRecord, trial: TrialRecord, weights: bytes) -> None:
        from mnist_search.tracking.run_info import model_payload  # torch, only when needed

        card = model_payload(record.config, trial, weights, self._val())
        model_id = self._tracker.log_model(str(trial.run_id), card)
        if model_id:
            self._search_study.queue.record_run(trial.trial_id, str(trial.run_id), model_id)


def _is_stale(run: TrackedRun, trial: TrialRecord | None) -> bool:
    """Whether a run mirrors nothing; while a trial trains, its worker looks after its runs."""
    if trial is None or trial.state == "WAITING":
        return True
    return trial.is_finished and run.run_id != trial.run_id


def _ending(trial: TrialRecord) -> TrialEnd:
    completed = int(1000 * trial.completed.timestamp()) if trial.completed else None
    return TrialEnd(state=trial.state, reason=trial.reason, curve=trial.curve, completed_ms=completed)
