"""The trials of one study as a queue: each is claimed by one worker at a time and finished once.

Each trial takes one slot, unless the budget rejects it. When its worker stops or crashes, the trial is requeued under the same
number with the same params, so none is lost or duplicated. The study is full when every slot is
taken, and done when every trial has finished.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.orm import Session

from mnist_search import __version__
from mnist_search.records import EpochMetrics
from mnist_search.storage import leases, studies, weights
from mnist_search.storage.database import Store, retry
from mnist_search.storage.leases import ProcessIdentity
from mnist_search.storage.studies import ATTEMPT_ATTR, N_TRIALS_ATTR, UID_ATTR, VERSION_ATTR
from mnist_search.storage.tables import epochs, intermediate_values, trial_user_attributes

logger = logging.getLogger(__name__)

MAX_CRASHES = 3
"""A trial whose worker crashed this often fails: the trial may be the cause."""


class LostLease(Exception):
    """The lease expired, and the trial was requeued or claimed by another worker."""


@dataclass(frozen=True)
class Claim:
    """A trial that this worker has claimed.

    Attributes:
        owner: the lease's owner, which proves that the trial is still this worker's; names the attempt.
    """

    trial: Trial
    trial_id: int
    owner: str


class TrialQueue:
    """Claims, renews, finishes and releases the trials of one study.

    Args:
        store: open for writing.
        study: of the store.
        supervisor: the process that started this worker; a crash counts only if it outlives the worker.
    """

    def __init__(self, store: Store, study: optuna.Study, supervisor: ProcessIdentity | None = None) -> None:
        self._store = store
        self._study = study
        self._supervisor = supervisor
        self._uid = str(study.user_attrs[UID_ATTR])
        self._incomplete: set[str] = set()  # attempts whose claim failed, such as in a locked store

    def claim(self, propose: Callable[[Trial], None] | None = None) -> Claim | None:
        """Claim a released trial, else an enqueued one, else a new one; None without a free slot.

        Args:
            propose: suggests every param of the trial; called while no other worker can claim. Without
                it, only trials that were added to the study are claimed.
        """
        with self._store.lock("claim"):
            self._release_expired()
            trial = self._next_trial(may_add=propose is not None)
            if trial is None:
                return None
            claim = Claim(trial, id_of(trial), uuid.uuid4().hex)
            self._incomplete.add(claim.owner)
            changes = leases.replacement(self._store, claim.trial_id, claim.owner, self._supervisor)
            changes += _attribute_changes(
                claim.trial_id, {ATTEMPT_ATTR: claim.owner, VERSION_ATTR: __version__}
            )
            self._execute(changes)
            if propose is not None:
                propose(trial)
            self._incomplete.remove(claim.owner)
            logger.info("claimed trial %d", trial.number)
            return claim

    def _next_trial(self, *, may_add: bool) -> Trial | None:
        trials = self._study.get_trials(deepcopy=False)
        waiting = [t for t in trials if t.state == TrialState.WAITING]
        released = [t for t in waiting if _was_claimed(t)]
        if released:
            return self._start(released[0])
        taken = sum(not studies.is_over_budget(t) for t in trials) - len(waiting)
        if may_add and taken >= int(self._study.user_attrs[N_TRIALS_ATTR]):
            return None
        if waiting:
            return self._start(waiting[0])
        if not may_add:
            return None
        # Optuna repeats a failed insertion, so that a lost acknowledgement inserts a trial twice. As a
        # waiting trial the second one takes the next slot; as a running one it would exceed them.
        self._study.add_trial(create_trial(state=TrialState.WAITING))
        return self._study.ask()

    def _start(self, trial: FrozenTrial) -> Trial:
        self._store.storage.set_trial_state_values(id_of(trial), TrialState.RUNNING)
        return Trial(self._study, id_of(trial))

    def report(self, claim: Claim, metrics: EpochMetrics) -> None:
        """Store an epoch, report its validation accuracy to Optuna and renew the lease, in one transaction.

        Raises:
            LostLease: the trial is no longer this worker's; nothing was changed.
        """
        row = {"trial_id": claim.trial_id, "attempt": claim.owner, "study_uid": self._uid, **asdict(metrics)}
        key = epochs.c.trial_id == claim.trial_id, epochs.c.attempt == claim.owner
        # A lost acknowledgement repeats the call.
        changes = [
            sa.delete(epochs).where(*key, epochs.c.epoch == metrics.epoch),
            sa.insert(epochs).values(row),
        ]
        if metrics.val_accuracy is None:
            self._execute(changes, claim)
        else:
            step, value = metrics.epoch, metrics.val_accuracy
            self._execute(
                changes,
                claim,
                then=lambda storage: storage.set_trial_intermediate_value(claim.trial_id, step, value),
            )

    def finish(
        self,
        claim: Claim,
        state: TrialState,
        values: Sequence[float] | None = None,
        *,
        attributes: Mapping[str, Any] | None = None,
        safetensors: bytes | None = None,
        keep: int | None = 0,
    ) -> None:
        """Finish a trial in one transaction, and keep its weights while it is among the ``keep`` best.

        Args:
            claim: the trial.
            state: COMPLETE, PRUNED or FAIL.
            values: of the study's objectives, for a complete trial.
            attributes: user attributes: reason, traceback.
            safetensors: its trained weights.
            keep: number of trials whose weights the store keeps; None for all.

        Raises:
            LostLease: the trial is no longer this worker's; nothing was changed.
        """
        with self._store.lock("claim"):
            stored = self._store.storage.get_trial(claim.trial_id)
            if stored.state == state and stored.user_attrs.get(ATTEMPT_ATTR) == claim.owner:
                return  # an earlier call, whose acknowledgement was lost
            if values is None and state == TrialState.PRUNED and stored.last_step is not None:
                values = [stored.intermediate_values[stored.last_step]]  # as Study.tell does
            self._study.sampler.after_trial(self._study, stored, state, values)
            changes: list[sa.Executable] = [leases.deletion(claim.trial_id)]
            changes += _attribute_changes(claim.trial_id, attributes or {})
            is_kept = keep is None
            if keep is not None:
                kept = self._kept_after(stored, state, values)[:keep]
                changes.append(weights.deletion_of_others(self._uid, kept))
                is_kept = claim.trial_id in kept
            if safetensors is not None and is_kept:
                changes += weights.replacement(claim.trial_id, self._uid, safetensors)
            self._set_state(claim.trial_id, state, values, changes, claim)
        logger.info("finished trial %d: %s", claim.trial.number, state.name)

    def _kept_after(self, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> list[int]:
        """Ids of complete trials, best first, as they will be when a trial has ended in ``state``."""
        ids = {t.trial_id: t.rank for t in studies.study_record(self._store, self._study).ranked}
        if state == TrialState.COMPLETE and values:
            losses = studies.curves(self._store, self._uid, [id_of(trial)]).get(id_of(trial), [])
            loss = losses[-1].val_loss if losses else None
            ids[id_of(trial)] = (-values[0], loss or 0.0, trial.number)
        return sorted(ids, key=lambda trial_id: ids[trial_id])

    def release(self, claim: Claim) -> None:
        """Requeue a trial under its number, without the epochs of this attempt.

        Raises:
            LostLease: the trial is no longer this worker's; nothing was changed.
        """
        with self._store.lock("claim"):
            self._release(claim.trial_id, claim)
        logger.info("released trial %d", claim.trial.number)

    def renew(self, claim: Claim) -> bool:
        """Renew the lease of a trial; False if the trial is no longer this worker's."""
        return leases.renew(self._store, claim.owner)

    def release_expired(self, *, count_crashes: bool = True) -> None:
        """Requeue the trials of workers that have ended without releasing them.

        Args:
            count_crashes: whether workers that this supervisor has outlived have crashed.
        """

        def release() -> None:
            with self._store.lock("claim"):
                self._release_expired(count_crashes=count_crashes)

        retry(release)

    def _release_expired(self, *, count_crashes: bool = True) -> None:
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        statuses = leases.statuses(self._store) if running else {}
        for trial in running:
            status = statuses.get(id_of(trial))
            is_incomplete = trial.user_attrs.get(ATTEMPT_ATTR) in self._incomplete
            if status and status.is_active and not is_incomplete:
                continue
            crashes = trial.user_attrs.get("deaths", 0)
            if status and status.is_crash and count_crashes:
                crashes += 1
            logger.info("the lease of trial %d expired, crashes: %d", trial.number, crashes)
            attributes: dict[str, Any] = {"deaths": crashes} if crashes else {}
            if crashes < MAX_CRASHES:
                self._release(id_of(trial), attributes=attributes)
                continue
            attributes["reason"] = f"its worker crashed {crashes} times"
            changes = [leases.deletion(id_of(trial)), *_attribute_changes(id_of(trial), attributes)]
            self._set_state(id_of(trial), TrialState.FAIL, None, changes)

    def _release(
        self, trial_id: int, claim: Claim | None = None, attributes: Mapping[str, Any] | None = None
    ) -> None:
        changes = [
            sa.delete(intermediate_values).where(intermediate_values.c.trial_id == trial_id),
            sa.delete(epochs).where(epochs.c.trial_id == trial_id),
            leases.deletion(trial_id),
            *_attribute_changes(trial_id, attributes or {}),
        ]
        self._set_state(trial_id, TrialState.WAITING, None, changes, claim)

    def _set_state(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        changes: Sequence[sa.Executable],
        claim: Claim | None = None,
    ) -> None:
        """Change a trial's state and execute ``changes`` in one transaction."""
        self._execute(
            changes, claim, then=lambda storage: storage.set_trial_state_values(trial_id, state, values)
        )

    def _execute(
        self,
        changes: Sequence[sa.Executable],
        claim: Claim | None = None,
        then: Callable[[BaseStorage], object] | None = None,
    ) -> None:
        """Execute ``changes`` and a write of Optuna's storage in one transaction, fenced by the lease of ``claim``.

        Optuna's storage joins the session that this thread has open, and commits it.

        Raises:
            LostLease: the trial is no longer this worker's; nothing was changed.
        """
        session = self._store.storage.scoped_session()
        try:
            if claim:
                self._renew_in(session, claim)
            for change in changes:
                session.execute(change)
            if then is None:
                session.commit()
            else:
                then(self._store.storage)
        except BaseException:
            session.rollback()
            raise

    def _renew_in(self, session: Session, claim: Claim) -> None:
        connection = session.connection()
        if not connection.execute(leases.renewal(self._store, claim.owner)).rowcount:
            raise LostLease(f"the lease of trial {claim.trial.number} expired; another worker has the trial")

    def kept_weights(self) -> dict[int, bytes]:
        """Weights of the study as safetensors, by trial id; see ``weights.of_study``."""
        return weights.of_study(self._store, self._uid)


def id_of(trial: Trial | FrozenTrial) -> int:
    """The store's key of a trial, which Optuna's storage API takes but its trials do not publish."""
    return trial._trial_id  # noqa: SLF001


def _attribute_changes(trial_id: int, attributes: Mapping[str, Any]) -> list[sa.Executable]:
    """The statements that set user attributes of a trial; None deletes one."""
    table = trial_user_attributes
    changes: list[sa.Executable] = []
    for key, value in attributes.items():
        changes.append(sa.delete(table).where(table.c.trial_id == trial_id, table.c.key == key))
        if value is not None:
            row = {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            changes.append(sa.insert(table).values(row))
    return changes


def _was_claimed(trial: FrozenTrial) -> bool:
    """Whether a waiting trial was released by a worker rather than enqueued by a user."""
    return bool(trial.params or ATTEMPT_ATTR in trial.user_attrs or trial.user_attrs.get("deaths"))
