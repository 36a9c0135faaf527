"""Finals in the store: the final trials of one search study, or of the baselines, as an Optuna study.

A study of finals has two objectives, accuracy and loss, so that Optuna has no best trial of
it, and no StudyConfig, so that no verb takes it for a search.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import optuna
from optuna.trial import TrialState, create_trial

from mnist_search.errors import StudyConflict
from mnist_search.records import FinalsRecord, FinalStage, FinalTask
from mnist_search.storage import older_stores, studies
from mnist_search.storage.database import Store
from mnist_search.storage.leases import ProcessIdentity
from mnist_search.storage.queue import Claim, TrialQueue
from mnist_search.storage.studies import CONFIG_ATTR, KIND_ATTR, STAGES_ATTR, TASK_ATTR, UID_ATTR
from mnist_search.storage.tables import old_finals

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
    """A study of finals, open for its queue."""

    def __init__(self, store: Store, study: optuna.Study, supervisor: ProcessIdentity | None = None) -> None:
        self._store = store
        self.study = study
        self.name = study.study_name
        self.queue = TrialQueue(store, study, supervisor)

    @classmethod
    def open(cls, store: Store, name: str, supervisor: ProcessIdentity | None = None) -> FinalsStudy:
        """Open existing finals; NotFound if the store has none of this name."""
        return cls(store, studies.load(store, name), supervisor)

    @classmethod
    def open_or_create(cls, store: Store, name: str, uid: str | None = None) -> FinalsStudy:
        """Open finals, created if they do not exist; StudyConflict if another study has this name."""
        with store.lock("claim"):
            return cls(store, create_study(store, name, uid or uuid.uuid4().hex))

    def add(self, tasks: Iterable[FinalTask], later: Sequence[FinalStage] = ()) -> None:
        """Add a trial for every task that has none, or only failed ones; never one that diverged.

        Args:
            tasks: of a stage.
            later: the stages after it, for the time left.

        Raises:
            StudyConflict: a task of the same name, seed and round trains something else.
        """
        with self._store.lock("claim"):
            stored = {trial.task.key: trial for trial in self.record().current if trial.task}
            for task in tasks:
                trial = stored.get(task.key)
                if trial and trial.task != task:
                    raise StudyConflict(
                        f"{self.name} has {task.name} with another training configuration; "
                        "train it again with --again"
                    )
                if trial is None or (trial.is_finished and trial.is_open):
                    attributes = {TASK_ATTR: task.to_dict()}
                    self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attributes))
            self.study.set_user_attr(STAGES_ATTR, [asdict(stage) for stage in later])

    def claim(self) -> Claim | None:
        """Claim the next trial; None if there is none."""
        return self.queue.claim()

    def record(self) -> FinalsRecord:
        """The finals, as stored now."""
        return studies.finals_record(self._store, self.study)


def create_study(store: Store, name: str, uid: str) -> optuna.Study:
    """The Optuna study of finals of this name, created if it does not exist; under the claim lock."""
    study = optuna.create_study(
        study_name=name, storage=store.storage, directions=["maximize", "minimize"], load_if_exists=True
    )
    if KIND_ATTR in study.user_attrs:
        return study
    if study.trials or CONFIG_ATTR in study.user_attrs:
        raise StudyConflict(f"{name!r} is a study of another kind; delete or rename it with Optuna")
    studies.name_metrics(study, "accuracy", "loss")
    study.set_user_attr(UID_ATTR, uid)
    study.set_user_attr(KIND_ATTR, "finals")  # last: it marks a complete study
    return study


def load(store: Store, name: str, old_key: str) -> FinalsRecord | None:
    """Finals for reading, of any version; None without any.

    ``old_key`` is the uid of the search study, or ``reproduction``.
    """
    if store.has_table(old_finals) and (record := older_stores.old_records(store).get(old_key)):
        return record
    study = studies.find(store, name)
    return studies.finals_record(store, study) if study and KIND_ATTR in study.user_attrs else None
