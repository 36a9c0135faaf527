"""Finals in the store: the final trials of one search study, or of the baselines, as an Optuna study.

A study of finals has two objectives, test accuracy and test loss, so that Optuna has no best trial of
it, and no StudyConfig, so that no verb takes it for a search.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterable

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState, create_trial

from mnist_search.errors import NotFound, StudyConflict
from mnist_search.records import FinalsRecord, FinalTask
from mnist_search.storage import older_stores, studies
from mnist_search.storage.database import Store
from mnist_search.storage.leases import ProcessIdentity
from mnist_search.storage.queue import Claim, TrialQueue
from mnist_search.storage.studies import CONFIG_ATTR, TASK_ATTR, UID_ATTR
from mnist_search.storage.tables import old_finals

KIND_ATTR, FINALS_KIND = "kind", "finals"
"""Attribute of an Optuna study that holds finals."""

SUFFIX = ".finals"
BASELINE_FINALS = f"baselines{SUFFIX}"
"""Name of the study of the baselines' finals."""


def name_of_finals(study: str) -> str:
    """The name of the finals of a search study."""
    return study + SUFFIX


def finals_uid(search_uid: str) -> str:
    """The uid of the finals of a search study."""
    return search_uid + SUFFIX


class FinalsStudy:
    """A study of finals, open for its queue.

    Attributes:
        study: the Optuna study.
        queue: its trials.
    """

    def __init__(self, store: Store, study: optuna.Study, supervisor: ProcessIdentity | None = None) -> None:
        self._store = store
        self.study = study
        self.name = study.study_name
        self.queue = TrialQueue(store, study, supervisor)

    @classmethod
    def open(cls, store: Store, name: str, supervisor: ProcessIdentity | None = None) -> FinalsStudy:
        """Open existing finals.

        Raises:
            NotFound: no such study in the store.
        """
        return cls(store, studies.load(store, name), supervisor)

    @classmethod
    def open_or_create(cls, store: Store, name: str, uid: str | None = None) -> FinalsStudy:
        """Open finals, created if they do not exist.

        Raises:
            StudyConflict: another study has this name.
        """
        with store.lock("claim"):
            return cls(store, create_study(store, name, uid or uuid.uuid4().hex))

    def add(self, tasks: Iterable[FinalTask]) -> None:
        """Add a trial for every task that has none, or only failed ones; never one that diverged.

        Raises:
            StudyConflict: a task of the same name, seed and round trains something else.
        """
        with self._store.lock("claim"):
            stored = {trial.task.key: trial for trial in self.record().current if trial.task}
            for task in tasks:
                trial = stored.get(task.key)
                if trial is not None and trial.task != task:
                    raise StudyConflict(
                        f"{self.name} has {task.name} with another training configuration; "
                        "train it again with --again"
                    )
                if trial is None or (trial.is_finished and trial.is_open):
                    attributes = {TASK_ATTR: task.to_dict()}
                    self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attributes))

    def claim(self) -> Claim | None:
        """Claim the next trial; None if there is none."""
        return self.queue.claim()

    def record(self) -> FinalsRecord:
        """The finals, as stored now."""
        return _record(self._store, self.study)


def create_study(store: Store, name: str, uid: str) -> optuna.Study:
    """The Optuna study of finals of this name, created if it does not exist; under the claim lock.

    Raises:
        StudyConflict: another study has this name.
    """
    if name in optuna.get_all_study_names(store.storage):
        study = optuna.load_study(study_name=name, storage=store.storage)
        is_finals = study.user_attrs.get(KIND_ATTR) == FINALS_KIND
        if not is_finals and (study.trials or CONFIG_ATTR in study.user_attrs):
            raise StudyConflict(f"{name!r} is a study of another kind; delete or rename it with Optuna")
    else:
        study = optuna.create_study(
            study_name=name, storage=store.storage, directions=["maximize", "minimize"]
        )
    if KIND_ATTR not in study.user_attrs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(["test_accuracy", "test_loss"])
        study.set_user_attr(UID_ATTR, uid)
        study.set_user_attr(KIND_ATTR, FINALS_KIND)
    return study


def load(store: Store, name: str, old_key: str) -> FinalsRecord | None:
    """Finals for reading, of any version; None without any.

    Args:
        store: open or not for writing.
        name: of the finals.
        old_key: uid of the search study, or ``reproduction``.
    """
    if store.has_table(old_finals):
        record = older_stores.old_records(store).get(old_key)
        if record is not None:
            return record
    try:
        study = studies.load(store, name)
    except NotFound:
        return None
    return _record(store, study) if study.user_attrs.get(KIND_ATTR) == FINALS_KIND else None


def _record(store: Store, study: optuna.Study) -> FinalsRecord:
    trials = studies.trial_records(store, study)
    return FinalsRecord(name=study.study_name, uid=str(study.user_attrs[UID_ATTR]), trials=trials)
