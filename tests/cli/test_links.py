"""Links to the runs of studies in MLflow."""

from __future__ import annotations

import pytest

from mnist_search.cli.links import local_server, study_links
from mnist_search.search.study import SearchStudy
from mnist_search.storage.tracked import Location, TrackedStudy

URI = "sqlite:////folder/mlflow.db"


@pytest.fixture
def logged(store, study_config):
    """Two studies, of which the second was logged to MLflow."""
    for name in ("a", "b"):
        SearchStudy.open_or_create(store, name, study_config, n_trials=1)
    TrackedStudy(store, "b").remember(URI, Location("7", "abc"))


@pytest.mark.usefixtures("logged")
def test_studies_that_were_logged_have_a_link(store):
    links = study_links(store.url, URI, local_server(5001))

    assert links.keys() == {"b"}
    assert links["b"].startswith("http://127.0.0.1:5001/#/experiments/7/runs?")
    assert "mnist-search-abc" in links["b"]


@pytest.mark.usefixtures("logged")
def test_link_shows_no_password(store):
    server = "http://user:secret@tracking:5000"
    TrackedStudy(store, "a").remember(server, Location("1", "def"))

    links = study_links(store.url, server, server)

    assert "secret" not in links["a"]


def test_store_that_cannot_be_read_gives_no_links(tmp_path):
    assert study_links(f"sqlite:///{tmp_path}/none.db", URI, local_server()) == {}
