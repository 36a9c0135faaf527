"""Experiment and parent run in a real MLflow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from support import MLFLOW_WARNINGS, ROOT, free_port

from mnist_search.tracking.config import make_tracking_config
from mnist_search.tracking.setup import ParentRun, parent_run, prepare

pytestmark = MLFLOW_WARNINGS

UNNAMED_USER = ["unshare", "--user", "--map-user=10001", "--map-group=10001"]


def has_user_namespaces():
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNNAMED_USER, "true"], capture_output=True, check=False).returncode == 0


def test_prepare_finds_the_same_parent_run_when_repeated(local, make_tracker):
    _, config = local

    _, repeated = make_tracker(config.tracking_uri)

    assert repeated == config


def test_parent_run_has_the_study_config_as_params(local, client, record):
    run = client.get_run(local[1].parent_run_id)

    assert run.data.params["budget"] == str(record.config.budget)
    assert run.data.params["width"] == str(record.config.space.width)
    assert (run.data.tags["role"], run.data.tags["study.uid"], run.data.tags["study"]) == (
        "study",
        "u-1",
        "s",
    )


def test_prepare_returns_none_when_the_server_is_unreachable(record, warnings, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = make_tracking_config(f"http://127.0.0.1:{free_port()}", "experiment")

    assert prepare(config, parent_run(record), warnings.append) is None
    assert len(warnings) == 1


def test_prepare_replaces_a_partly_created_database(tmp_path):
    file = tmp_path / "mlflow.db"
    (tmp_path / ".mlflow.db.new").write_bytes(b"half of a database")
    config = make_tracking_config(f"sqlite:///{file}", "experiment")

    prepared = prepare(config, ParentRun("uid", "study", {}), pytest.fail)

    assert prepared is not None
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.skipif(
    not has_user_namespaces(), reason="needs user namespaces (unshare), to run under a uid without a name"
)
def test_user_is_unknown_when_the_uid_has_no_name(tmp_path):
    script = "from mnist_search.tracking.runs import user; print(user())"
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}  # neither USER nor LOGNAME

    process = subprocess.run(
        [*UNNAMED_USER, sys.executable, "-c", script],
        env=environ, capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip

    assert process.stdout.strip() == "unknown"
