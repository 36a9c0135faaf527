"""The trials of one study as a queue: each is claimed by one worker at a time and finished once.

Each trial takes one slot, unless the budget rejects it. When its worker stops or crashes, the trial is requeued
under the same number with the same params, so none is lost or duplicated. The study is full when every slot is
taken, and done when every trial has finished.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from mnist_search import __version__
from mnist_search.errors import masked
from mnist_search.records import EpochMetrics
from mnist_search.storage import leases, studies, tables, weights
from mnist_search.storage.database import Store
from mnist_search.storage.leases import ProcessIdentity
from mnist_search.storage.software import software
from mnist_search.storage.studies import (
    ATTEMPT_ATTR,
    N_TRIALS_ATTR,
    SOFTWARE_ATTR,
    TASK_ATTR,
    UID_ATTR,
    VERSION_ATTR,
)

logger = logging.getLogger(__name__)

MAX_CRASHES = 3
"""A trial whose worker crashed this often fails: the trial may be the cause."""


class LostLease(Exception):
    """The lease expired, and the trial was requeued or claimed by another worker."""


class InvalidTrial(Exception):
    """A trial was enqueued with values that the space does not have; it fails, and the others go on."""


@dataclass(frozen=True)
class Claim:
    """A trial that this worker has claimed; ``owner`` identifies its lease and the attempt."""

    trial: Trial
    trial_id: int
    owner: str


class TrialQueue:
    """Claims, renews, finishes and releases the trials of one study in a store that is open for writing.

    A method that changes a claimed trial raises LostLease, and changes nothing, if the trial is no longer
    this worker's. ``supervisor`` started this worker; a crash counts only if it outlives the worker.
    """

    def __init__(self, store: Store, study: optuna.Study, supervisor: ProcessIdentity | None = None) -> None:
        self._store = store
        self._study = study
        self._supervisor = supervisor
        self._uid = str(study.user_attrs[UID_ATTR])
        self._incomplete: set[str] = set()  # attempts whose claim failed, such as in a locked store

    def claim(self, propose: Callable[[Trial], None] | None = None) -> Claim | None:
        """Claim a released trial, else an enqueued one, else a new one; None without a free slot.

        ``propose`` suggests every param of the trial, while no other worker can claim. A trial for which it
        raises InvalidTrial fails. Without it, only trials that were added to the study are claimed.
        """
        versions = software()
        with self._store.lock("claim"):
            self._release_expired()
            while trial := self._next_trial(may_add=propose is not None):
                claim = Claim(trial, id_of(trial), uuid.uuid4().hex)
                self._incomplete.add(claim.owner)
                changes = leases.replacement(self._store, claim.trial_id, claim.owner, self._supervisor)
                attributes = {ATTEMPT_ATTR: claim.owner, VERSION_ATTR: __version__, SOFTWARE_ATTR: versions}
                self._execute(changes + _attribute_changes(claim.trial_id, attributes))
                try:
                    if propose is not None:
                        propose(trial)
                except InvalidTrial as error:
                    attributes = {"reason": f"invalid: {error}"}
                    self._end_attempt(claim.trial_id, TrialState.FAIL, claim, attributes=attributes)
                    self._incomplete.remove(claim.owner)
                    continue
                self._incomplete.remove(claim.owner)
                logger.info("claimed trial %d", trial.number)
                return claim
            return None

    def _next_trial(self, *, may_add: bool) -> Trial | None:
        trials = self._study.get_trials(deepcopy=False)
        # Optuna repeats a failed insertion, so that a lost acknowledgement inserts a trial twice. Of the
        # final trials of one task, only the last is claimed.
        last = {str(t.user_attrs.get(TASK_ATTR, t.number)): t for t in trials}
        last_round = max(map(_round, trials), default=1)
        waiting = [t for t in last.values() if t.state == TrialState.WAITING and _round(t) == last_round]
        taken = sum(not studies.is_over_budget(t) for t in trials) - len(waiting)
        is_full = may_add and taken >= int(self._study.user_attrs[N_TRIALS_ATTR])
        released = [t for t in waiting if _was_claimed(t)]
        claimable = released or ([] if is_full else waiting)
        if claimable:
            trial_id = id_of(claimable[0])
            self._store.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            return Trial(self._study, trial_id)
        if is_full or not may_add:
            return None
        # If it is inserted twice, the second takes the next slot; as a running trial it would exceed them.
        self._study.add_trial(create_trial(state=TrialState.WAITING))
        return self._study.ask()

    def report(self, claim: Claim, metrics: EpochMetrics) -> None:
        """Store an epoch, report its validation accuracy to Optuna and renew the lease, in one transaction."""
        row = {"trial_id": claim.trial_id, "attempt": claim.owner, "study_uid": self._uid, **asdict(metrics)}
        then = None
        if (value := metrics.val_accuracy) is not None:
            report = self._store.storage.set_trial_intermediate_value
            then = partial(report, claim.trial_id, metrics.epoch, value)
        # An epoch replaces itself: a lost acknowledgement repeats the call.
        self._execute(tables.replacement(tables.epochs, row), claim, then)

    def should_prune(self, claim: Claim) -> bool:
        """Whether the study's pruner prunes a trial after its last stored epoch.

        ``Trial.should_prune`` reads the values that ``Trial.report`` has cached, and so none of ``report``.
        """
        stored = self._store.storage.get_trial(claim.trial_id)
        return self._study.pruner.prune(self._study, stored)

    def finish(
        self,
        claim: Claim,
        state: TrialState,
        values: Sequence[float] | None = None,
        *,
        attributes: Mapping[str, Any] | None = None,
        safetensors: bytes | None = None,
        keep: int | None = None,
    ) -> None:
        """Finish a trial in one transaction, and keep its weights while it is among the ``keep`` best.

        ``values`` are those of the study's objectives for a complete trial, ``attributes`` its reason and
        traceback. The store keeps the weights of all trials if ``keep`` is None.
        """
        with self._store.lock("claim"):
            stored = self._store.storage.get_trial(claim.trial_id)
            if stored.state == state and stored.user_attrs.get(ATTEMPT_ATTR) == claim.owner:
                return  # an earlier call, whose acknowledgement was lost
            if values is None and state == TrialState.PRUNED and stored.last_step is not None:
                values = [stored.intermediate_values[stored.last_step]]  # as Study.tell does
            self._study.sampler.after_trial(self._study, stored, state, values)
            changes: list[sa.Executable] = []
            kept = None if keep is None else self._kept_after(stored, state, values)[:keep]
            if kept is not None:
                of_study = sa.delete(tables.weights).where(tables.weights.c.study_uid == self._uid)
                changes.append(of_study.where(tables.weights.c.trial_id.not_in(kept)))
            if safetensors is not None and (kept is None or claim.trial_id in kept):
                changes += weights.replacement(claim.trial_id, self._uid, safetensors)
            self._end_attempt(
                claim.trial_id, state, claim, attributes=attributes, values=values, changes=changes
            )
        logger.info("finished trial %d: %s", claim.trial.number, state.name)

    def _kept_after(self, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> list[int]:
        """Ids of complete trials, best first, as they will be when a trial has ended in ``state``."""
        record = studies.study_record(self._store, self._study)
        ranks = {t.trial_id: t.rank for t in record.ranked}
        if state == TrialState.COMPLETE and values:
            loss = record.trials[trial.number].val_loss
            ranks[id_of(trial)] = (-values[0], loss or 0.0, trial.number)
        return sorted(ranks, key=lambda trial_id: ranks[trial_id])

    def release(self, claim: Claim) -> None:
        """Requeue a trial under its number, without the epochs of this attempt."""
        with self._store.lock("claim"):
            self._end_attempt(claim.trial_id, TrialState.WAITING, claim)
        logger.info("released trial %d", claim.trial.number)

    def renew(self, claim: Claim) -> bool:
        """Renew the lease of a trial; False if the trial is no longer this worker's."""
        with self._store.engine.begin() as connection:
            return leases.renew(self._store, connection, claim.owner)

    def release_expired(self, *, count_crashes: bool = True) -> None:
        """Requeue the trials of workers that have ended without releasing them.

        ``count_crashes`` says whether workers that this supervisor has outlived have crashed.
        """
        with self._store.lock("claim"):
            self._release_expired(count_crashes=count_crashes)

    def _release_expired(self, *, count_crashes: bool = True) -> None:
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        statuses = leases.statuses(self._store) if running else {}
        for trial in running:
            status = statuses.get(id_of(trial))
            if status == "active" and trial.user_attrs.get(ATTEMPT_ATTR) not in self._incomplete:
                continue
            crashes = trial.user_attrs.get("deaths", 0) + (status == "crashed" and count_crashes)
            logger.info("the lease of trial %d expired, crashes: %d", trial.number, crashes)
            state = TrialState.WAITING
            attributes: dict[str, Any] = {"deaths": crashes or None}
            if crashes >= MAX_CRASHES:
                state = TrialState.FAIL
                attributes["reason"] = f"its worker crashed {crashes} times"
            self._end_attempt(id_of(trial), state, attributes=attributes)

    def _end_attempt(
        self,
        trial_id: int,
        state: TrialState,
        claim: Claim | None = None,
        *,
        attributes: Mapping[str, Any] | None = None,
        values: Sequence[float] | None = None,
        changes: Sequence[sa.Executable] = (),
    ) -> None:
        """Set a trial's state and attributes, delete its lease and execute ``changes``, in one transaction."""
        emptied: list[sa.TableClause] = [tables.leases]
        if state == TrialState.WAITING:
            emptied += [tables.epochs, tables.intermediate_values]
        changes = [*changes, *_attribute_changes(trial_id, attributes or {})]
        changes += [sa.delete(table).where(table.c.trial_id == trial_id) for table in emptied]
        set_state = self._store.storage.set_trial_state_values
        self._execute(changes, claim, partial(set_state, trial_id, state, values))

    def _execute(
        self,
        changes: Sequence[sa.Executable],
        claim: Claim | None = None,
        then: Callable[[], object] | None = None,
    ) -> None:
        """Execute ``changes`` and a write of Optuna's storage in one transaction, fenced by the lease of ``claim``.

        Optuna's storage joins the session that this thread has open, and commits it.
        """
        session = self._store.storage.scoped_session()
        try:
            if claim:
                self._check_lease(claim, session.connection())
            for change in changes:
                session.execute(change)
            (then or session.commit)()
        except BaseException:
            session.rollback()
            raise

    def _check_lease(self, claim: Claim, connection: sa.Connection) -> None:
        if not leases.renew(self._store, connection, claim.owner):
            raise LostLease(f"the lease of trial {claim.trial.number} expired; another worker has the trial")

    def kept_weights(self) -> dict[int, bytes]:
        """Weights of the study as safetensors, by trial id; see ``weights.of_study``."""
        return weights.of_study(self._store, self._uid)


