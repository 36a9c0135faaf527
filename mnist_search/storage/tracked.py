"""A study of either kind as the sync with MLflow reads it, and what the sync remembers in the store."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple

import optuna
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from mnist_search.errors import MnistSearchError, masked
from mnist_search.records import FinalsRecord, StudyRecord, TrialRecord
from mnist_search.storage import finals, studies, tables
from mnist_search.storage.database import Store
from mnist_search.storage.studies import CONFIG_ATTR, UID_ATTR
from mnist_search.storage.tables import epochs, tracked_runs, trials, weights
from mnist_search.storage.weights import of_trial

LOCATIONS_ATTR, REGISTERED_ATTR = "mlflow", "registered"
"""Attributes of a study by masked tracking URI: its experiment and parent run; the run of the registered champion."""


class Location(NamedTuple):
    """Where a study is in MLflow."""

    experiment_id: str
    parent_run_id: str


def _by_masked_uri(study: optuna.Study, attribute: str) -> dict[str, Any]:
    """The values of an attribute by masked tracking URI; older versions stored the password."""
    return {masked(uri): value for uri, value in study.user_attrs.get(attribute, {}).items()}


class TrackedStudy:
    """A search study or a study of finals."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._study = studies.load(store, name)
        self.name = name
        self.uid = str(self._study.user_attrs[UID_ATTR])
        self.is_search = CONFIG_ATTR in self._study.user_attrs
        self._search = self._study if self.is_search else self._search_of_finals()

    def _search_of_finals(self) -> optuna.Study | None:
        """The search study whose parent run holds the runs; None for the finals of the baselines."""
        search = studies.find(self._store, self.name.removesuffix(finals.SUFFIX))
        uid = search and finals.finals_uid(str(search.user_attrs.get(UID_ATTR)))
        return search if uid == self.uid else None

    @property
    def search_name(self) -> str | None:
        """The search study of the parent run; None for the finals of the baselines."""
        return self._search.study_name if self._search else None

    def lock(self, busy_seconds: float) -> AbstractContextManager[None]:
        """Hold the right to write this study to MLflow; TryAgain if another process has it for longer."""
        return self._store.lock(f"sync-{self._study._study_id}", busy_seconds)  # noqa: SLF001

    def fingerprint(self) -> Hashable:
        """A value that changes with the trials and their epochs, attributes and kept weights."""
        count = sa.select(sa.func.count()).select_from(epochs).where(epochs.c.study_uid == self.uid)
        attributes = tables.trial_user_attributes.c
        attempt = sa.func.max(sa.case((attributes.key == studies.ATTEMPT_ATTR, attributes.value_json)))
        states = (
            sa.select(trials.c.trial_id, trials.c.state, attempt, sa.func.count(attributes.key))
            .outerjoin(tables.trial_user_attributes, attributes.trial_id == trials.c.trial_id)
            .where(trials.c.study_id == self._study._study_id)  # noqa: SLF001
            .group_by(trials.c.trial_id, trials.c.state)
        )
        with self._store.engine.connect() as connection:
            n_epochs = connection.execute(count).scalar_one()
            rows = frozenset(map(tuple, connection.execute(states)))
        return n_epochs, rows, frozenset(self.kept_ids())

    def record(self) -> StudyRecord | FinalsRecord:
        """The study with its trials, as stored now."""
        if self.is_search:
            return studies.study_record(self._store, self._study)
        return studies.finals_record(self._store, self._study)

    def parent_record(self) -> StudyRecord | None:
        """The search study of the parent run; None for the finals of the baselines."""
        return studies.study_record(self._store, self._search) if self._search else None

    def location(self, tracking_uri: str) -> Location | None:
        """The remembered experiment and parent run."""
        stored = _by_masked_uri(self._search or self._study, LOCATIONS_ATTR).get(masked(tracking_uri))
        return Location(**stored) if stored else None

    def remember(self, tracking_uri: str, location: Location) -> None:
        """Remember the experiment and the parent run."""
        study = self._search or self._study
        locations = _by_masked_uri(study, LOCATIONS_ATTR) | {masked(tracking_uri): location._asdict()}
        if study.user_attrs.get(LOCATIONS_ATTR) != locations:
            study.set_user_attr(LOCATIONS_ATTR, locations)

    def registered(self, tracking_uri: str) -> str | None:
        """The run whose model was registered and verified."""
        run_id: str | None = _by_masked_uri(self._study, REGISTERED_ATTR).get(masked(tracking_uri))
        return run_id

    def remember_registered(self, tracking_uri: str, run_id: str) -> None:
        """Remember that the model of a run is registered and verified."""
        stored = _by_masked_uri(self._study, REGISTERED_ATTR)
        self._study.set_user_attr(REGISTERED_ATTR, stored | {masked(tracking_uri): run_id})

    def record_run(self, trial: TrialRecord, run_id: str, model_id: str | None) -> None:
        """Remember the run and the logged model of a trial."""
        row = {"trial_id": trial.trial_id, "study_uid": self.uid, "run_id": run_id, "model_id": model_id}
        with self._store.engine.begin() as connection:
            for change in tables.replacement(tracked_runs, row):
                connection.execute(change)

    def kept_ids(self) -> set[int]:
        """Ids of the trials whose weights the store keeps."""
        ids = sa.select(weights.c.trial_id).where(weights.c.study_uid == self.uid)
        with self._store.engine.connect() as connection:
            return set(connection.execute(ids).scalars())

    def weights_of(self, trial: TrialRecord) -> bytes:
        """Weights of a trial as safetensors; UnusableConfiguration if they are missing or damaged."""
        return of_trial(self._store, trial.trial_id, f"trial {trial.number}")


def logged_studies(url: str, tracking_uri: str) -> dict[str, Location]:
    """Where the search studies of a store are in MLflow, by name, the latest last.

    A store that cannot be read has none: links to MLflow never change the outcome of a command.
    """
    found = {}
    with suppress(MnistSearchError, SQLAlchemyError, StorageInternalError, OSError):
        store = Store.open(url)
        for study in studies.mnist_search_studies(store):
            location = TrackedStudy(store, study.study_name).location(tracking_uri)
            if location is not None:
                found[study.study_name] = location
    return found
