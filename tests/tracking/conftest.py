"""Fixtures for a real MLflow on SQLite."""

from __future__ import annotations

import pytest

from mnist_search.records import StudyRecord
from mnist_search.tracking.config import make_tracking_config


@pytest.fixture
def record(study_config) -> StudyRecord:
    return StudyRecord(name="s", uid="u-1", config=study_config, n_trials=5, trials=[])


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def make_tracker(record, warnings):
    from mnist_search.tracking.mlflow_tracker import MlflowTracker
    from mnist_search.tracking.setup import parent_run, prepare

    def make(uri, **settings):
        config = prepare(make_tracking_config(uri, "experiment"), parent_run(record), warnings.append)
        return MlflowTracker(config, "s", warnings.append, **settings), config

    return make


@pytest.fixture
def local(make_tracker, tmp_path):
    """A tracker with a SQLite database, and its configuration."""
    return make_tracker(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def client(local):
    from mlflow.tracking import MlflowClient

    return MlflowClient(local[1].tracking_uri)
