"""Links to the runs of studies in MLflow."""

from __future__ import annotations

import pytest

from mnist_search.cli.links import local_server, study_links
from mnist_search.cli.outcome import print_link
from mnist_search.search.study import SearchStudy
from mnist_search.storage.tracked import Location, TrackedStudy
from mnist_search.tracking.config import make_tracking_config

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


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize(
    ("uri", "lines"),
    [
        (
            URI,
            ["compare runs with: mnist-search ui", "runs in MLflow: http://127.0.0.1:5000/#/experiments/7/"],
        ),
        (
            "http://user:secret@tracking:5000",
            ["runs in MLflow: http://user:***@tracking:5000/#/experiments/7/"],
        ),
        ("http://other:5000", []),  # the study was not logged there
        ("postgresql://user@tracking/mlflow", []),
    ],
)
def test_a_search_ends_with_the_link_to_its_runs(store, capsys, uri, lines):
    TrackedStudy(store, "b").remember("http://user:secret@tracking:5000", Location("7", "abc"))

    print_link("b", store.url, make_tracking_config(uri, "experiment"))

    printed = capsys.readouterr().err.splitlines()
    assert [line[: len(start)] for line, start in zip(printed, lines, strict=True)] == lines


def test_store_that_cannot_be_read_gives_no_links(tmp_path):
    assert study_links(f"sqlite:///{tmp_path}/none.db", URI, local_server()) == {}
