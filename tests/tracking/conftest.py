"""Fixtures for a search study and a real MLflow on SQLite."""

from __future__ import annotations

import shutil

import pytest

from mnist_search.search.study import SearchStudy
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import make_tracking_config


@pytest.fixture
def config(empty_database, tmp_path):
    """A configuration for a new database of MLflow."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return make_tracking_config(f"sqlite:///{tmp_path}/mlflow.db", "experiment")


@pytest.fixture
def client(config):
    from mlflow.tracking import MlflowClient

    return MlflowClient(config.tracking_uri)


@pytest.fixture
def search_study(store, study_config):
    return SearchStudy.open_or_create(store, "s", study_config, n_trials=10)


@pytest.fixture
def study(search_study, store):
    """The search study as the sync reads it."""
    return TrackedStudy(store, search_study.name)


@pytest.fixture
def messages():
    return []


@pytest.fixture
def make_sync(store, config, messages, mnist_dir):
    """Make a StudySync, as a new process does; it logs models without delay."""
    from mnist_search.tracking.sync import StudySync

    def make(name="s", *, data_dir=mnist_dir, config=config, model_seconds=0):
        tracked = TrackedStudy(store, name)
        return StudySync(tracked, config, data_dir, messages.append, model_seconds=model_seconds)

    return make
