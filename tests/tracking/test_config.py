"""Tracking configuration."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient
from support import MLFLOW_WARNINGS

from mnist_search.errors import UnusableConfiguration
from mnist_search.tracking.config import local_file, make_tracking_config
from mnist_search.tracking.setup import create_database


@pytest.mark.parametrize("uri", ["file:./mlruns", "./mlruns", "shopping list"])
def test_tracking_config_refuses_uris_that_cannot_store_runs(uri):
    with pytest.raises(UnusableConfiguration, match="MLflow cannot store runs in"):
        make_tracking_config(uri, "experiment")


@MLFLOW_WARNINGS
@pytest.mark.parametrize("name", ["who?", "100%25", "a#b", "a b"])
def test_database_lies_in_a_folder_of_any_name(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)

    config = make_tracking_config("sqlite:///mlflow.db", "experiment")
    file = tmp_path / name / "mlflow.db"

    assert local_file(config.tracking_uri) == file
    create_database(file)
    assert MlflowClient(config.tracking_uri).search_experiments()
    assert [path.name for path in (tmp_path / name).iterdir() if not path.name.startswith(".")] == [
        "mlflow.db"
    ]
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path / name] == []


@pytest.mark.usefixtures("store")
def test_tracking_config_refuses_another_database_and_leaves_it_unchanged(tmp_path):
    before = (tmp_path / "store.db").read_bytes()

    with pytest.raises(UnusableConfiguration, match="not an MLflow database"):
        make_tracking_config(f"sqlite:///{tmp_path}/store.db", "experiment")
    assert (tmp_path / "store.db").read_bytes() == before
