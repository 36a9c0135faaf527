"""Makes the tracker say what the store says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mnist_search.errors import TryAgain
from mnist_search.facts import StudyFacts, TrialFacts
from mnist_search.study.ledger import Ledger
from mnist_search.study.samplers import trial_seed
from mnist_search.tracking import STATUS, Ending, KnownRun, Tracker

if TYPE_CHECKING:
    from mnist_search.training.digits import Digits


class Mirror:
    """Writes to the tracker what it lacks and takes away what mirrors nothing.

    Args:
        val: the validation images, loaded when a model is to be published.
    """

    def __init__(self, ledger: Ledger, tracker: Tracker, val: Callable[[], Digits]) -> None:
        self._ledger = ledger
        self._tracker = tracker
        self._val = val

    def reconcile(self, *, status: str = "RUNNING") -> StudyFacts:
        """Mend every disagreement on runs, models and summary; the study as it stands."""
        with suppress(TryAgain), self._ledger.lock("mirror"):  # else another process is at it
            self._mend_runs()
        self.models()
        facts = self._ledger.facts()
        self._tracker.update_study(facts, status=status)
        return facts

    def _mend_runs(self) -> None:
        known = self._tracker.known_runs()
        if known is None:
            return
        facts = self._ledger.facts()  # after the runs: every run's trial is among them
        status_of = {run.run_id: run.status for run in known}
        for trial in facts.done:
            status = status_of.get(trial.run_id or "")
            if status is None:
                self._write_run(facts, trial)
            elif status != STATUS[trial.state]:
                self._tracker.reopen_trial(str(trial.run_id)).end(_ending(trial))
        for run in known:
            if _is_stale(run, facts.trial(run.number)):
                self._tracker.discard_run(run.run_id)

    def _write_run(self, facts: StudyFacts, trial: TrialFacts) -> None:
        from mnist_search.publish import trial_card  # torch, only when needed

        if not facts.experiment.space.distributions.keys() <= trial.genes.keys():
            return  # it died before it had genes; there is nothing to show
        seed = trial_seed(facts.experiment, trial.number)
        run = self._tracker.start_trial(trial_card(facts.experiment, trial.number, trial.genes, seed))
        if run.run_id is not None:
            run.end(_ending(trial))
            self._ledger.remember_mirror(trial.trial_id, run.run_id)

    def models(self) -> None:
        """Publish the networks that the store keeps, and no others."""
        with suppress(TryAgain), self._ledger.lock("mirror"):  # else another process is at it
            facts, kept = self._ledger.facts(), self._ledger.kept_weights()
            for trial in facts.trials:
                if trial.model_id and trial.trial_id not in kept:
                    if self._tracker.drop_model(trial.model_id):
                        self._ledger.remember_mirror(trial.trial_id, str(trial.run_id))
                elif trial.trial_id in kept and trial.run_id and not trial.model_id:
                    self._publish(facts, trial, kept[trial.trial_id])

    def _publish(self, facts: StudyFacts, trial: TrialFacts, weights: bytes) -> None:
        from mnist_search.publish import model_card  # torch, only when needed

        card = model_card(facts.experiment, trial, weights, self._val())
        model_id = self._tracker.log_model(str(trial.run_id), card)
        if model_id:
            self._ledger.remember_mirror(trial.trial_id, str(trial.run_id), model_id)


def _is_stale(run: KnownRun, trial: TrialFacts | None) -> bool:
    """Whether a run mirrors nothing; while a trial trains, its worker looks after its runs."""
    if trial is None or trial.state == "WAITING":
        return True
    return trial.is_finished and run.run_id != trial.run_id


def _ending(trial: TrialFacts) -> Ending:
    completed = int(1000 * trial.completed.timestamp()) if trial.completed else None
    return Ending(state=trial.state, reason=trial.reason, curve=trial.curve, completed_ms=completed)
