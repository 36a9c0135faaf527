"""A study of either kind as the sync with MLflow reads it, and what the sync remembers in the store."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import optuna
import sqlalchemy as sa

from mnist_search.errors import NotFound
from mnist_search.records import FinalsRecord, StudyRecord, TrialRecord
from mnist_search.storage import finals, studies, weights
from mnist_search.storage.database import Store
from mnist_search.storage.studies import CONFIG_ATTR, UID_ATTR
from mnist_search.storage.tables import epochs, tracked_runs, trial_user_attributes, trials

LOCATIONS_ATTR, REGISTERED_ATTR = "mlflow", "registered"
"""Attributes of a study by tracking URI: its experiment and parent run; the run of the registered champion."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a study is in MLflow."""

    experiment_id: str
    parent_run_id: str


class TrackedStudy:
    """A search study or a study of finals.

    Attributes:
        search: the search study whose parent run holds the runs; None for the finals of the baselines.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._study = studies.load(store, name)
        self.name = name
        self.uid = str(self._study.user_attrs[UID_ATTR])
        self.is_search = CONFIG_ATTR in self._study.user_attrs
        self.search = self._study if self.is_search else self._search_of_finals()

    def _search_of_finals(self) -> optuna.Study | None:
        try:
            search = studies.load(self._store, self.name.removesuffix(finals.SUFFIX))
        except NotFound:
            return None
        return search if finals.finals_uid(str(search.user_attrs.get(UID_ATTR))) == self.uid else None

    def lock(self, busy_seconds: float) -> AbstractContextManager[None]:
        """Hold the right to write this study to MLflow.

        Raises:
            TryAgain: another process holds it for longer than ``busy_seconds``.
        """
        return self._store.lock(f"sync-{self._study._study_id}", busy_seconds)  # noqa: SLF001

    def fingerprint(self) -> Hashable:
        """A value that changes with the trials and their epochs, attributes and kept weights."""
        count = sa.select(sa.func.count()).select_from(epochs).where(epochs.c.study_uid == self.uid)
        attributes = trial_user_attributes.c
        attempt = sa.func.max(sa.case((attributes.key == studies.ATTEMPT_ATTR, attributes.value_json)))
        states = (
            sa.select(trials.c.trial_id, trials.c.state, attempt, sa.func.count(attributes.key))
            .outerjoin(trial_user_attributes, attributes.trial_id == trials.c.trial_id)
            .where(trials.c.study_id == self._study._study_id)  # noqa: SLF001
            .group_by(trials.c.trial_id, trials.c.state)
        )
        with self._store.engine.connect() as connection:
            n_epochs = connection.execute(count).scalar_one()
            rows = frozenset(map(tuple, connection.execute(states)))
        return n_epochs, rows, frozenset(self.kept_ids())

    def search_record(self) -> StudyRecord:
        """The search study with its trials."""
        return studies.study_record(self._store, self._study)

    def finals_record(self) -> FinalsRecord:
        """The finals."""
        return finals.FinalsStudy(self._store, self._study).record()

    def parent_record(self) -> StudyRecord | None:
        """The search study of the parent run; None for the finals of the baselines."""
        return studies.study_record(self._store, self.search) if self.search else None

    def location(self, tracking_uri: str) -> Location | None:
        """The remembered experiment and parent run."""
        stored = (self.search or self._study).user_attrs.get(LOCATIONS_ATTR, {}).get(tracking_uri)
        return Location(**stored) if stored else None

    def remember(self, tracking_uri: str, location: Location) -> None:
        """Remember the experiment and the parent run."""
        study = self.search or self._study
        plain = {"experiment_id": location.experiment_id, "parent_run_id": location.parent_run_id}
        if self.location(tracking_uri) != location:
            study.set_user_attr(
                LOCATIONS_ATTR, study.user_attrs.get(LOCATIONS_ATTR, {}) | {tracking_uri: plain}
            )

    def registered(self, tracking_uri: str) -> str | None:
        """The run whose model was registered and verified."""
        run_id: str | None = self._study.user_attrs.get(REGISTERED_ATTR, {}).get(tracking_uri)
        return run_id

    def remember_registered(self, tracking_uri: str, run_id: str) -> None:
        """Remember that the model of a run is registered and verified."""
        stored = self._study.user_attrs.get(REGISTERED_ATTR, {})
        self._study.set_user_attr(REGISTERED_ATTR, stored | {tracking_uri: run_id})

    def record_run(self, trial: TrialRecord, run_id: str, model_id: str | None) -> None:
        """Remember the run and the logged model of a trial."""
        row = {"trial_id": trial.trial_id, "study_uid": self.uid, "run_id": run_id, "model_id": model_id}
        with self._store.engine.begin() as connection:
            connection.execute(sa.delete(tracked_runs).where(tracked_runs.c.trial_id == trial.trial_id))
            connection.execute(sa.insert(tracked_runs).values(row))

    def kept_ids(self) -> set[int]:
        """Ids of the trials whose weights the store keeps."""
        return weights.kept_ids(self._store, self.uid)

    def weights_of(self, trial: TrialRecord) -> bytes:
        """Weights of a trial as safetensors.

        Raises:
            UnusableConfiguration: they are missing or damaged.
        """
        return weights.of_trial(self._store, trial.trial_id, f"trial {trial.number}")
