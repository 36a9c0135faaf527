"""The trials of one study as a queue: each is claimed by one worker at a time and finished once.

Each trial takes one slot, unless the budget rejects it. When its worker stops or crashes, the trial is requeued under the same
number with the same params, so none is lost or duplicated. The study is full when every slot is
taken, and done when every trial has finished.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from mnist_search.records import STATES, State
from mnist_search.storage import leases, studies, weights
from mnist_search.storage.database import Store
from mnist_search.storage.studies import N_TRIALS_ATTR, UID_ATTR
from mnist_search.storage.tables import tracked_runs

logger = logging.getLogger(__name__)

MAX_CRASHES = 3
"""A trial whose worker crashed this often fails: the trial may be the cause."""


class LostLease(Exception):
    """The lease expired, and the trial was requeued or claimed by another worker."""


@dataclass(frozen=True)
class Claim:
    """A trial that this worker has claimed.

    Attributes:
        owner: the lease's owner, which proves that the trial is still this worker's.
        stale_run_id: the MLflow run that an earlier attempt opened for the trial.
    """

    trial: Trial
    trial_id: int
    owner: str
    stale_run_id: str | None


class TrialQueue:
    """Claims, renews, finishes and releases the trials of one study."""

    def __init__(self, store: Store, study: optuna.Study) -> None:
        self._store = store
        self._study = study
        self._uid = str(study.user_attrs[UID_ATTR])

    def claim(self, propose: Callable[[Trial], None]) -> Claim | None:
        """Claim a released trial, else an enqueued one, else a new one; None without a free slot.

        Args:
            propose: suggests every param of the trial; called while no other worker can claim.
        """
        with self._store.lock("claim"):
            self._release_expired()
            trial = self._next_trial()
            if trial is None:
                return None
            claim = Claim(trial, id_of(trial), uuid.uuid4().hex, self.run_of(id_of(trial)))
            leases.write(self._store, claim.trial_id, claim.owner)
            propose(trial)
            logger.info("claimed trial %d", trial.number)
            return claim

    def _next_trial(self) -> Trial | None:
        trials = self._study.get_trials(deepcopy=False)
        waiting = [t for t in trials if t.state == TrialState.WAITING]
        released = [t for t in waiting if _was_claimed(t)]
        if released:
            return self._start(released[0])
        taken = sum(not studies.is_over_budget(t) for t in trials) - len(waiting)
        if taken >= int(self._study.user_attrs[N_TRIALS_ATTR]):
            return None
        if waiting:
            return self._start(waiting[0])
        # Optuna repeats a failed insertion, so that a lost acknowledgement inserts a trial twice. As a
        # waiting trial the second one takes the next slot; as a running one it would exceed them.
        self._study.add_trial(create_trial(state=TrialState.WAITING))
        return self._study.ask()

    def _start(self, trial: FrozenTrial) -> Trial:
        self._store.storage.set_trial_state_values(id_of(trial), TrialState.RUNNING)
        return Trial(self._study, id_of(trial))

    def finish(
        self,
        claim: Claim,
        state: TrialState,
        value: float | None = None,
        *,
        attributes: Mapping[str, Any] | None = None,
        safetensors: bytes | None = None,
        keep: int = 0,
    ) -> None:
        """Finish a trial, and keep its weights while it is among the ``keep`` best.

        Args:
            claim: the trial.
            state: COMPLETE, PRUNED or FAIL.
            value: the score of a complete trial.
            attributes: user attributes to write first: curve, reason, traceback.
            safetensors: its trained weights.
            keep: number of trials whose weights the store keeps.

        Raises:
            LostLease: the trial is no longer this worker's; nothing was changed.
        """
        with self._store.lock("claim"):
            self._check_lease(claim)
            for name, attribute in (attributes or {}).items():
                claim.trial.set_user_attr(name, attribute)
            stored = self._store.storage.get_trial(claim.trial_id)
            if value is None and state == TrialState.PRUNED and stored.last_step is not None:
                value = stored.intermediate_values[stored.last_step]  # as Study.tell does
            values = None if value is None else [value]
            self._study.sampler.after_trial(self._study, stored, state, values)
            kept = self._kept_after(claim.trial_id, STATES[state.name])[:keep]
            changes: list[sa.Delete | sa.Insert] = [leases.deletion(claim.trial_id)]
            changes.append(weights.deletion_of_others(self._uid, kept))
            if safetensors is not None and claim.trial_id in kept:
                changes += weights.replacement(claim.trial_id, self._uid, safetensors)
            self._set_state(claim.trial_id, state, values, changes)
        logger.info("finished trial %d: %s", claim.trial.number, state.name)

    def _kept_after(self, trial_id: int, state: State) -> list[int]:
        """Ids of complete trials, best first, as they will be when a trial has ended in ``state``."""
        record = studies.study_record(self._store, self._study)
        trials = [replace(t, state=state) if t.trial_id == trial_id else t for t in record.trials]
        return [trial.trial_id for trial in replace(record, trials=trials).ranked]

    def _set_state(
        self, trial_id: int, state: TrialState, values: list[float] | None, changes: Sequence[sa.Executable]
    ) -> None:
        """Change a trial's state and execute ``changes`` in one transaction.

        Optuna's storage joins the session that this thread has open, and commits it with the state.
        """
        session = self._store.storage.scoped_session()
        try:
            for change in changes:
                session.execute(change)
            self._store.storage.set_trial_state_values(trial_id, state, values)
        except BaseException:
            session.rollback()
            raise

    def release(self, claim: Claim) -> None:
        """Requeue a trial under its number, without the epochs that it has reported.

        Raises:
            LostLease: the trial is no longer this worker's; nothing was changed.
        """
        with self._store.lock("claim"):
            self._check_lease(claim)
            self._release(claim.trial_id)
        logger.info("released trial %d", claim.trial.number)

    def renew(self, claim: Claim) -> bool:
        """Renew the lease of a trial; False if the trial is no longer this worker's."""
        return leases.renew(self._store, claim.owner)

    def _check_lease(self, claim: Claim) -> None:
        if not self.renew(claim):
            raise LostLease(f"the lease of trial {claim.trial.number} expired; another worker has the trial")

    def release_expired(self) -> None:
        """Requeue the trials of workers that have crashed."""
        with self._store.lock("claim"):
            self._release_expired()

    def _release_expired(self) -> None:
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        active = leases.active(self._store) if running else set()
        for trial in running:
            if id_of(trial) in active:
                continue
            crashes = trial.user_attrs.get("deaths", 0) + 1
            self._store.storage.set_trial_user_attr(id_of(trial), "deaths", crashes)
            logger.info("the lease of trial %d expired, crash %d", trial.number, crashes)
            if crashes < MAX_CRASHES:
                self._release(id_of(trial))
                continue
            reason = f"its worker crashed {crashes} times"
            self._store.storage.set_trial_user_attr(id_of(trial), "reason", reason)
            self._set_state(id_of(trial), TrialState.FAIL, None, [leases.deletion(id_of(trial))])

    def _release(self, trial_id: int) -> None:
        reports = sa.table("trial_intermediate_values", sa.column("trial_id"))
        changes = [sa.delete(reports).where(reports.c.trial_id == trial_id), leases.deletion(trial_id)]
        self._set_state(trial_id, TrialState.WAITING, None, changes)

    def kept_weights(self) -> dict[int, bytes]:
        """Weights of the study as safetensors, by trial id; see ``weights.of_study``."""
        return weights.of_study(self._store, self._uid)

    def record_run(self, trial_id: int, run_id: str, model_id: str | None = None) -> None:
        """Record the MLflow run and logged model of a trial."""
        row = {"trial_id": trial_id, "study_uid": self._uid, "run_id": run_id, "model_id": model_id}
        with self._store.engine.begin() as connection:
            connection.execute(sa.delete(tracked_runs).where(tracked_runs.c.trial_id == trial_id))
            connection.execute(sa.insert(tracked_runs).values(row))

    def run_of(self, trial_id: int) -> str | None:
        """The recorded MLflow run of a trial."""
        of_trial = (tracked_runs.c.trial_id == trial_id) & (tracked_runs.c.study_uid == self._uid)
        with self._store.engine.begin() as connection:
            return connection.execute(sa.select(tracked_runs.c.run_id).where(of_trial)).scalar()


def id_of(trial: Trial | FrozenTrial) -> int:
    """The store's key of a trial, which Optuna's storage API takes but its trials do not publish."""
    return trial._trial_id  # noqa: SLF001


def _was_claimed(trial: FrozenTrial) -> bool:
    """Whether a waiting trial was released by a worker rather than enqueued by a user."""
    return bool(trial.params or trial.user_attrs.get("deaths"))
