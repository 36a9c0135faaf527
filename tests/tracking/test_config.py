"""Tracking configuration."""

from __future__ import annotations

import pytest

from mnist_search.errors import UnusableConfiguration
from mnist_search.tracking.config import make_tracking_config


@pytest.mark.parametrize("uri", ["file:./mlruns", "./mlruns", "shopping list"])
def test_tracking_config_refuses_uris_that_cannot_store_runs(uri):
    with pytest.raises(UnusableConfiguration, match="MLflow cannot store runs in"):
        make_tracking_config(uri, "experiment")


@pytest.mark.usefixtures("store")
def test_tracking_config_refuses_another_database_and_leaves_it_unchanged(tmp_path):
    before = (tmp_path / "store.db").read_bytes()

    with pytest.raises(UnusableConfiguration, match="not an MLflow database"):
        make_tracking_config(f"sqlite:///{tmp_path}/store.db", "experiment")
    assert (tmp_path / "store.db").read_bytes() == before
