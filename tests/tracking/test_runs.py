"""Runs in a real MLflow."""

from __future__ import annotations

import os
import subprocess
import sys

from support import MLFLOW_WARNINGS, ROOT, UNNAMED_USER, needs_user_namespaces

from mnist_search.tracking.runs import delete_run, is_deleted, list_runs
from mnist_search.tracking.setup import open_tracking

pytestmark = MLFLOW_WARNINGS


def test_deleted_run_is_killed_and_listed_as_deleted(study, config, client):
    tracking = open_tracking(config, study)
    tags = {"study.uid": study.uid, "role": "trial", "trial": "3", "attempt": "a"}
    run_id = client.create_run(tracking.experiment_id, tags=tags).info.run_id

    delete_run(tracking, run_id)
    delete_run(tracking, run_id)  # twice is no error
    delete_run(tracking, "0" * 32)  # nor is a run that never existed

    (run,) = list_runs(tracking, study.uid, "trial")
    assert (run.info.run_id, run.info.status) == (run_id, "KILLED")
    assert (run.data.tags["trial"], run.data.tags["attempt"]) == ("3", "a")
    assert is_deleted(run)


@needs_user_namespaces
def test_user_is_unknown_when_the_uid_has_no_name(tmp_path):
    script = "from mnist_search.tracking.runs import user; print(user())"
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}  # neither USER nor LOGNAME

    process = subprocess.run(
        [*UNNAMED_USER, sys.executable, "-c", script],
        env=environ, capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip

    assert process.stdout.strip() == "unknown"
