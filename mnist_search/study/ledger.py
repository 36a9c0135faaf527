"""The trials of one study as places: claimed by one worker at a time, settled once.

A trial is a place for ever. A worker that stops, or dies, leaves its trial to be begun again
under the same number with the same genes, so a study neither loses a trial nor holds one twice:
it is full when it has as many trials as it was asked for, and done when all of them have ended.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments import Experiment
from mnist_search.errors import StudyConflict, UnusableConfiguration, UsageError
from mnist_search.facts import StudyFacts
from mnist_search.study import leases, reading
from mnist_search.study.lessons import SMALLER, Lessons, lessons
from mnist_search.study.pruners import pruner_for
from mnist_search.study.reading import EXPERIMENT, TARGET, UID
from mnist_search.study.samplers import sampler_for_trial
from mnist_search.study.store import Store, mirrored, weights

MOST_DEATHS = 3
"""A trial whose worker died this often is failed: it may be what kills them."""


class LostLease(Exception):
    """The trial was given to another worker while this one was out of touch."""


@dataclass(frozen=True)
class Claim:
    """A trial that this worker has begun.

    Attributes:
        owner: proves that the trial is still this worker's.
        stale_run_id: the run that an earlier worker opened for the trial and left.
    """

    trial: Trial
    trial_id: int
    owner: str
    stale_run_id: str | None


class Ledger:
    """Claims, settles and reads the trials of one study.

    Attributes:
        study: Optuna's study, for its plots.
        experiment: the stored definition.
    """

    def __init__(self, store: Store, study: optuna.Study) -> None:
        self._store = store
        self.study = study
        self.name = study.study_name
        self.experiment = reading.stored_experiment(study)
        self._uid = str(study.user_attrs[UID])
        study.pruner = pruner_for(self.experiment)

    @classmethod
    def open(cls, store: Store, name: str) -> Ledger:
        """The ledger of a study that exists.

        Raises:
            NotFound: no such study in the store.
            UnusableConfiguration: a study that mnist-search did not make.
        """
        return cls(store, reading.load(store, name))

    @classmethod
    def open_or_create(cls, store: Store, name: str, experiment: Experiment, target: int) -> Ledger:
        """The ledger of this study, begun if there is none.

        Raises:
            StudyConflict: the study has another definition.
        """
        with store.lock("claim"):
            if name in optuna.get_all_study_names(store.storage):
                study = optuna.load_study(study_name=name, storage=store.storage)
            else:
                study = optuna.create_study(study_name=name, storage=store.storage, direction="maximize")
            if EXPERIMENT not in study.user_attrs and not study.trials:
                study.set_user_attr(UID, uuid.uuid4().hex)
                study.set_user_attr(TARGET, target)
                study.set_user_attr(EXPERIMENT, experiment.to_json())  # last: now it is ours
            ledger = cls(store, study)
            ledger.refuse_another(experiment)
            ledger.raise_target(target)
            return ledger

    def refuse_another(self, asked: Experiment) -> None:
        """Refuse to continue under another definition.

        Raises:
            StudyConflict: with every difference.
        """
        differences = self.experiment.differences(asked)
        if differences:
            listed = "; ".join(f"{d.name} is {d.stored} there, {d.asked} was asked" for d in differences)
            raise StudyConflict(
                f"study {self.name!r} exists with another definition ({listed}); continue it with "
                f"mnist-search resume {self.name}, or begin another with --study NAME"
            )

    @property
    def target(self) -> int:
        """How many trained trials the study shall hold."""
        return int(self.study.user_attrs[TARGET])

    def raise_target(self, target: int) -> None:
        """Ask for at least this many trained trials."""
        if target > self.target:
            self.study.set_user_attr(TARGET, target)

    def learn_from(self, smaller: str) -> None:
        """Propose by what the study of a smaller budget has found, too."""
        self.study.set_user_attr(SMALLER, smaller)

    @cached_property
    def _lessons(self) -> Lessons:
        return lessons(self._store, self.study, self.experiment)

    def facts(self) -> StudyFacts:
        """The study as it stands."""
        return reading.study_facts(self._store, self.study)

    def lock(self, topic: str) -> AbstractContextManager[None]:
        """Hold what only one process may do at a time."""
        return self._store.lock(topic)

    def enqueue(self, genes: Mapping[str, Any]) -> bool:
        """Have a trial with these genes begun before any is sampled, unless there is one.

        Returns:
            Whether it was new.

        Raises:
            UsageError: it is over the budget.
        """
        budget = self.experiment.parameter_budget
        if not budget.fits(genes):
            raise UsageError(
                f"a network of {budget.count(genes):,} parameters is over the budget of {budget.limit:,}; "
                "give a smaller one, or search with a larger --budget"
            )
        with self._store.lock("claim"):
            before = len(self.study.get_trials(deepcopy=False))
            self.study.enqueue_trial(dict(genes), skip_if_exists=True)
            return len(self.study.get_trials(deepcopy=False)) > before

    def claim(self) -> Claim | None:
        """Begin a trial: one that was left, else an enqueued one, else a new one.

        None when every place is taken. Genes are chosen before anybody else may claim.
        """
        with self._store.lock("claim"):
            self._put_back_dead()
            trial = self._begin()
            if trial is None:
                return None
            claim = Claim(trial, _id(trial), uuid.uuid4().hex, self.run_of(_id(trial)))
            leases.write(self._store, claim.trial_id, claim.owner)
            self._choose_genes(trial)
            return claim

    def _begin(self) -> Trial | None:
        trials = self.study.get_trials(deepcopy=False)
        waiting = [t for t in trials if t.state == TrialState.WAITING]
        left = [t for t in waiting if _was_begun(t)]
        if left:
            return self._begin_waiting(left[0])
        begun = sum(not reading.is_over_budget(t) for t in trials) - len(waiting)
        if begun >= self.target:
            return None
        if waiting:
            return self._begin_waiting(waiting[0])
        return self.study.ask()

    def _begin_waiting(self, trial: FrozenTrial) -> Trial:
        self._store.storage.set_trial_state_values(_id(trial), TrialState.RUNNING)
        return Trial(self.study, _id(trial))

    def _choose_genes(self, trial: Trial) -> None:
        """Let the sampler fill in every gene; those of an earlier attempt stay."""
        sampler = sampler_for_trial(self.experiment, trial.number, self._lessons)
        self.study.sampler = sampler
        self.experiment.space.suggest(trial)
        if sampler.rejected:
            trial.set_user_attr("rejected", sampler.rejected)

    def settle(
        self,
        claim: Claim,
        state: TrialState,
        value: float | None = None,
        *,
        left: Mapping[str, Any] | None = None,
        trained: bytes | None = None,
        keep: int = 0,
    ) -> None:
        """End a trial for ever, and keep its weights while it is among the ``keep`` best.

        Args:
            claim: the trial.
            state: COMPLETE, PRUNED or FAIL.
            value: the score of a complete trial.
            left: what the trial leaves behind: curve, reason, traceback.
            trained: its weights as safetensors.
            keep: how many trials' weights the store holds.

        Raises:
            LostLease: the trial is another worker's by now; nothing was changed.
        """
        with self._store.lock("claim"):
            self._hold(claim)
            for name, attribute in (left or {}).items():
                claim.trial.set_user_attr(name, attribute)
            if trained is not None:
                self._write_weights(claim.trial_id, trained)
            self.study.tell(claim.trial, value, state)
            self._drop_weights_beyond(keep)
            leases.drop(self._store, claim.trial_id)

    def put_back(self, claim: Claim) -> None:
        """Leave a trial to be begun again, as if it had not been.

        Raises:
            LostLease: the trial is another worker's by now; nothing was changed.
        """
        with self._store.lock("claim"):
            self._hold(claim)
            self._put_back(claim.trial_id)

    def beat(self, claim: Claim) -> bool:
        """Say that this worker lives; whether the trial is still its own."""
        return leases.beat(self._store, claim.owner)

    def _hold(self, claim: Claim) -> None:
        if not self.beat(claim):
            raise LostLease(f"trial {claim.trial.number} was given to another worker")

    def put_back_dead(self) -> None:
        """Leave the trials of workers that are gone to be begun again."""
        with self._store.lock("claim"):
            self._put_back_dead()

    def _put_back_dead(self) -> None:
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        held = leases.held(self._store) if running else set()
        for trial in running:
            if _id(trial) in held:
                continue
            deaths = trial.user_attrs.get("deaths", 0) + 1
            self._store.storage.set_trial_user_attr(_id(trial), "deaths", deaths)
            if deaths < MOST_DEATHS:
                self._put_back(_id(trial))
                continue
            reason = f"its worker died {deaths} times"
            self._store.storage.set_trial_user_attr(_id(trial), "reason", reason)
            self.study.tell(trial.number, state=TrialState.FAIL)
            leases.drop(self._store, _id(trial))

    def _put_back(self, trial_id: int) -> None:
        reports = sa.table("trial_intermediate_values", sa.column("trial_id"))
        with self._store.engine.begin() as connection:
            connection.execute(sa.delete(reports).where(reports.c.trial_id == trial_id))
        self._store.storage.set_trial_state_values(trial_id, TrialState.WAITING)
        leases.drop(self._store, trial_id)

    def _write_weights(self, trial_id: int, trained: bytes) -> None:
        row = {
            "trial_id": trial_id,
            "study_uid": self._uid,
            "sha256": hashlib.sha256(trained).hexdigest(),
            "safetensors": trained,
        }
        with self._store.engine.begin() as connection:
            connection.execute(sa.delete(weights).where(weights.c.trial_id == trial_id))
            connection.execute(sa.insert(weights).values(row))

    def _drop_weights_beyond(self, keep: int) -> None:
        best = [trial.trial_id for trial in self.facts().ranked[:keep]]
        mine = weights.c.study_uid == self._uid
        with self._store.engine.begin() as connection:
            connection.execute(sa.delete(weights).where(mine, weights.c.trial_id.not_in(best)))

    def kept_weights(self) -> dict[int, bytes]:
        """Weights by trial id, checked against their sums.

        Raises:
            UnusableConfiguration: stored weights are damaged.
        """
        mine = sa.select(weights).where(weights.c.study_uid == self._uid)
        with self._store.engine.begin() as connection:
            rows = connection.execute(mine).all()
        for row in rows:
            if hashlib.sha256(row.safetensors).hexdigest() != row.sha256:
                raise UnusableConfiguration(
                    f"the weights of trial id {row.trial_id} in {self._store} are damaged; "
                    "restore the store from a copy"
                )
        return {row.trial_id: row.safetensors for row in rows}

    def remember_mirror(self, trial_id: int, run_id: str, model_id: str | None = None) -> None:
        """Note what the tracker holds of a trial."""
        row = {"trial_id": trial_id, "study_uid": self._uid, "run_id": run_id, "model_id": model_id}
        with self._store.engine.begin() as connection:
            connection.execute(sa.delete(mirrored).where(mirrored.c.trial_id == trial_id))
            connection.execute(sa.insert(mirrored).values(row))

    def run_of(self, trial_id: int) -> str | None:
        """The tracker's run of a trial, as far as the store knows."""
        mine = (mirrored.c.trial_id == trial_id) & (mirrored.c.study_uid == self._uid)
        with self._store.engine.begin() as connection:
            return connection.execute(sa.select(mirrored.c.run_id).where(mine)).scalar()


def _id(trial: Trial | FrozenTrial) -> int:
    """The store's key of a trial, which Optuna needs for its storage but does not publish."""
    return trial._trial_id  # noqa: SLF001


def _was_begun(trial: FrozenTrial) -> bool:
    """Whether a waiting trial was left by a worker, rather than enqueued by a user."""
    return bool(trial.params or trial.user_attrs.get("deaths"))
