"""No password of a URL is printed, logged or stored."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from support import MLFLOW_WARNINGS, ROOT, UNNAMED_USER, free_port, needs_user_namespaces

from mnist_search.search.study import SearchStudy
from mnist_search.storage.tracked import LOCATIONS_ATTR, REGISTERED_ATTR, Location, TrackedStudy

CANARY = "c4n4ry"
TRACKING = f"http://user:{CANARY}@127.0.0.1:1"
POSTGRES = f"postgresql://user:{CANARY}@127.0.0.1:1/database"
QUICK = (
    *("--budget", "1500", "--trials", "1", "--epochs", "1", "--train-images", "1000", "--val-images", "100"),
    *("--device", "cpu", "--jobs", "1", "--pruner", "none", "--warm-start", "none"),
)


def assert_secret(done):
    assert CANARY not in done.out + done.err
    assert done.out + done.err


@pytest.mark.slow
def test_search_shows_and_stores_no_password_of_the_tracking_server(command, mnist_dir, tmp_path):
    environment = {"MNIST_SEARCH_DATA": str(mnist_dir), "MLFLOW_TRACKING_URI": TRACKING}

    run = command("--verbose", "run", *QUICK, **environment)
    status = command("status", "-f", "json", **environment)
    explain = command("explain", "budget-1500", "0", "-f", "json", **environment)

    assert (run.code, status.code, explain.code) == (0, 0, 0), run.err
    assert "cannot write to MLflow" in run.err
    for done in (run, status, explain):
        assert_secret(done)
    assert json.loads(status.out)["trials_done"] == 1
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert stored == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", *QUICK),
        ("--debug", "status"),
        ("status",),
        ("studies", "-f", "json"),
        ("init",),
        ("export", "budget-1500"),
        ("resume", "budget-1500"),
    ],
    ids=" ".join,
)
def test_error_of_an_unreachable_database_shows_no_password(mnist_dir, monkeypatch, arguments):
    monkeypatch.setenv("MNIST_SEARCH_DATA", str(mnist_dir))
    limit = "from mnist_search.storage import database; database.MAX_WAIT_SECONDS = 0.1"
    start = f"{limit}; from mnist_search.cli.app import main; main()"

    process = subprocess.run(
        [sys.executable, "-c", start, *arguments, "--storage", POSTGRES],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert process.returncode not in {0, -signal.SIGKILL}
    assert CANARY not in process.stdout + process.stderr
    assert "Connection refused" in process.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--storage", f"mysql://user:{CANARY}@host/database"),
        ("status", "--storage", f"postgresql://user:{CANARY}@host:port/database"),
        ("status", "--storage", f"postgresql://127.0.0.1:1/database?user=u&password={CANARY}"),
        ("run", *QUICK, "--tracking-uri", f"http//user:{CANARY}@host"),
        ("ui", "--tracking-uri", TRACKING),
    ],
    ids=lambda arguments: arguments[-1].partition(":")[0] + arguments[0],
)
def test_refused_url_is_shown_without_its_password(command, mnist_dir, arguments):
    done = command(*arguments, MNIST_SEARCH_DATA=str(mnist_dir))

    assert done.code != 0
    assert_secret(done)


def test_store_names_a_tracking_server_without_its_password(store, study_config):
    SearchStudy.open_or_create(store, "s", study_config, 1)
    study = TrackedStudy(store, "s")

    study.remember(TRACKING, Location("1", "run"))
    study.remember_registered(TRACKING, "run")

    assert CANARY not in str(study._study.user_attrs)
    assert study.location(TRACKING) == Location("1", "run")
    assert study.registered(TRACKING) == "run"


def test_password_that_an_older_version_stored_is_removed(store, study_config):
    search_study = SearchStudy.open_or_create(store, "s", study_config, 1)
    location = Location("1", "run")
    search_study.study.set_user_attr(LOCATIONS_ATTR, {TRACKING: location._asdict()})
    search_study.study.set_user_attr(REGISTERED_ATTR, {TRACKING: "run"})
    study = TrackedStudy(store, "s")

    assert (study.location(TRACKING), study.registered(TRACKING)) == (location, "run")
    study.remember(TRACKING, location)

    assert CANARY not in str(study._study.user_attrs[LOCATIONS_ATTR])


@MLFLOW_WARNINGS
def test_ui_on_a_port_that_is_taken_fails_with_one_line(command, empty_database, tmp_path):
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    port = free_port()

    with socket.create_server(("127.0.0.1", port)):
        done = command("ui", "--port", str(port))

    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert f"cannot listen on port {port}: Address already in use; choose another with --port" in done.err


@MLFLOW_WARNINGS
def test_ui_of_a_study_that_was_never_logged_fails_with_one_line(command, empty_database, tmp_path):
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())

    done = command("ui", "none")

    assert (done.code, done.out, done.err.count("\n")) == (66, "", 1)
    assert "study 'none' is not in sqlite:///" in done.err


@needs_user_namespaces
def test_ui_on_a_reserved_port_fails_with_one_line(empty_database, tmp_path):
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())

    done = subprocess.run(
        [*UNNAMED_USER, sys.executable, "-m", "mnist_search", "ui", "--port", "1"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "cannot listen on port 1: Permission denied; choose another with --port" in done.stderr