def id_of(trial: Trial | FrozenTrial) -> int:
    """The store's key of a trial, which Optuna's storage API takes but its trials do not publish."""
    return trial._trial_id  # noqa: SLF001


def _attribute_changes(trial_id: int, attributes: Mapping[str, Any]) -> list[sa.Executable]:
    """The statements that set user attributes of a trial, texts masked; None deletes one."""
    table = tables.trial_user_attributes
    old = sa.delete(table).where(table.c.trial_id == trial_id, table.c.key.in_(attributes))
    safe = {key: masked(value) if isinstance(value, str) else value for key, value in attributes.items()}
    plain = {key: json.dumps(value) for key, value in safe.items() if value is not None}
    rows = ({"trial_id": trial_id, "key": key, "value_json": value} for key, value in plain.items())
    return [old, *(sa.insert(table).values(row) for row in rows)]


def _round(trial: FrozenTrial) -> int:
    """The round of a final trial, of which the last is trained; 1 for a trial of a search."""
    return int(trial.user_attrs.get(TASK_ATTR, {}).get("round", 1))


def _was_claimed(trial: FrozenTrial) -> bool:
    """Whether a waiting trial was released by a worker rather than enqueued by a user."""
    return bool(trial.params or ATTEMPT_ATTR in trial.user_attrs or trial.user_attrs.get("deaths"))
